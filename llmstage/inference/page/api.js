// Requests to the server, with a token where the server requires one.

import { translate } from "./labels.js";

const STORAGE_KEY = "llmstage.token";
const byId = (id) => document.getElementById(id);

/** An error that the page displays. `status` and `code` come from the server. */
export class Problem extends Error {
  constructor(message, status = 0, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

let token = null;
try {
  token = sessionStorage.getItem(STORAGE_KEY);
} catch { /* without storage the page asks for the token on every visit */ }
let pendingDialog = null;

/** Ask the user for the token. Requests that are refused at the same time share one dialog. */
function requestToken(wrong) {
  pendingDialog ??= new Promise((resolve, reject) => {
    const dialog = byId("token_dialog");
    byId("token_wrong").hidden = !wrong;
    byId("token").value = "";
    byId("token_form").onsubmit = (event) => {
      event.preventDefault();
      token = byId("token").value.trim();
      try {
        sessionStorage.setItem(STORAGE_KEY, token);
      } catch { /* as above */ }
      dialog.onclose = null;
      dialog.close();
      resolve();
    };
    dialog.onclose = () => reject(new Problem(translate("token_needed"), 401));
    dialog.showModal();
  }).finally(() => { pendingDialog = null; });
  return pendingDialog;
}

/** Send a request and return the response. A body makes it a POST. `etag`: the ETag of the known state; the response may then be
 * 304. Throws Problem. */
export async function call(path, body = null, signal = null, etag = null) {
  for (;;) {
    // A header cannot contain other characters, and a token with them is wrong.
    const headers = token && /^[\x21-\x7e]+$/.test(token) ? { authorization: `Bearer ${token}` } : {};
    if (etag) headers["if-none-match"] = etag;
    if (body) headers["content-type"] = "application/json";
    const options = body ? { method: "POST", body: JSON.stringify(body) } : {};
    let response;
    try {
      response = await fetch(path, { ...options, headers, signal, cache: "no-store", credentials: "omit" });
    } catch (error) {
      throw error.name === "AbortError" ? error : new Problem(translate("offline"));
    }
    if (response.status === 401) {
      await requestToken(Boolean(token));
      continue;
    }
    if (response.ok || (etag && response.status === 304)) return response;
    let details = {};
    try {
      details = (await response.json()).error ?? {};
    } catch { /* not JSON: the message is the status */ }
    throw new Problem(details.message ?? `HTTP ${response.status}`, response.status, details.code);
  }
}

/** Yield the events of a streamed reply as objects. Throws Problem, also where the stream ends early. */
export async function* streamed(path, body, signal) {
  const response = await call(path, { ...body, stream: true, stream_options: { include_usage: true } }, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
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
    throw error instanceof Problem || error.name === "AbortError" ? error : new Problem(translate("broken"));
  } finally {
    reader.cancel().catch(() => {});
  }
  throw new Problem(translate("broken"));
}
