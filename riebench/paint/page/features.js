// The features of a site: sorted and searched lists, and the features active at a place.
import { ask } from "./api.js";
import { closeCard, isOpen, openCard, whenOpened } from "./card.js";
import { addLayer, remember } from "./known.js";
import { askedState, work } from "./pictures.js";
import { showHeat, whenLooked } from "./stage.js";
import { say, sayWrong } from "./status.js";
import { siteFacts, store, subscribe } from "./store.js";

const list = byId("list"), site = byId("site"), sort = byId("sort"), query = byId("query");
let requests = 0, rows = [], matches = 0, model = null;
let active = null; // the place whose active features are listed

const share = (value) => (value === 0 ? "0 %" : `${(100 * value).toFixed(value < 0.001 ? 3 : value < 0.01 ? 2 : 1)} %`);
const scoreName = () => (siteFacts(site.value) ?? store.facts.sites[0]).score_name; // the value "" is all sites

// ---- lists --------------------------------------------------------------------------------------------------------
async function refresh(more = false) {
  if (active) return;
  const number = (requests += 1), begin = more ? rows.length : 0;
  try {
    const answer = await ask("api/features", { query: { model: store.state.model, site: site.value, find: query.value, sort: sort.value, start: begin } });
    if (number !== requests || active) return;
    rows = more ? [...rows, ...answer.rows] : answer.rows;
    matches = answer.matches;
    rows.forEach((row) => remember(row.site, row));
    byId("count").textContent = `${matches} of ${answer.total} features`;
    draw(!more);
    if (more) list.querySelectorAll(".choose")[begin]?.focus();
  } catch (error) {
    if (error.status) sayWrong(error.message);
  }
}
function facts(row) {
  const parts = site.value ? [] : [row.site];
  if (row.code !== undefined) parts.push(`value ${shown(row.code, 1)}`);
  parts.push(`density ${share(row.density)}`);
  if (row.mean !== null && row.code === undefined) parts.push(`mean ${shown(row.mean, 1)}`);
  return parts.join(" · ");
}
function featureRow(row) {
  const name = row.description ?? row.label ?? (row.mean === null ? "never active" : "no label");
  const value = row.code !== undefined ? `${shown(row.mean && row.code / row.mean, 1)} ×` : scoreName() ? shown(row.score, 2) : "";
  const choose = element("button", { type: "button", class: "choose", tabindex: -1 },
    element("span", { class: "number", text: row.number }),
    element("span", { class: "name", text: name }), element("span", { class: "value", text: value }),
    element("span"), element("span", { class: "facts", text: facts(row) }));
  choose.addEventListener("click", () => openCard(row.site, row.number));
  if (row.heat) {
    const light = () => showHeat(heatAt(row, active));
    choose.addEventListener("mouseenter", light);
    choose.addEventListener("focus", light);
  }
  const add = element("button", { type: "button", class: "add", text: "+", tabindex: -1, "aria-label": `add a layer with feature ${row.number}`, title: "add a layer" });
  add.disabled = row.mean === null;
  add.addEventListener("click", () => addLayer(row.site, row));
  return element("div", { class: `row${isOpen(row.site, row.number) ? " open" : ""}`, "data-number": row.number, "data-site": row.site }, choose, add);
}
function draw(first) {
  byId("value-name").textContent = active ? "in means" : scoreName() ?? "";
  const scroll = list.scrollTop;
  list.replaceChildren(...rows.map(featureRow));
  reachByTab(list.querySelector(".row.open") ?? list.querySelector(".row"));
  if (!rows.length) list.append(element("p", { class: "empty", text: active ? "No feature is active at this place." : "No feature fits." }));
  if (!active && rows.length < matches) {
    const more = element("button", { type: "button", text: `more (${matches - rows.length} left)` });
    more.addEventListener("click", () => refresh(true));
    list.append(element("p", { class: "empty" }, more));
  }
  list.scrollTop = first ? 0 : scroll;
}
// The Tab key comes to one row only, so that the picture is not hundreds of keys away; arrows go to the others.
function reachByTab(row) {
  for (const button of list.querySelectorAll(".row > [tabindex='0']")) button.tabIndex = -1;
  for (const button of row?.children ?? []) button.tabIndex = 0;
}
list.addEventListener("focusin", (event) => { if (event.target.closest(".row")) reachByTab(event.target.closest(".row")); });
list.addEventListener("keydown", (event) => {
  if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
  const column = document.activeElement.classList.contains("add") ? ".add" : ".choose", all = [...list.querySelectorAll(`.row > ${column}`)];
  const next = all[all.indexOf(document.activeElement) + (event.key === "ArrowDown" ? 1 : -1)];
  if (next) { event.preventDefault(); next.focus(); }
});

function heatAt(row, place) {
  const [high, wide] = row.grid;
  return { cells: row.heat, rows: high, columns: wide, row: Math.floor(place.y * high), column: Math.floor(place.x * wide) };
}
// ---- active here --------------------------------------------------------------------------------------------------
async function look(place, ofBase) {
  const stop = new AbortController(), done = work(stop), state = askedState();
  try {
    const answer = await ask("api/active", { body: { state: ofBase ? { ...state, layers: [] } : state, site: site.value, ...place }, signal: stop.signal });
    active = place;
    rows = answer.features;
    rows.forEach((row) => remember(row.site, row));
    byId("find-title").textContent = "Active here";
    byId("all").hidden = false;
    const grid = siteFacts(answer.site)?.grid, first = rows[0], none = { heat: [], grid: grid ?? [8, 8] };
    const { rows: high, columns: wide, row, column } = heatAt(grid ? none : first ?? none, place);
    byId("count").textContent = grid ? `row ${row + 1}, column ${column + 1} of ${high} x ${wide}` : `all sites at ${Math.round(100 * place.x)} %, ${Math.round(100 * place.y)} %`;
    draw(true);
    showHeat(heatAt(first ?? none, place));
    say(first ? `most active here: feature ${first.number} ${first.label ?? ""}${grid ? "" : ` at ${first.site}`}` : "no feature is active here");
  } catch (error) {
    if (error.status && error.status !== 409) sayWrong(error.message);
  } finally { done(); }
}
whenLooked(look);
function showAll() {
  active = null;
  byId("find-title").textContent = "Features";
  byId("all").hidden = true;
  showHeat(null);
  refresh();
}
byId("all").addEventListener("click", () => { showAll(); query.focus(); });

// ---- the open card and the model ----------------------------------------------------------------------------------
whenOpened(() => {
  for (const row of list.querySelectorAll(".row")) row.classList.toggle("open", isOpen(row.dataset.site, Number(row.dataset.number)));
});
function takeModel() {
  model = store.state.model;
  site.replaceChildren(element("option", { value: "", text: "all sites" }), ...store.facts.sites.map((facts) => element("option", { value: facts.site, text: facts.site })));
  site.value = store.facts.sites[0].site;
  const scored = Boolean(store.facts.sites[0].score_name);
  sort.querySelector("[value=score]").hidden = !scored;
  sort.value = scored ? "score" : "density";
  closeCard();
}
let typed = null;
query.addEventListener("input", () => { clearTimeout(typed); typed = setTimeout(showAll, 150); });
sort.addEventListener("change", showAll);
site.addEventListener("change", showAll);
subscribe(() => {
  if (model !== store.state.model) {
    takeModel();
    showAll();
  }
});
