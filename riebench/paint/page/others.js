// The warning that the state was made with other weights, settings or SAEs, so that the picture here is another one.
import { commit, madeHere, othersOf, store, subscribe } from "./store.js";

subscribe(() => {
  const others = othersOf(store.state);
  byId("others").hidden = !others.length;
  const text = `This state was made with ${others.join("; ")}. The picture here is another one.`;
  if (byId("others-text").textContent !== text) byId("others-text").textContent = text;
});
byId("take-these").addEventListener("click", () => commit(madeHere(store.state)));
