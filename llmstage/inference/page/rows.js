// A box to try a task with: fields for the words of a row, and what the model says of it.

import { call, Problem } from "./api.js";
import { bars, make, marked, percent, rawReply, sendOnEnter } from "./shown.js";
import { fieldName, say } from "./words.js";

const byId = (id) => document.getElementById(id);
const LONG = new Set(["text", "context", "document", "source", "caption", "item", "tokens"]);
const LISTS = { caption: "\n", item: "\n", tokens: " " }; // fields with several values, and what stands between them
const LARGEST = 600_000; // bytes of a picture that is sent as it is
const SIDE = 768; // pixels to which the longer side of a larger one is brought

/** A picture as a data: URI, made smaller where the server would not take it. */
async function dataUri(file) {
  if (file.size <= LARGEST) {
    return new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.onerror = () => reject(new Problem(say("unreadable")));
      reader.readAsDataURL(file);
    });
  }
  let picture;
  try {
    picture = await createImageBitmap(file);
  } catch {
    throw new Problem(say("unreadable"));
  }
  const scale = Math.min(1, SIDE / Math.max(picture.width, picture.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(picture.width * scale));
  canvas.height = Math.max(1, Math.round(picture.height * scale));
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.92);
}

function imageBox(word) {
  const box = make("input");
  box.type = "file";
  box.accept = "image/*";
  box.name = word;
  const view = make("img", "picture");
  view.hidden = true;
  view.alt = "";
  box.addEventListener("change", () => {
    if (view.src) URL.revokeObjectURL(view.src);
    view.hidden = !box.files.length;
    if (box.files.length) view.src = URL.createObjectURL(box.files[0]);
  });
  return [box, view];
}

function field(word, row, needed) {
  const name = make("span", "", fieldName(word));
  name.dataset.field = word;
  const label = make("label", "", name);
  let box;
  if (row.images.includes(word)) {
    const [input, view] = imageBox(word);
    box = input;
    label.append(box, view);
  } else {
    box = make(LONG.has(word) ? "textarea" : "input");
    if (LONG.has(word)) box.rows = word === "context" || word === "document" ? 6 : 3;
    label.append(box);
  }
  box.name = word;
  box.required = needed;
  return label;
}

/** The row that the fields hold: {word: value}, without those that are empty. */
async function rowOf(form) {
  const out = {};
  for (const box of form.elements) {
    if (!box.name) continue;
    if (box.type === "file") {
      if (box.files.length) out[box.name] = await dataUri(box.files[0]);
    } else if (box.value.trim()) {
      const between = LISTS[box.name];
      out[box.name] = between ? box.value.split(between === " " ? /\s+/ : /\n/).map((part) => part.trim()).filter(Boolean) : box.value;
    }
  }
  return out;
}

/** [[label, probability]] of an answer, likeliest first. */
function shares(told) {
  const rows = told.log_probabilities
    ? Object.entries(told.log_probabilities).map(([label, value]) => [label, Math.exp(value)])
    : Object.entries(told.probabilities ?? told.similarities ?? {});
  return rows.sort((one, other) => other[1] - one[1]);
}

function headline(value) {
  const text = make("p", "headline", Array.isArray(value) ? value.join(", ") : typeof value === "number" ? value.toPrecision(5) : String(value));
  text.dir = "auto";
  return text;
}

/** What is said of a label, several labels or a number. */
function classified(told) {
  if (told.targets) { // several targets at once
    return Object.entries(told.targets).map(([word, own]) => make("section", "", make("h3", "", word), ...classified({ ...own, prediction: told.prediction[word] })));
  }
  const rows = shares(told);
  const likeness = told.similarities ? rows.map(([label, share]) => [label, share, share.toFixed(3)]) : rows;
  const sure = told.probability !== undefined && !rows.length ? [make("p", "note", percent(told.probability))] : [];
  return [headline(told.prediction), ...sure, ...(rows.length ? [bars(likeness)] : [])];
}

function tagged(told) {
  const found = told.spans ?? [];
  const kinds = [...new Set(found.map((span) => span.label))].sort();
  const legend = kinds.map((kind) => `${kind} ${found.filter((span) => span.label === kind).length}`).join(" · ");
  return [marked(told.text, found), make("p", "note", legend || say("nothing_found"))];
}

function answered(told, row) {
  if (!row.context) return classified(told);
  if (told.prediction === null || told.prediction === "") return [headline(say("no_answer"))];
  const spans = told.start === null || told.start === undefined ? [] : [{ start: told.start, end: told.end, confidence: told.confidence }];
  const rest = (told.n_best ?? []).map((span) => [span.text, span.confidence]);
  return [headline(told.prediction), marked(row.context, spans), ...(rest.length > 1 ? [make("h3", "", say("alternatives")), bars(rest, 5)] : [])];
}

function ranked(told) {
  const best = told.prediction;
  const most = Math.max(...best.map((item) => item.probability), 1e-12);
  return [bars(best.map((item) => [item.text ? `${item.item} · ${item.text}` : item.item, item.probability / most, percent(item.probability)]))];
}

function said(told) {
  const note = typeof told.log_probability === "number" ? [make("p", "note", `${told.tokens} ${say("tokens")} · ${say("log_probability")} ${told.log_probability.toFixed(3)}`)] : [];
  return [headline(told.prediction ?? ""), ...note];
}

const SHOWN = { classify: classified, tag: tagged, answer: answered, rank: ranked };

/** `row`: {route, required, either, optional, images}, as /v1/models tells it. */
export function startRows(row, problem) {
  const form = byId("rows_form"), out = byId("answer"), button = byId("rows_send");
  const group = row.either.filter((words) => words.length).at(-1) ?? []; // the simplest of several ways comes last
  const free = row.either.some((words) => !words.length); // one of the ways is to give nothing
  const first = [...new Set([...row.required, ...group])];
  // Where a picture is named first, it is also shown first.
  byId("fields").append(...first.map((word) => field(word, row, !(free && group.includes(word)))));
  const others = row.optional.filter((word) => !first.includes(word) && !row.either.flat().includes(word));
  if (others.length) {
    const title = make("summary", "", say("more"));
    title.dataset.say = "more";
    byId("fields").append(make("details", "", title, ...others.map((word) => field(word, row, false))));
  }
  sendOnEnter(form);
  let asked = 0;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const mine = ++asked;
    problem("");
    button.disabled = true;
    out.replaceChildren(make("p", "note", say("thinking")));
    try {
      const given = await rowOf(form);
      const reply = await (await call(`v1/${row.route}`, { input: given })).json();
      const told = reply.data[0];
      if (mine === asked) out.replaceChildren(...(SHOWN[row.route] ?? said)(told, given), rawReply(told));
    } catch (error) {
      out.replaceChildren();
      problem(error.message);
    } finally {
      button.disabled = false;
    }
  });
}

export function startEmbedding(problem) {
  const form = byId("embed_form"), out = byId("near");
  sendOnEnter(form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    problem("");
    const input = byId("texts").value.split("\n").map((text) => text.trim()).filter(Boolean);
    if (input.length < 2) {
      problem(say("two_texts"));
      return;
    }
    try {
      const { data } = await (await call("v1/embed", { input })).json();
      const [first, ...others] = data.map((item) => item.embedding); // vectors of length 1
      const near = others.map((vector) => vector.reduce((sum, value, place) => sum + value * first[place], 0));
      const rows = near.map((value, place) => [input[place + 1], value, value.toFixed(3)]).sort((one, other) => other[1] - one[1]);
      out.replaceChildren(headline(input[0]), bars(rows));
    } catch (error) {
      problem(error.message);
    }
  });
}
