// The pictures of the state: requested as it changes, the latest wins; progress and cancelling.
import { ask } from "./api.js";
import { acting, madeHere, store } from "./store.js";
import { say, sayWrong, takeBack } from "./status.js";

export const pictures = { base: null, edited: null };
const listeners = [];
export const whenShown = (listener) => listeners.push(listener);

class Follower {
  constructor(kind) { Object.assign(this, { kind, key: null, sent: 0, shown: 0, flying: null, waiting: null }); }
  // What is to be shown; "going" changes wait while one is on its way, others take its place.
  want(state, key, going) {
    if (key === this.key && (this.flying || pictures[this.kind]?.key === key)) { this.waiting = null; return; }
    if (going && this.flying) { this.waiting = [state, key]; return; }
    this.send(state, key);
  }
  async send(state, key) {
    this.key = key;
    this.waiting = null;
    const number = (this.sent += 1), stop = new AbortController();
    this.flying = stop;
    byId("again").hidden = true;
    watch();
    try {
      const blob = await ask("api/picture", { body: state, signal: stop.signal, as: "blob" });
      const bitmap = await createImageBitmap(blob);
      if (number > this.shown) {
        this.shown = number;
        pictures[this.kind] = { key, blob, bitmap };
        show(this.kind);
      }
      if (number === this.sent) takeBack("picture");
    } catch (error) {
      if (number === this.sent) {
        this.key = null;
        if (error.name === "AbortError") {
          say("cancelled", "picture");
          byId("again").hidden = false;
        } else if (error.status !== 409 && error.status) sayWrong(error.message, "picture");
      }
    } finally {
      if (this.flying === stop) this.flying = null;
      if (this.waiting && !this.flying) this.send(...this.waiting);
      watch();
    }
  }
}
const base = new Follower("base"), edited = new Follower("edited");

export function follow(going, anew = false) {
  const painted = askedState(), plain = { ...painted, layers: [] };
  if (anew) base.key = edited.key = null;
  base.want(plain, JSON.stringify(plain), going);
  if (painted.layers.length) edited.want(painted, JSON.stringify(painted), going);
  else {
    edited.flying?.abort();
    edited.key = edited.waiting = null;
    edited.shown = edited.sent += 1;
    pictures.edited = null;
    show("edited");
  }
}
// The state for the server: layers that cannot act are left out, so that equal pictures have equal states. It asks for the
// picture with what this page was told that the server has, which the server compares with what it has now.
export const askedState = () => madeHere({ ...store.state, layers: acting(store.state) });
// The picture with all layers; the base picture if there are no layers.
export const shownPicture = () => pictures.edited ?? pictures.base;
export const settled = () => !base.flying && !edited.flying;
// Whether the pictures are those of the state; they are not after a cancel or where the server refused it.
export function upToDate() {
  const state = askedState();
  return pictures.base?.key === JSON.stringify({ ...state, layers: [] }) && (!state.layers.length || pictures.edited?.key === JSON.stringify(state));
}

function show(kind) {
  listeners.forEach((listener) => listener(kind));
  document.dispatchEvent(new CustomEvent("picture-shown", { detail: kind }));
}

// ---- progress -----------------------------------------------------------------------------------------------------
const others = new Set();
let timer = null;
// Other work that can be cancelled; gives its signal.
export function work(stop) {
  others.add(stop);
  watch();
  return () => { others.delete(stop); watch(); };
}
const busy = () => [base.flying, edited.flying, ...others].filter(Boolean);
export function cancel() {
  base.waiting = edited.waiting = null;
  busy().forEach((stop) => stop.abort());
}
function watch() {
  document.body.toggleAttribute("data-busy", busy().length > 0);
  if (!busy().length) {
    clearTimeout(timer);
    timer = null;
    byId("cancel").hidden = true;
    tell("");
  } else timer ??= setTimeout(look, 400);
}
function tell(text) {
  if (byId("progress").textContent !== text) byId("progress").textContent = text;
}
const NAMES = { edited: "picture", base: "base picture", active: "active features", region: "phrase", effect: "effect alone", scores: "scores" };
async function look() {
  if (!busy().length) return;
  byId("cancel").hidden = false;
  try {
    const kinds = await ask("api/progress"), all = Object.values(kinds);
    if (!busy().length) return;
    const before = Math.min(...all.map((kind) => kind.before)), kind = Object.keys(NAMES).find((name) => kinds[name]?.steps);
    if (kind) tell(`${NAMES[kind]}: step ${kinds[kind].steps} of ${kinds[kind].of}`);
    else if (before > 0 && Number.isFinite(before)) tell(`waiting: ${before} before this`);
    else tell("working");
  } catch { /* the banner says it */ }
  timer = busy().length ? setTimeout(look, 500) : null;
}
