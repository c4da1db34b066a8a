// One line below the picture, read aloud by screen readers.
let by = "";
// What is said stays until somebody says something else, or the one who said it takes it back.
export function say(text, from = "") {
  const line = byId("status");
  by = from;
  line.className = "";
  if (line.textContent !== text) line.textContent = text;
}
export function sayWrong(text, from = "") {
  say(text, from);
  byId("status").className = "wrong";
}
// A hint does not take the place of what somebody else has said.
export function hint(text) {
  if (!byId("status").textContent || by === "hint") say(text, "hint");
}
export function takeBack(from) {
  if (by === from) say("");
}
