// Saving: the address, PNG, JSON, Python.
import { ask } from "./api.js";
import { fragmentOf, stateIn, usable } from "./link.js";
import { askedState, shownPicture } from "./pictures.js";
import { say, sayWrong } from "./status.js";
import { commit, store, subscribe } from "./store.js";

let own = null; // the fragment that the page itself has written
subscribe((kind) => {
  if (kind !== "committed") return;
  const state = store.state;
  fragmentOf(state).then((fragment) => {
    if (state !== store.state) return;
    own = fragment;
    history.replaceState(null, "", fragment);
    document.body.dataset.linked = JSON.stringify(state);
  });
});
window.addEventListener("hashchange", async () => {
  if (location.hash === own) return;
  try {
    const linked = await stateIn(location.hash);
    if (linked) commit(usable(linked, store.models));
  } catch (error) { sayWrong(`the address cannot be used: ${error.message}`); }
});

function save(blob, name) {
  const address = URL.createObjectURL(blob), link = element("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}
async function copy(text, title) {
  byId("text-title").textContent = title;
  byId("text").value = text;
  byId("text-status").textContent = "";
  byId("text-dialog").showModal();
  byId("text").select();
  try {
    await navigator.clipboard.writeText(text);
    byId("text-status").textContent = "copied";
  } catch { byId("text-status").textContent = "select and copy it"; }
}
byId("save-png").addEventListener("click", () => {
  const picture = shownPicture();
  if (picture) save(picture.blob, `riebench-${store.state.model.replace(/[^\w.-]+/g, "-")}-${store.state.seed}.png`);
  else sayWrong("there is no picture yet");
});
byId("save-json").addEventListener("click", () => save(new Blob([`${JSON.stringify(store.state, null, 1)}\n`], { type: "application/json" }), "state.json"));
byId("open-json").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", async () => {
  const [file] = byId("file").files;
  byId("file").value = "";
  if (!file) return;
  try {
    if (file.size > 1_000_000) throw new Error("it is larger than a state can be");
    commit(usable(JSON.parse(await file.text()), store.models));
    say(`opened ${file.name}`);
  } catch (error) { sayWrong(`${file.name} cannot be opened: ${error.message}`); }
});
byId("copy-link").addEventListener("click", async () => {
  const fragment = await fragmentOf(store.state);
  copy(`${location.origin}${location.pathname}${fragment}`, "Link to this picture");
});
byId("copy-python").addEventListener("click", async () => {
  try { copy(await ask("api/python", { body: askedState(), as: "text" }), "This picture in Python"); } catch (error) { if (error.status) sayWrong(error.message); }
});
