// Elements that several views use. Text of a model or a user is inserted as text, never as HTML.

import { translate } from "./labels.js";

/** Create an element with a class and content (texts and elements). */
export function make(tag, name = "", ...content) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...content);
  return element;
}

export function percent(share) {
  return `${(100 * share).toFixed(share > 0 && share < 0.1 ? 2 : 1)} %`;
}

/** Bars for [[name, share from 0 to 1, text after the bar]]. The first `few` are visible at once. */
export function bars(rows, few = 12) {
  const list = make("ol", "bars");
  rows.forEach(([name, share, valueText], index) => {
    const fill = make("span", "fill");
    fill.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
    const row = make("li", "", make("span", "name", name), make("span", "bar", fill), make("span", "value", valueText ?? percent(share)));
    row.hidden = index >= few;
    list.append(row);
  });
  if (rows.length <= few) return list;
  const all = make("button", "quiet", `${translate("all")} (${rows.length})`);
  all.type = "button";
  all.addEventListener("click", () => {
    for (const row of list.children) row.hidden = false;
    all.remove();
  });
  return make("div", "", list, all);
}

const COLOURS = 8;

/** A text with marked `spans` of {start, end, label, confidence}; start and end count characters as Python does. */
export function marked(text, spans) {
  const characters = Array.from(text); // an emoji is one character in Python and two in JavaScript
  const labels = [...new Set(spans.map((span) => span.label).filter(Boolean))].sort();
  const out = make("p", "marked");
  out.dir = "auto";
  let position = 0;
  for (const span of [...spans].sort((a, b) => a.start - b.start)) {
    if (span.start < position) continue;
    const mark = make("mark", `c${Math.max(0, labels.indexOf(span.label)) % COLOURS}`, characters.slice(span.start, span.end).join(""));
    if (span.label) mark.append(make("small", "", span.label));
    if (span.confidence !== undefined) mark.title = `${translate("confidence")} ${percent(span.confidence)}`;
    out.append(characters.slice(position, span.start).join(""), mark);
    position = span.end;
  }
  out.append(characters.slice(position).join(""));
  return out;
}

/** A call of a tool: {function: {name, arguments}}. */
export function callBox(call) {
  const title = make("h4", "", `${translate("call")} `, make("code", "", call.function.name));
  return make("section", "call", title, make("pre", "", call.function.arguments));
}

/** The passages of a reply: [{id, title, text, score, path}]. */
export function sourceList(sources) {
  const list = make("ol");
  for (const source of sources) {
    const head = make("summary", "", make("span", "title", String(source.title || source.path || source.id || "?")));
    if (typeof source.score === "number") head.append(" ", make("span", "note", `${translate("score")} ${source.score.toFixed(2)}`));
    const text = make("p", "", String(source.text ?? ""));
    text.dir = "auto";
    list.append(make("li", "", make("details", "", head, text, make("p", "note", String(source.path ?? "")))));
  }
  const box = make("section", "sources", make("h3", "", `${translate("sources")} (${sources.length})`), list);
  box.setAttribute("aria-label", translate("sources"));
  return box;
}

/** The reply as JSON, for programmers. */
export function rawReply(reply) {
  return make("details", "raw", make("summary", "", translate("raw")), make("pre", "", JSON.stringify(reply, null, 1)));
}

/** Enter sends a form, Shift+Enter starts a new line. Enter inside an input method (Chinese, Japanese) does neither. */
export function sendOnEnter(form) {
  form.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    if (event.target.tagName !== "TEXTAREA") return;
    event.preventDefault();
    form.requestSubmit();
  });
}

/** Make a text box as high as its text, up to a third of the window. Returns the function that adjusts it. */
export function autoGrow(box) {
  const fit = () => {
    box.style.height = "auto";
    box.style.height = `${Math.min(box.scrollHeight + 2, window.innerHeight / 3)}px`;
  };
  box.addEventListener("input", fit);
  return fit;
}
