// Small parts that the views are made of. Whatever a model or a user wrote goes in as text, never as HTML.

import { say } from "./words.js";

/** An element with a class and its content: texts and elements. */
export function make(tag, name = "", ...content) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...content);
  return element;
}

export function percent(share) {
  return `${(100 * share).toFixed(share > 0 && share < 0.1 ? 2 : 1)} %`;
}

/** Bars for [[name, share from 0 to 1, what is written behind it]], the first `few` of them at once. */
export function bars(rows, few = 12) {
  const list = make("ol", "bars");
  rows.forEach(([name, share, told], place) => {
    const fill = make("span", "fill");
    fill.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
    const row = make("li", "", make("span", "name", name), make("span", "bar", fill), make("span", "value", told ?? percent(share)));
    row.hidden = place >= few;
    list.append(row);
  });
  if (rows.length <= few) return list;
  const all = make("button", "quiet", `${say("all")} (${rows.length})`);
  all.type = "button";
  all.addEventListener("click", () => {
    for (const row of list.children) row.hidden = false;
    all.remove();
  });
  return make("div", "", list, all);
}

const COLOURS = 8;

/** A text with parts of it marked: `spans` of {start, end, label, confidence}, counted in characters as Python counts them. */
export function marked(text, spans) {
  const letters = Array.from(text); // an emoji is one character to Python and two to JavaScript
  const kinds = [...new Set(spans.map((span) => span.label).filter(Boolean))].sort();
  const out = make("p", "marked");
  out.dir = "auto";
  let at = 0;
  for (const span of [...spans].sort((one, other) => one.start - other.start)) {
    if (span.start < at) continue;
    const mark = make("mark", `c${Math.max(0, kinds.indexOf(span.label)) % COLOURS}`, letters.slice(span.start, span.end).join(""));
    if (span.label) mark.append(make("small", "", span.label));
    if (span.confidence !== undefined) mark.title = `${say("confidence")} ${percent(span.confidence)}`;
    out.append(letters.slice(at, span.start).join(""), mark);
    at = span.end;
  }
  out.append(letters.slice(at).join(""));
  return out;
}

/** What a reply rests on: [{id, title, text, score, path}]. */
export function sourceList(sources) {
  const list = make("ol");
  for (const source of sources) {
    const head = make("summary", "", make("span", "title", String(source.title || source.path || source.id || "?")));
    if (typeof source.score === "number") head.append(" ", make("span", "note", `${say("score")} ${source.score.toFixed(2)}`));
    const text = make("p", "", String(source.text ?? ""));
    text.dir = "auto";
    list.append(make("li", "", make("details", "", head, text, make("p", "note", String(source.path ?? "")))));
  }
  const box = make("section", "sources", make("h3", "", `${say("sources")} (${sources.length})`), list);
  box.setAttribute("aria-label", say("sources"));
  return box;
}

/** The reply as it came, for whoever wants to write a program. */
export function rawReply(told) {
  return make("details", "raw", make("summary", "", say("raw")), make("pre", "", JSON.stringify(told, null, 1)));
}

/** Enter sends a form, Shift+Enter makes a new line; an input method's own Enter (Chinese, Japanese) is left to it. */
export function sendOnEnter(form) {
  form.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    if (event.target.tagName !== "TEXTAREA") return;
    event.preventDefault();
    form.requestSubmit();
  });
}

/** A text box as tall as its text, up to a third of the window. */
export function growing(box) {
  const fit = () => {
    box.style.height = "auto";
    box.style.height = `${Math.min(box.scrollHeight + 2, window.innerHeight / 3)}px`;
  };
  box.addEventListener("input", fit);
  return fit;
}
