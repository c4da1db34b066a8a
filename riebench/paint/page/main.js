// The start: gets the models, takes the state of the address, and follows its changes.
import "./theme.js";
import { ask, whenOnline } from "./api.js";
import { stateIn, usable } from "./link.js";
import { cancel, follow } from "./pictures.js";
import { say, sayWrong } from "./status.js";
import { canRedo, canUndo, redo, start, stateOf, store, subscribe, undo } from "./store.js";
import "./stage.js";
import "./prompt.js";
import "./features.js";
import "./layers.js";
import "./scores.js";
import "./keep.js";
import "./phrase.js";
import "./others.js";
import "./hint.js";

subscribe((kind) => {
  byId("undo").disabled = !canUndo();
  byId("redo").disabled = !canRedo();
  if (kind !== "preview") say("");
  if (kind !== "selected") follow(kind === "preview");
});
byId("undo").addEventListener("click", undo);
byId("redo").addEventListener("click", redo);
byId("cancel").addEventListener("click", cancel);
byId("again").addEventListener("click", () => follow(false));
byId("keys").addEventListener("click", () => byId("keys-dialog").showModal());
document.addEventListener("keydown", (event) => {
  const typing = ["text", "search", "number"].includes(event.target.type) || event.target.tagName === "TEXTAREA";
  if ((event.ctrlKey || event.metaKey) && !event.altKey && !typing) {
    const letter = event.key.toLowerCase();
    if (letter === "z") { event.preventDefault(); (event.shiftKey ? redo : undo)(); }
    if (letter === "y") { event.preventDefault(); redo(); }
  }
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) cancel();
});

async function begin() {
  const models = await ask("api/models");
  let state = stateOf(models[0]), wrong = null;
  try {
    const linked = await stateIn(location.hash);
    if (linked) state = usable(linked, models);
  } catch (error) { wrong = error.message; }
  start(models, state);
  if (wrong) sayWrong(`the address cannot be used: ${wrong}`);
}
async function first() {
  say("loading");
  try { await begin(); } catch (error) { if (error.status) sayWrong(error.message); }
}
whenOnline(() => (store.state ? follow(false, true) : first()));
first();
