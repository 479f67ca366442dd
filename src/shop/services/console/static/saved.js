// Filters with a name, kept by this browser alone.
(() => {
  const form = document.querySelector("form[data-saved]");
  const list = document.querySelector("[data-saved-list]");
  if (!form || !list) return;
  const place = `filters:${form.dataset.saved}`;
  const naming = list.querySelector("[data-name-filter]");
  const name = list.querySelector("input");

  function kept() {
    try {
      const found = JSON.parse(localStorage.getItem(place) || "[]");
      return Array.isArray(found) ? found.filter((each) => typeof each.name === "string" && typeof each.query === "string") : [];
    } catch {
      return [];
    }
  }

  function query() {
    const given = new URLSearchParams();
    for (const [key, value] of new FormData(form)) if (value) given.append(key, value);
    return given.toString();
  }

  function keep(filters) {
    localStorage.setItem(place, JSON.stringify(filters.slice(-12)));
    show();
  }

  function show() {
    const chips = list.querySelector("[data-saved-chips]");
    chips.replaceChildren(...kept().map((each) => {
      const chip = document.createElement("span");
      chip.className = "chip";
      const link = document.createElement("a");
      link.href = `${form.getAttribute("action")}?${each.query}`;
      link.textContent = each.name;
      const drop = document.createElement("button");
      drop.type = "button";
      drop.textContent = "×";
      drop.setAttribute("aria-label", `Forget the filter ${each.name}`);
      drop.addEventListener("click", () => {
        keep(kept().filter((other) => other.name !== each.name));
        list.querySelector("[data-save-filter]").focus();
      });
      chip.append(link, drop);
      return chip;
    }));
    list.hidden = false;
  }

  function save() {
    const called = name.value.trim();
    if (!called) return;
    keep([...kept().filter((each) => each.name !== called), { name: called, query: query() }]);
    name.value = "";
    naming.hidden = true;
    list.querySelector("[data-save-filter]").focus();
    window.consoleTell?.("Saved in this browser");
  }

  list.querySelector("[data-save-filter]").addEventListener("click", () => {
    naming.hidden = false;
    name.focus();
  });
  list.querySelector("[data-keep-filter]").addEventListener("click", save);
  name.addEventListener("keydown", (event) => {
    if (event.key === "Enter") { event.preventDefault(); save(); }
    if (event.key === "Escape") naming.hidden = true;
  });
  show();
})();
