// What the pages share: the theme, keys, copying, the state of a stream. Pages do the rest with htmx's attributes.
(() => {
  const root = document.documentElement;
  const THEMES = ["system", "light", "dark"];

  function theme() {
    return root.dataset.theme || "system";
  }

  function showTheme() {
    for (const each of document.querySelectorAll("[data-theme-name]")) each.textContent = theme();
  }

  function tell(text) {
    const told = document.getElementById("told");
    told.textContent = text;
    told.dataset.shown = "";
    clearTimeout(tell.timer);
    tell.timer = setTimeout(() => delete told.dataset.shown, 2500);
  }

  document.addEventListener("click", async (event) => {
    const at = event.target.closest("[data-theme-switch], [data-copy], [data-open], [data-close]");
    if (!at) return;
    if (at.matches("[data-theme-switch]")) {
      const next = THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length];
      if (next === "system") delete root.dataset.theme;
      else root.dataset.theme = next;
      localStorage.setItem("theme", next);
      showTheme();
      document.dispatchEvent(new CustomEvent("theme"));
    } else if (at.matches("[data-copy]")) {
      try {
        await navigator.clipboard.writeText(at.dataset.copy);
        tell("Copied");
      } catch {
        tell("The browser does not allow to copy here");
      }
    } else if (at.matches("[data-open]")) {
      document.getElementById(at.dataset.open)?.showModal();
    } else if (at.matches("[data-close]")) {
      at.closest("dialog")?.close();
    }
  });

  // "/" goes to the page's search, as in many consoles; not while somebody writes.
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select, [contenteditable]")) return;
    const search = document.querySelector("[data-search]");
    if (!search) return;
    event.preventDefault();
    search.focus();
    search.select?.();
  });

  // Whether what is shown is live. An element with data-stream-state shows it.
  function state(name) {
    for (const each of document.querySelectorAll("[data-stream-state]")) each.dataset.streamState = name;
  }
  document.addEventListener("htmx:sse:after:connection", () => state("live"));
  document.addEventListener("htmx:sse:after:message", () => state("live"));
  document.addEventListener("htmx:sse:error", () => state("lost"));
  document.addEventListener("htmx:sse:close", () => state("lost"));

  // A part that could not be fetched says so, instead of doing nothing.
  document.addEventListener("htmx:error", () => tell("The console does not answer"));

  showTheme();
  window.consoleTell = tell;
})();
