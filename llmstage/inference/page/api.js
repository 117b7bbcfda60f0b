// Requests to the server, with the token where one is asked for.

import { say } from "./words.js";

const KEPT = "llmstage.token";
const byId = (id) => document.getElementById(id);

/** Something the user is told; `code` and `status` are the server's. */
export class Problem extends Error {
  constructor(message, status = 0, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

let token = null;
try {
  token = sessionStorage.getItem(KEPT);
} catch { /* it is then asked for on every visit */ }
let asking = null;

/** Ask for the token; several requests that were refused at once ask together. */
function askToken(wrong) {
  asking ??= new Promise((resolve, reject) => {
    const dialog = byId("token_dialog");
    byId("token_wrong").hidden = !wrong;
    byId("token").value = "";
    byId("token_form").onsubmit = (event) => {
      event.preventDefault();
      token = byId("token").value.trim();
      try {
        sessionStorage.setItem(KEPT, token);
      } catch { /* as above */ }
      dialog.onclose = null;
      dialog.close();
      resolve();
    };
    dialog.onclose = () => reject(new Problem(say("token_needed"), 401));
    dialog.showModal();
  }).finally(() => { asking = null; });
  return asking;
}

/** The answer to a request; a body makes it a POST. `known`: the tag of what is known already, where 304 is an answer, too.
 * Throws Problem. */
export async function call(path, body = null, signal = null, known = null) {
  for (;;) {
    // A header holds no letters beyond these; such a token is wrong in any case.
    const headers = token && /^[\x21-\x7e]+$/.test(token) ? { authorization: `Bearer ${token}` } : {};
    if (known) headers["if-none-match"] = known;
    if (body) headers["content-type"] = "application/json";
    const given = body ? { method: "POST", body: JSON.stringify(body) } : {};
    let answer;
    try {
      answer = await fetch(path, { ...given, headers, signal, cache: "no-store", credentials: "omit" });
    } catch (error) {
      throw error.name === "AbortError" ? error : new Problem(say("offline"));
    }
    if (answer.status === 401) {
      await askToken(Boolean(token));
      continue;
    }
    if (answer.ok || (known && answer.status === 304)) return answer;
    let told = {};
    try {
      told = (await answer.json()).error ?? {};
    } catch { /* no JSON: the status has to do */ }
    throw new Problem(told.message ?? `HTTP ${answer.status}`, answer.status, told.code);
  }
}

/** The parts of a streamed reply, one object each. Throws Problem, also where the reply ends before its end. */
export async function* streamed(path, body, signal) {
  const answer = await call(path, { ...body, stream: true, stream_options: { include_usage: true } }, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      rest += value;
      const events = rest.split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const data = event.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
        if (data === "[DONE]") return;
        if (!data) continue;
        const part = JSON.parse(data);
        if (part.error) throw new Problem(part.error.message);
        yield part;
      }
    }
  } catch (error) {
    throw error instanceof Problem || error.name === "AbortError" ? error : new Problem(say("broken"));
  } finally {
    reader.cancel().catch(() => {});
  }
  throw new Problem(say("broken"));
}
