// Light or dark: as the system says, or as was chosen.
const select = byId("theme"), KEY = "riebench-paint-theme";
function apply(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  select.value = theme;
}
let kept = "auto";
try { kept = localStorage.getItem(KEY) ?? "auto"; } catch { /* storage may be off */ }
apply(["light", "dark"].includes(kept) ? kept : "auto");
select.addEventListener("change", () => {
  apply(select.value);
  try { localStorage.setItem(KEY, select.value); } catch { /* it holds until the page is closed */ }
});
