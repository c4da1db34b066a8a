// The scores of CLIP, LPIPS and the reader, requested when the state has not changed for a while.
import { ask } from "./api.js";
import { askedState, settled, upToDate, whenShown } from "./pictures.js";
import { subscribe } from "./store.js";

const QUIET = 450; // milliseconds
const box = byId("scores");
let timer = null, stop = null, of = null;
const listeners = [];
export const whenScored = (listener) => listeners.push(listener);

function later() {
  clearTimeout(timer);
  timer = setTimeout(get, QUIET);
}
async function get() {
  if (!settled()) return later();
  if (!upToDate()) return undefined; // nor is there work for a picture that was cancelled
  const state = askedState(), key = JSON.stringify(state);
  if (key === of) { box.classList.remove("old"); return undefined; }
  stop?.abort();
  stop = new AbortController();
  try {
    const scores = await ask("api/scores", { body: state, signal: stop.signal });
    draw(scores, state.layers.length > 0);
    of = key;
    box.classList.remove("old");
    listeners.forEach((listener) => listener(scores));
  } catch { /* the picture's own request has said why */ }
  return undefined;
}
function pair(term, nodes) { return element("dl", {}, element("dt", { text: term }), element("dd", {}, ...nodes)); }
function draw(scores, edited) {
  const nodes = [];
  if (scores.clip?.reason) nodes.push(pair("CLIP with the prompt", [scores.clip.reason]));
  else if (scores.clip) {
    const { base, edited: after } = scores.clip;
    nodes.push(pair("CLIP with the prompt", edited ? [`${shown(base)} → `, element("span", { class: after < base ? "down" : "up", text: shown(after) })] : [shown(base)]));
  }
  if (scores.lpips && edited) nodes.push(pair(`${scores.lpips.name} to the base`, [shown(scores.lpips.value)]));
  if (scores.reader?.reason) nodes.push(pair("reader", [scores.reader.reason]));
  else if (scores.reader) {
    const { base, edited: after } = scores.reader, names = [...new Set([...Object.keys(base), ...Object.keys(after)])];
    nodes.push(element("div", { class: "reader", role: "group", "aria-label": "what the reader sees" }, ...names.map((name) => {
      const changed = base[name] !== after[name];
      return element("span", { class: changed ? "changed" : "", text: changed ? `${name}: ${base[name] ?? "none"} → ${after[name] ?? "none"}` : `${name}: ${base[name]}` });
    })));
  }
  for (const [name, why] of Object.entries(scores.missing)) if (name !== "masker") nodes.push(pair(name, [element("span", { class: "soft", title: why, text: "not here" })]));
  box.replaceChildren(...nodes);
}
subscribe((kind) => {
  if (kind === "selected") return;
  if (JSON.stringify(askedState()) !== of) { stop?.abort(); box.classList.add("old"); }
  later();
});
whenShown(later);
