// What lists and cards say of features, and adding a feature as a layer.
import { ask } from "./api.js";
import { newMask, showHeat } from "./stage.js";
import { say, sayWrong } from "./status.js";
import { commit, siteFacts, store, subscribe } from "./store.js";

const known = new Map(); // model, site and number to the row of a feature
const key = (site, number) => `${store.state.model} ${site} ${number}`;
const listeners = [];
export const rowOf = (site, number) => known.get(key(site, number));
export const remember = (site, row) => known.set(key(site, row.number), row);
// Called when features of layers that came with a link are known.
export const whenLearned = (listener) => listeners.push(listener);

export function addLayer(site, row) {
  const most = store.facts.limits.layers, { layers } = store.state;
  if (layers.length >= most) return sayWrong(`There are ${most} layers already, the most.`);
  showHeat(null);
  document.querySelector("input[name=tool][value=paint]").checked = true;
  store.selected = layers.length;
  commit({ layers: [...layers, { site, feature: row.number, sae: siteFacts(site).sae, unit: row.mean, strength: 8, mask: newMask(site), steps: null, on: true }] });
  say(`layer ${store.state.layers.length}: feature ${row.number}; now paint on the picture`);
  return undefined;
}
async function learn() {
  const unknown = store.state.layers.filter((layer) => !rowOf(layer.site, layer.feature));
  for (const layer of unknown) {
    try { remember(layer.site, await ask("api/feature", { query: { model: store.state.model, site: layer.site, number: layer.feature } })); } catch { /* the server says it with the picture */ }
  }
  if (unknown.length) listeners.forEach((listener) => listener());
}
subscribe((kind) => { if (kind === "committed") learn(); });
