// The view that predicts a row: a field for each column, and the prediction.

import { call, Problem } from "./api.js";
import { bars, make, marked, percent, rawReply, sendOnEnter } from "./elements.js";
import { fieldName, translate } from "./labels.js";

const byId = (id) => document.getElementById(id);
const LONG = new Set(["text", "context", "document", "source", "caption", "item", "tokens"]);
const LISTS = { caption: "\n", item: "\n", tokens: " " }; // columns with several values, and their separator
const MAX_BYTES = 600_000; // a picture with more bytes is scaled down
const MAX_SIDE = 768; // pixels of the longer side of a scaled picture

/** A picture as a data: URI, scaled down where it is too large for the server. */
async function dataUri(file) {
  if (file.size <= MAX_BYTES) {
    return new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.onerror = () => reject(new Problem(translate("unreadable")));
      reader.readAsDataURL(file);
    });
  }
  let picture;
  try {
    picture = await createImageBitmap(file);
  } catch {
    throw new Problem(translate("unreadable"));
  }
  const scale = Math.min(1, MAX_SIDE / Math.max(picture.width, picture.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(picture.width * scale));
  canvas.height = Math.max(1, Math.round(picture.height * scale));
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.92);
}

function imageBox(column) {
  const box = make("input");
  box.type = "file";
  box.accept = "image/*";
  box.name = column;
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

function field(column, row, needed) {
  const name = make("span", "", fieldName(column));
  name.dataset.field = column;
  const label = make("label", "", name);
  let box;
  if (row.images.includes(column)) {
    const [input, view] = imageBox(column);
    box = input;
    label.append(box, view);
  } else {
    box = make(LONG.has(column) ? "textarea" : "input");
    if (LONG.has(column)) box.rows = column === "context" || column === "document" ? 6 : 3;
    label.append(box);
  }
  box.name = column;
  box.required = needed;
  return label;
}

/** The row in the form: {column: value}, without empty fields. */
async function rowOf(form) {
  const out = {};
  for (const box of form.elements) {
    if (!box.name) continue;
    if (box.type === "file") {
      if (box.files.length) out[box.name] = await dataUri(box.files[0]);
    } else if (box.value.trim()) {
      const separator = LISTS[box.name];
      out[box.name] = separator ? box.value.split(separator === " " ? /\s+/ : /\n/).map((part) => part.trim()).filter(Boolean) : box.value;
    }
  }
  return out;
}

/** [[label, probability]] of a prediction, the most likely first. */
function shares(result) {
  const rows = result.log_probabilities
    ? Object.entries(result.log_probabilities).map(([label, value]) => [label, Math.exp(value)])
    : Object.entries(result.probabilities ?? result.similarities ?? {});
  return rows.sort((a, b) => b[1] - a[1]);
}

function headline(value) {
  const text = make("p", "headline", Array.isArray(value) ? value.join(", ") : typeof value === "number" ? value.toPrecision(5) : String(value));
  text.dir = "auto";
  return text;
}

/** The elements for a label, several labels or a number. */
function classified(result) {
  if (result.targets) { // several targets at once
    return Object.entries(result.targets).map(([column, target]) => make("section", "", make("h3", "", column), ...classified({ ...target, prediction: result.prediction[column] })));
  }
  const rows = shares(result);
  const likeness = result.similarities ? rows.map(([label, share]) => [label, share, share.toFixed(3)]) : rows;
  const sure = result.probability !== undefined && !rows.length ? [make("p", "note", percent(result.probability))] : [];
  return [headline(result.prediction), ...sure, ...(rows.length ? [bars(likeness)] : [])];
}

function tagged(result) {
  const spans = result.spans ?? [];
  const labels = [...new Set(spans.map((span) => span.label))].sort();
  const legend = labels.map((label) => `${label} ${spans.filter((span) => span.label === label).length}`).join(" · ");
  return [marked(result.text, spans), make("p", "note", legend || translate("nothing_found"))];
}

function answered(result, row) {
  if (!row.context) return classified(result);
  if (result.prediction === null || result.prediction === "") return [headline(translate("no_answer"))];
  const spans = result.start === null || result.start === undefined ? [] : [{ start: result.start, end: result.end, confidence: result.confidence }];
  const rest = (result.n_best ?? []).map((span) => [span.text, span.confidence]);
  return [headline(result.prediction), marked(row.context, spans), ...(rest.length > 1 ? [make("h3", "", translate("alternatives")), bars(rest, 5)] : [])];
}

function ranked(result) {
  const best = result.prediction;
  const most = Math.max(...best.map((item) => item.probability), 1e-12);
  return [bars(best.map((item) => [item.text ? `${item.item} · ${item.text}` : item.item, item.probability / most, percent(item.probability)]))];
}

function generated(result) {
  const note = typeof result.log_probability === "number" ? [make("p", "note", `${result.tokens} ${translate("tokens")} · ${translate("log_probability")} ${result.log_probability.toFixed(3)}`)] : [];
  return [headline(result.prediction ?? ""), ...note];
}

const RENDERERS = { classify: classified, tag: tagged, answer: answered, rank: ranked };

/** `row`: {route, required, either, optional, images} from /v1/models. */
export function startRows(row, problem) {
  const form = byId("rows_form"), out = byId("answer"), button = byId("rows_send");
  const group = row.either.filter((columns) => columns.length).at(-1) ?? []; // of several groups the last is the simplest
  const free = row.either.some((columns) => !columns.length); // one of the groups is empty: the fields are optional
  const first = [...new Set([...row.required, ...group])];
  // The fields have the order in which the server lists the columns.
  byId("fields").append(...first.map((column) => field(column, row, !(free && group.includes(column)))));
  const others = row.optional.filter((column) => !first.includes(column) && !row.either.flat().includes(column));
  if (others.length) {
    const title = make("summary", "", translate("more"));
    title.dataset.text = "more";
    byId("fields").append(make("details", "", title, ...others.map((column) => field(column, row, false))));
  }
  sendOnEnter(form);
  let latest = 0;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const current = ++latest;
    problem("");
    button.disabled = true;
    out.replaceChildren(make("p", "note", translate("thinking")));
    try {
      const input = await rowOf(form);
      const reply = await (await call(`v1/${row.route}`, { input })).json();
      const result = reply.data[0];
      if (current === latest) out.replaceChildren(...(RENDERERS[row.route] ?? generated)(result, input), rawReply(result));
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
      problem(translate("two_texts"));
      return;
    }
    try {
      const { data } = await (await call("v1/embed", { input })).json();
      const [first, ...others] = data.map((item) => item.embedding); // vectors of length 1
      const near = others.map((vector) => vector.reduce((sum, value, index) => sum + value * first[index], 0));
      const rows = near.map((value, index) => [input[index + 1], value, value.toFixed(3)]).sort((a, b) => b[1] - a[1]);
      out.replaceChildren(headline(input[0]), bars(rows));
    } catch (error) {
      problem(error.message);
    }
  });
}
