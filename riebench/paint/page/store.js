// The state of the page, its history, and the listeners to changes.
const listeners = [];
const past = [], future = [];
const MOST = 300;
let before = null; // the state before an unfinished change
export const store = { state: null, selected: -1, models: [], facts: null };

export const subscribe = (listener) => listeners.push(listener);
const tell = (kind) => listeners.forEach((listener) => listener(kind));

export function start(models, state) {
  store.models = models;
  take(state);
  tell("committed");
}
function take(state) {
  store.state = state;
  store.facts = store.models.find((model) => model.name === state.model);
  store.selected = Math.min(Math.max(store.selected, state.layers.length ? 0 : -1), state.layers.length - 1);
}
// An unfinished change, such as a stroke: it is shown, and becomes a step of undo with commit.
export function preview(change) {
  before ??= store.state;
  take({ ...store.state, ...change });
  tell("preview");
}
export function commit(change = {}) {
  const first = before ?? store.state;
  before = null;
  const next = { ...store.state, ...change };
  if (JSON.stringify(first) === JSON.stringify(next)) { take(next); return tell("committed"); }
  past.push(first);
  if (past.length > MOST) past.shift();
  future.length = 0;
  take(next);
  tell("committed");
}
function step(from, to) {
  if (!from.length || before) return;
  to.push(store.state);
  take(from.pop());
  tell("committed");
}
export const undo = () => step(past, future);
export const redo = () => step(future, past);
export const canUndo = () => past.length > 0;
export const canRedo = () => future.length > 0;

export function select(number) {
  store.selected = number;
  tell("selected");
}
export const selectedLayer = () => store.state?.layers[store.selected] ?? null;
export function changeLayer(number, change, going = false) {
  const layers = store.state.layers.map((layer, place) => (place === number ? { ...layer, ...change } : layer));
  (going ? preview : commit)({ layers });
}
export const siteFacts = (site) => store.facts.sites.find((facts) => facts.site === site);
export const stateOf = (facts) => ({ version: 2, model: facts.name, weights: facts.weights, conditions: facts.conditions, ...facts.example, steps: facts.steps, layers: [] });
// Why a layer cannot change the picture, as idle of riebench.paint.state says it; null if it can.
export function idle(layer) {
  if (!layer.on) return "it is off";
  if (layer.unit === 0) return "its unit is 0, as of a feature that is nowhere active";
  if (layer.strength === 0) return "its strength is 0";
  return layer.mask.runs.some((run, place) => place % 2 && run > 0) ? null : "nothing is painted in its mask";
}
export const acting = (state) => state.layers.filter((layer) => idle(layer) === null);

// ---- what made the state ------------------------------------------------------------------------------------------
// The same state as made with the weights, settings and SAEs of this server.
export function madeHere(state) {
  const layers = state.layers.map((layer) => ({ ...layer, sae: siteFacts(layer.site).sae }));
  return { ...state, weights: store.facts.weights, conditions: store.facts.conditions, layers };
}
// What made the state and is not what this server has, in words; its picture here is another one.
export function othersOf(state) {
  const { weights, conditions } = store.facts, found = new Set();
  if (state.weights !== weights) found.add(`the weights ${state.weights} (here ${weights})`);
  for (const [name, value] of Object.entries(state.conditions)) if (value !== conditions[name]) found.add(`${name} ${value} (here ${conditions[name]})`);
  for (const { site, sae } of state.layers) if (sae !== siteFacts(site).sae) found.add(`another SAE at ${site}: ${sae} (here ${siteFacts(site).sae})`);
  return [...found];
}
