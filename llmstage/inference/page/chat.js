// The views for chat and for continuing a text. Replies are streamed, and the user can stop them.

import { Problem, streamed } from "./api.js";
import { autoGrow, callBox, make, sendOnEnter, sourceList } from "./elements.js";
import { translate } from "./labels.js";

const byId = (id) => document.getElementById(id);
const NEAR_END = 40; // within this many pixels from the end the view scrolls with the text
const MAX_FILL = 0.6; // above this share of the context the next request leaves out the oldest turns

/** The numbers that the user has set. The server has defaults for the others. */
function settings() {
  const out = {};
  for (const id of ["temperature", "max_tokens"]) {
    const box = byId(id);
    if (box.value !== "" && box.checkValidity()) out[id] = Number(box.value);
  }
  return out;
}

/** The tools that the user has given. Throws a Problem where they are no JSON list. */
function givenTools() {
  const text = byId("tools").value.trim();
  if (!text) return [];
  let list = null;
  try {
    list = JSON.parse(text);
  } catch { /* the same message as for JSON that is no list */ }
  if (!Array.isArray(list)) throw new Problem(`${translate("tools_wrong")} ${text.slice(0, 60)}`);
  return list.map((tool) => (tool.function ? tool : { type: "function", function: tool }));
}

/** Add the pieces of calls in an event to the calls so far, as OpenAI's clients do. */
function addCalls(calls, pieces) {
  for (const piece of pieces ?? []) {
    calls[piece.index] ??= { id: "", type: "function", function: { name: "", arguments: "" } };
    const call = calls[piece.index];
    call.id += piece.id ?? "";
    call.function.name += piece.function?.name ?? "";
    call.function.arguments += piece.function?.arguments ?? "";
  }
}

/** The line under a reply: why it ended, tokens, seconds. */
function noteOf(finish, usage, first, total) {
  const parts = [];
  if (finish === "length") parts.push(translate("cut"));
  if (finish === "stopped") parts.push(translate("stopped"));
  if (usage) parts.push(`${usage.completion_tokens} ${translate("tokens")}`);
  if (first) parts.push(`${translate("first")} ${(first / 1000).toFixed(2)} ${translate("seconds")}`);
  parts.push(`${(total / 1000).toFixed(2)} ${translate("seconds")}`);
  return parts.join(" · ");
}

/**
 * Display a streamed reply in `container` while it arrives. Returns {text, finish, usage, sources, calls, reasoning}, also of a stopped reply.
 * `textOf`: the text in a choice; `scroller`: the element that scrolls.
 */
async function follow(container, path, body, textOf, controller, scroller) {
  const text = document.createTextNode("");
  container.append(text);
  const reply = { finish: null, usage: null, sources: [], calls: [], reasoning: "" };
  const begun = performance.now();
  let first = null;
  try {
    for await (const part of streamed(path, body, controller.signal)) {
      const near = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR_END;
      const choice = part.choices?.[0];
      const more = choice ? textOf(choice) : "";
      if (more) {
        first ??= performance.now() - begun;
        text.appendData(more);
      }
      addCalls(reply.calls, choice?.delta?.tool_calls);
      reply.reasoning += choice?.delta?.reasoning_content ?? "";
      reply.finish = choice?.finish_reason ?? reply.finish;
      reply.usage = part.usage ?? reply.usage;
      if (Array.isArray(part.sources)) reply.sources = part.sources;
      if (near) scroller.scrollTop = scroller.scrollHeight;
    }
  } catch (error) {
    if (error.name !== "AbortError") {
      error.partialText = text.data;
      throw error;
    }
    reply.finish = "stopped";
  }
  return { ...reply, text: text.data, note: noteOf(reply.finish, reply.usage, first, performance.now() - begun) };
}

/** Replace the send button by the stop button while a reply is generated. */
function busy(send, stop, on) {
  const hadFocus = document.activeElement === send || document.activeElement === stop;
  send.hidden = on;
  stop.hidden = !on;
  if (hadFocus) (on ? stop : send).focus();
}

/** `modelInfo`: the entry of /v1/models; `problem(text)`: displays an error. Returns the function that Esc calls. */
export function startChat(modelInfo, problem) {
  const log = byId("log"), box = byId("message"), form = byId("chat_form");
  const fit = autoGrow(box);
  const empty = log.firstElementChild;
  let turns = []; // [{role, content, element}] of the conversation
  let firstSent = 0; // the turns before this index are no longer sent
  let lastTokens = 0; // tokens of the last request and its reply
  let stopping = null;
  let waiting = []; // calls without a result; the next messages are their results

  function expectResult() {
    box.placeholder = waiting.length ? `${translate("result_of")} ${waiting[0].function.name}` : translate("message_hint");
  }

  function bubble(role, text) {
    const body = make("p", "text", text);
    body.dir = "auto";
    const who = make("h3", "who");
    who.dataset.text = role === "user" ? "you" : "assistant";
    who.textContent = translate(who.dataset.text);
    const element = make("article", role, who, body);
    log.append(element);
    log.scrollTop = log.scrollHeight;
    return element;
  }

  /** Stop sending the oldest question and its reply, and draw a line below them. Returns whether there was one to drop. */
  function dropOldestTurn() {
    const next = turns.findIndex((turn, index) => index > firstSent && turn.role === "user");
    if (next < 0) return false;
    firstSent = next;
    log.querySelector(".line")?.remove();
    const line = make("p", "line");
    line.dataset.text = "forgotten";
    line.textContent = `${translate("forgotten")} (${modelInfo.max_model_len}).`;
    turns[next].element.before(line);
    return true;
  }

  function newConversation() {
    stopping?.abort();
    turns = [];
    firstSent = lastTokens = 0;
    waiting = [];
    expectResult();
    log.replaceChildren(empty);
    problem("");
    byId("told").textContent = translate("begun");
    box.focus();
  }

  async function send() {
    const text = box.value;
    if (!text.trim() || stopping) return;
    problem("");
    empty.remove();
    box.value = "";
    fit();
    const conversation = turns;
    const call = waiting.shift();
    const question = { role: "user", content: text, element: bubble("user", text) };
    if (call) Object.assign(question, { role: "tool", tool_call_id: call.id });
    conversation.push(question);
    expectResult();
    if (waiting.length) return; // further calls need their results
    if (modelInfo.max_model_len && lastTokens > MAX_FILL * modelInfo.max_model_len) dropOldestTurn();
    const element = bubble("assistant", "");
    const body = element.querySelector(".text");
    log.setAttribute("aria-busy", "true"); // a screen reader waits for the full reply
    byId("told").textContent = translate("replying");
    stopping = new AbortController();
    const controller = stopping;
    busy(byId("send"), byId("stop"), true);
    try {
      for (;;) {
        const system = byId("system").value.trim();
        const messages = conversation.slice(firstSent).map(({ element: _, ...message }) => message);
        const tools = givenTools();
        if (system) messages.unshift({ role: "system", content: system });
        try {
          const reply = await follow(body, "v1/chat/completions", { messages, ...(tools.length ? { tools } : {}), ...settings() }, (choice) => choice.delta?.content ?? "", controller, log);
          const calls = reply.calls.length ? { tool_calls: reply.calls } : {};
          const reasoning = reply.reasoning ? { reasoning_content: reply.reasoning } : {};
          conversation.push({ role: "assistant", content: reply.text, ...reasoning, ...calls, element });
          if (reply.reasoning) {
            const details = make("details", "reasoning", make("summary", "", translate("reasoning")), make("p", "", reply.reasoning));
            body.before(details);
          }
          body.hidden = !reply.text && reply.calls.length > 0;
          element.append(...reply.calls.map(callBox));
          waiting = [...reply.calls];
          expectResult();
          lastTokens = reply.usage?.total_tokens ?? lastTokens;
          if (reply.sources.length) element.append(sourceList(reply.sources));
          element.append(make("p", "note", reply.note));
          break;
        } catch (error) {
          if (conversation !== turns) return; // the user has started a new conversation
          if (error.code === "context_length_exceeded" && dropOldestTurn()) continue;
          throw error;
        }
      }
      byId("told").textContent = translate("replied");
    } catch (error) {
      if (error.partialText) {
        conversation.push({ role: "assistant", content: error.partialText, element });
      } else { // no text arrived: the question goes back into the text box
        conversation.pop();
        if (call) waiting.unshift(call);
        expectResult();
        question.element.remove();
        element.remove();
        if (!box.value) box.value = text;
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
  byId("anew").addEventListener("click", newConversation);
  byId("system").addEventListener("change", () => turns.length && newConversation());
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
