// The hint after a change of the layers that leaves the picture as it is: why the selected layer does nothing, or what the
// server says of equal pictures. It is said where nothing else is.
import { whenShown } from "./pictures.js";
import { whenScored } from "./scores.js";
import { hint } from "./status.js";
import { idle, selectedLayer, store } from "./store.js";

whenShown(() => {
  const layer = selectedLayer(), why = layer && idle(layer);
  if (why) hint(`layer ${store.selected + 1} changes nothing: ${why}`);
});
whenScored(({ unchanged }) => { if (unchanged) hint(unchanged.join("; ")); });
