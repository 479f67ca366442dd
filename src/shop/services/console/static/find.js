// The page that finds: the row that is open is marked.
(() => {
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-row]");
    if (!link) return;
    for (const each of document.querySelectorAll(".found tr[aria-current]")) each.removeAttribute("aria-current");
    link.closest("tr").setAttribute("aria-current", "true");
  });
})();
