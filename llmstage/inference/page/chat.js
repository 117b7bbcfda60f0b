// A conversation, and texts that are gone on with: both are streamed, and can be stopped.

import { streamed } from "./api.js";
import { growing, make, sendOnEnter, sourceList } from "./shown.js";
import { say } from "./words.js";

const byId = (id) => document.getElementById(id);
const NEAR_END = 40; // pixels from the end within which the view follows the text
const FILLED = 0.6; // share of what the model reads at once, above which the oldest turns are left out of the next request

/** Numbers that the user has set, and no others: the server has its own for the rest. */
function settings() {
  const out = {};
  for (const id of ["temperature", "max_tokens"]) {
    const box = byId(id);
    if (box.value !== "" && box.checkValidity()) out[id] = Number(box.value);
  }
  return out;
}

/** A line under a reply: why it ended, tokens, seconds. */
function noteOf(finish, usage, first, whole) {
  const parts = [];
  if (finish === "length") parts.push(say("cut"));
  if (finish === "stopped") parts.push(say("stopped"));
  if (usage) parts.push(`${usage.completion_tokens} ${say("tokens")}`);
  if (first) parts.push(`${say("first")} ${(first / 1000).toFixed(2)} ${say("seconds")}`);
  parts.push(`${(whole / 1000).toFixed(2)} ${say("seconds")}`);
  return parts.join(" · ");
}

/**
 * Show a streamed reply in `place` as it comes. Returns {text, finish, usage, sources}; stopped by the user, what there is.
 * `take`: the text in a part.
 */
async function follow(place, path, body, take, stopping, scrolls) {
  const text = document.createTextNode("");
  place.append(text);
  const reply = { finish: null, usage: null, sources: [] };
  const begun = performance.now();
  let first = null;
  try {
    for await (const part of streamed(path, body, stopping.signal)) {
      const near = scrolls.scrollHeight - scrolls.scrollTop - scrolls.clientHeight < NEAR_END;
      const choice = part.choices?.[0];
      const more = choice ? take(choice) : "";
      if (more) {
        first ??= performance.now() - begun;
        text.appendData(more);
      }
      reply.finish = choice?.finish_reason ?? reply.finish;
      reply.usage = part.usage ?? reply.usage;
      if (Array.isArray(part.sources)) reply.sources = part.sources;
      if (near) scrolls.scrollTop = scrolls.scrollHeight;
    }
  } catch (error) {
    if (error.name !== "AbortError") {
      error.said = text.data;
      throw error;
    }
    reply.finish = "stopped";
  }
  return { ...reply, text: text.data, note: noteOf(reply.finish, reply.usage, first, performance.now() - begun) };
}

/** The button that stops stands where the one that sends was, as long as something is written. */
function busy(send, stop, on) {
  const held = document.activeElement === send || document.activeElement === stop;
  send.hidden = on;
  stop.hidden = !on;
  if (held) (on ? stop : send).focus();
}

/** `about`: what /v1/models says of the model; `problem(text)`: tell the user. Returns what Esc does. */
export function startChat(about, problem) {
  const log = byId("log"), box = byId("message"), form = byId("chat_form");
  const fit = growing(box);
  const empty = log.firstElementChild;
  let turns = []; // [{role, content, shown}] of the conversation
  let forgotten = 0; // turns at its beginning that are no longer sent
  let read = 0; // tokens of the last request and its reply
  let stopping = null;

  function bubble(role, text) {
    const body = make("p", "text", text);
    body.dir = "auto";
    const who = make("h3", "who");
    who.dataset.say = role === "user" ? "you" : "assistant";
    who.textContent = say(who.dataset.say);
    const shown = make("article", role, who, body);
    log.append(shown);
    log.scrollTop = log.scrollHeight;
    return shown;
  }

  /** Leave the oldest question and its reply out of what is sent, and mark them. Whether there was one to leave out. */
  function forget() {
    const next = turns.findIndex((turn, place) => place > forgotten && turn.role === "user");
    if (next < 0) return false;
    forgotten = next;
    log.querySelector(".line")?.remove();
    const line = make("p", "line");
    line.dataset.say = "forgotten";
    line.textContent = `${say("forgotten")} (${about.max_model_len}).`;
    turns[next].shown.before(line);
    return true;
  }

  function anew() {
    stopping?.abort();
    turns = [];
    forgotten = read = 0;
    log.replaceChildren(empty);
    problem("");
    byId("told").textContent = say("begun");
    box.focus();
  }

  async function send() {
    const said = box.value;
    if (!said.trim() || stopping) return;
    problem("");
    empty.remove();
    box.value = "";
    fit();
    const own = turns;
    const asked = { role: "user", content: said, shown: bubble("user", said) };
    own.push(asked);
    if (about.max_model_len && read > FILLED * about.max_model_len) forget();
    const shown = bubble("assistant", "");
    const body = shown.querySelector(".text");
    log.setAttribute("aria-busy", "true"); // a screen reader waits for the whole
    byId("told").textContent = say("replying");
    stopping = new AbortController();
    const mine = stopping;
    busy(byId("send"), byId("stop"), true);
    try {
      for (;;) {
        const system = byId("system").value.trim();
        const messages = own.slice(forgotten).map(({ role, content }) => ({ role, content }));
        if (system) messages.unshift({ role: "system", content: system });
        try {
          const reply = await follow(body, "v1/chat/completions", { messages, ...settings() }, (choice) => choice.delta?.content ?? "", mine, log);
          own.push({ role: "assistant", content: reply.text, shown });
          read = reply.usage?.total_tokens ?? read;
          if (reply.sources.length) shown.append(sourceList(reply.sources));
          shown.append(make("p", "note", reply.note));
          break;
        } catch (error) {
          if (own !== turns) return; // a new conversation has begun
          if (error.code === "context_length_exceeded" && forget()) continue;
          throw error;
        }
      }
      byId("told").textContent = say("replied");
    } catch (error) {
      if (error.said) {
        own.push({ role: "assistant", content: error.said, shown });
      } else { // nothing was said: the question goes back to where it was typed
        own.pop();
        asked.shown.remove();
        shown.remove();
        if (!box.value) box.value = said;
        fit();
      }
      byId("told").textContent = "";
      problem(error.message);
    } finally {
      log.removeAttribute("aria-busy");
      stopping = null;
      busy(byId("send"), byId("stop"), false);
      log.scrollTop = log.scrollHeight;
    }
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  sendOnEnter(form);
  byId("stop").addEventListener("click", () => stopping?.abort());
  byId("anew").addEventListener("click", anew);
  byId("system").addEventListener("change", () => turns.length && anew());
  return () => stopping?.abort();
}

export function startWriting(problem) {
  const form = byId("write_form"), out = byId("written");
  let stopping = null;

  async function go() {
    const prompt = byId("beginning").value;
    if (stopping || !prompt) return;
    problem("");
    const begun = make("span", "given", prompt), text = make("p", "text", begun);
    text.dir = "auto";
    out.replaceChildren(text);
    out.setAttribute("aria-busy", "true");
    stopping = new AbortController();
    busy(byId("write_send"), byId("write_stop"), true);
    try {
      const reply = await follow(text, "v1/completions", { prompt, ...settings() }, (choice) => choice.text, stopping, document.scrollingElement);
      out.append(make("p", "note", reply.note));
    } catch (error) {
      problem(error.message);
    } finally {
      out.removeAttribute("aria-busy");
      stopping = null;
      busy(byId("write_send"), byId("write_stop"), false);
    }
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    go();
  });
  sendOnEnter(form);
  byId("write_stop").addEventListener("click", () => stopping?.abort());
  return () => stopping?.abort();
}
