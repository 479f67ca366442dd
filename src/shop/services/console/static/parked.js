// The page of parked keys: ticking them. Without this script, ticking one after the other still works.
(() => {
  const form = document.getElementById("acts");
  const all = form?.querySelector("[data-all]");
  if (!all) return;
  const boxes = [...form.querySelectorAll('input[name="id"]')];

  function show() {
    const count = boxes.filter((each) => each.checked).length;
    all.checked = count === boxes.length;
    all.indeterminate = count > 0 && count < boxes.length;
    form.querySelector("[data-ticked]").textContent = count ? `${count} ticked` : "None is ticked";
    for (const each of form.querySelectorAll("[data-some]")) each.disabled = !count;
  }

  all.addEventListener("change", () => {
    for (const each of boxes) each.checked = all.checked;
    show();
  });
  form.addEventListener("change", show);
  window.addEventListener("pageshow", show);
  show();
})();
