// One line below the picture, read aloud by screen readers.
export function say(text) {
  const line = byId("status");
  line.className = "";
  if (line.textContent !== text) line.textContent = text;
}
export function sayWrong(text) {
  say(text);
  byId("status").className = "wrong";
}
