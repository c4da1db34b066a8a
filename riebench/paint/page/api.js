// Questions to the server, and whether it answers at all.
class Refused extends Error {
  constructor(status, message) { super(message); this.status = status; }
}
const bytes = crypto.getRandomValues(new Uint8Array(12));
const client = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
const listeners = [];
let offline = false;

export const whenOnline = (listener) => listeners.push(listener);
function tell(now) {
  if (offline === now) return;
  offline = now;
  const banner = byId("banner");
  banner.hidden = !now;
  banner.textContent = now ? "The server does not answer. Start it again with the same command; the page waits and then goes on." : "";
  if (now) lookAgain(); else listeners.forEach((listener) => listener());
}
function lookAgain() {
  setTimeout(async () => {
    try { await ask("api/models"); } catch { if (offline) lookAgain(); }
  }, 700);
}

// What the answer is: "json", "text" or "blob". Throws Refused, AbortError, or TypeError while the server is away.
export async function ask(path, { query, body, signal, as = "json" } = {}) {
  const address = query ? `${path}?${new URLSearchParams(query)}` : path;
  const headers = { "X-Client": client };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(address, { method: body === undefined ? "GET" : "POST", headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    if (error.name !== "AbortError") tell(true);
    throw error;
  }
  tell(false);
  if (!answer.ok) {
    let said = `the server answered ${answer.status}`;
    try { said = (await answer.json()).error; } catch { /* it was no JSON */ }
    throw new Refused(answer.status, said);
  }
  return answer[as]();
}
