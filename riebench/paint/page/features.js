// The features of a site: sorted and searched lists, and the features active at a place.
import { ask } from "./api.js";
import { closeCard, isOpen, openCard, whenOpened } from "./card.js";
import { addLayer, remember } from "./known.js";
import { askedState, work } from "./pictures.js";
import { showHeat, whenLooked } from "./stage.js";
import { say, sayWrong } from "./status.js";
import { siteFacts, store, subscribe } from "./store.js";

const list = byId("list"), site = byId("site"), sort = byId("sort"), query = byId("query");
let requests = 0, rows = [], matches = 0, active = null, model = null;

const share = (value) => (value === 0 ? "0 %" : `${(100 * value).toFixed(value < 0.001 ? 3 : value < 0.01 ? 2 : 1)} %`);
const scoreName = () => siteFacts(site.value)?.score_name;

// ---- lists --------------------------------------------------------------------------------------------------------
async function refresh(more = false) {
  if (active) return;
  const number = (requests += 1), begin = more ? rows.length : 0;
  try {
    const answer = await ask("/api/features", { query: { model: store.state.model, site: site.value, find: query.value, sort: sort.value, start: begin } });
    if (number !== requests || active) return;
    rows = more ? [...rows, ...answer.rows] : answer.rows;
    matches = answer.matches;
    rows.forEach((row) => remember(site.value, row));
    byId("count").textContent = `${matches} of ${answer.total} features`;
    draw(!more);
    if (more) list.querySelectorAll(".choose")[begin]?.focus();
  } catch (error) {
    if (error.status) sayWrong(error.message);
  }
}
function facts(row) {
  const parts = [];
  if (row.code !== undefined) parts.push(`value ${shown(row.code, 1)}`);
  parts.push(`density ${share(row.density)}`);
  if (row.mean !== null && row.code === undefined) parts.push(`mean ${shown(row.mean, 1)}`);
  return parts.join(" · ");
}
function featureRow(row) {
  const name = row.description ?? row.label ?? (row.mean === null ? "never active" : "no label");
  const value = row.code !== undefined ? `${shown(row.code / row.mean, 1)} ×` : scoreName() ? shown(row.score, 2) : "";
  const choose = element("button", { type: "button", class: "choose", tabindex: -1 },
    element("span", { class: "number", text: row.number }),
    element("span", { class: "name", text: name }), element("span", { class: "value", text: value }),
    element("span"), element("span", { class: "facts", text: facts(row) }));
  choose.addEventListener("click", () => openCard(site.value, row.number));
  if (row.heat) {
    const light = () => showHeat({ cells: row.heat, rows: active.grid[0], columns: active.grid[1], row: active.row, column: active.column });
    choose.addEventListener("mouseenter", light);
    choose.addEventListener("focus", light);
  }
  const add = element("button", { type: "button", class: "add", text: "+", tabindex: -1, "aria-label": `add a layer with feature ${row.number}`, title: "add a layer" });
  add.disabled = row.mean === null;
  add.addEventListener("click", () => addLayer(site.value, row));
  return element("div", { class: `row${isOpen(site.value, row.number) ? " open" : ""}`, "data-number": row.number }, choose, add);
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

// ---- active here --------------------------------------------------------------------------------------------------
async function look(place, ofBase) {
  const stop = new AbortController(), done = work(stop), state = askedState();
  try {
    const answer = await ask("/api/active", { body: { state: ofBase ? { ...state, layers: [] } : state, site: site.value, ...place }, signal: stop.signal });
    active = answer;
    rows = answer.features;
    rows.forEach((row) => remember(answer.site, row));
    byId("find-title").textContent = "Active here";
    byId("all").hidden = false;
    byId("count").textContent = `row ${answer.row + 1}, column ${answer.column + 1} of ${answer.grid[0]} x ${answer.grid[1]}`;
    draw(true);
    const first = rows[0];
    showHeat({ cells: first?.heat ?? [], rows: answer.grid[0], columns: answer.grid[1], row: answer.row, column: answer.column });
    say(first ? `most active here: feature ${first.number} ${first.label ?? ""}` : "no feature is active here");
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
  for (const row of list.querySelectorAll(".row")) row.classList.toggle("open", isOpen(site.value, Number(row.dataset.number)));
});
function takeModel() {
  model = store.state.model;
  site.replaceChildren(...store.facts.sites.map((facts) => element("option", { value: facts.site, text: facts.site })));
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
