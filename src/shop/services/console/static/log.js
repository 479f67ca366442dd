// The log page: new rows are held while the reader scrolls or reads an event, and old rows are dropped.
(() => {
  const MOST = 500;
  const events = document.getElementById("events");
  const held = document.querySelector(".held");
  const state = document.querySelector("[data-stream-state]");
  let waiting = [];
  let reading = false;

  function scrolled() {
    return window.scrollY > 80;
  }

  function show() {
    held.hidden = !waiting.length;
    document.querySelector("[data-held]").textContent = count();
    if (state && state.dataset.streamState !== "lost") state.dataset.streamState = scrolled() || reading ? "paused" : "live";
  }

  function count() {
    return waiting.reduce((sum, html) => sum + html.split('class="event"').length - 1, 0);
  }

  function trim() {
    while (events.children.length > MOST) events.lastElementChild.remove();
    document.querySelector("[data-empty]")?.remove();
  }

  function release() {
    for (const html of waiting) events.insertAdjacentHTML("afterbegin", html);
    waiting = [];
    htmx.process(events);
    trim();
    show();
  }

  events.addEventListener("htmx:sse:before:message", (event) => {
    if (event.detail.message.event || !(scrolled() || reading)) return;
    event.preventDefault();
    waiting.push(event.detail.message.data);
    if (waiting.length > MOST) waiting.shift();
    show();
  });
  events.addEventListener("htmx:sse:after:message", () => { trim(); show(); });

  window.addEventListener("scroll", () => {
    if (!scrolled() && !reading && waiting.length) release();
    else show();
  }, { passive: true });

  events.addEventListener("click", (event) => {
    const row = event.target.closest(".event");
    if (!row) return;
    for (const each of events.querySelectorAll("[aria-current]")) each.removeAttribute("aria-current");
    row.setAttribute("aria-current", "true");
  });
  // A row that the keyboard is on must not move away.
  events.addEventListener("focusin", (event) => { reading = event.target.matches(":focus-visible"); show(); });
  events.addEventListener("focusout", () => { reading = false; if (!scrolled()) release(); });

  document.querySelector("[data-resume]").addEventListener("click", () => {
    window.scrollTo({ top: 0 });
    release();
  });
})();
