// The charts of the flow page. Each look adds a point; only the last five minutes are kept.
(() => {
  const charts = document.querySelector("[data-points]");
  const KEPT = 600;
  const columns = JSON.parse(charts.dataset.points);
  const points = columns.length ? columns : [[], [], [], [], []];
  const resolved = (name) => {
    // light-dark() is resolved only where it is used.
    const probe = document.createElement("i");
    probe.className = `probe-${name}`;
    charts.append(probe);
    probe.style.color = `var(--${name})`;
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };
  let made = [];

  function axes() {
    const soft = resolved("soft");
    const line = resolved("line");
    const shared = { stroke: soft, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    return [
      // By the clock of UTC, as every time here.
      { ...shared, space: 80, values: (_, all) => all.map((each) => new Date(each * 1000).toISOString().slice(11, 19)) },
      { ...shared, size: 44, space: 34, values: (_, all) => all.map((each) => (each >= 1000 ? `${each / 1000}k` : each)) },
    ];
  }

  function make(name, series, rows) {
    const at = charts.querySelector(`[data-chart="${name}"]`);
    at.replaceChildren();
    const options = {
      width: at.clientWidth, height: at.clientHeight, legend: { show: false }, cursor: { show: false },
      scales: { x: { time: true }, y: { range: (_, __, most) => [0, Math.max(5, most * 1.15)] } },
      axes: axes(),
      series: [{}, ...series.map(([key, dash]) => ({ stroke: resolved(key), width: 2, dash, points: { show: false } }))],
    };
    const chart = new uPlot(options, rows(), at);
    return { chart, rows, at };
  }

  function draw() {
    for (const each of made) each.chart.destroy();
    made = [
      make("rates", [["accent"], ["soft", [8, 5]], ["move", [2, 4]]], () => [points[0], points[1], points[2], points[3]]),
      make("waiting", [["warn"]], () => [points[0], points[4]]),
    ];
  }

  document.getElementById("flow").addEventListener("point", (event) => {
    JSON.parse(event.detail.data).forEach((value, index) => {
      points[index].push(value);
      if (points[index].length > KEPT) points[index].shift();
    });
    for (const each of made) each.chart.setData(each.rows());
  });
  document.addEventListener("theme", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  new ResizeObserver(() => {
    for (const each of made) each.chart.setSize({ width: each.at.clientWidth, height: each.at.clientHeight });
  }).observe(charts);
  draw();
})();
