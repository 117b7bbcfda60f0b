// A chart of one topic: its negative share over time, the expected share, and the number of items.

import { make, percent } from "./elements.js";
import { translate } from "./labels.js";

const WIDE = 380, HIGH = 150, LEFT = 36, RIGHT = 6;
const SHARES = [8, 96], ITEMS = [104, 132]; // top and bottom of the two plots
const SVG = "http://www.w3.org/2000/svg";

function draw(tag, attributes, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

const tenth = (number) => Math.round(number * 10) / 10;

/** The path of a line; null is a gap. */
function line(xs, ys) {
  let path = "", pen = false;
  xs.forEach((x, index) => {
    if (ys[index] === null) {
      pen = false;
      return;
    }
    // A single point has no line, so each stretch begins with a very short line, which round ends make a dot.
    path += `${pen ? "L" : "M"}${tenth(x)} ${tenth(ys[index])}${pen ? "" : "h.01"}`;
    pen = true;
  });
  return path;
}

/** The figure of a topic. `show(topic, about, moment)` redraws it; `moment` formats a time in the monitor's time zone. */
export function chart(name) {
  const title = make("h3", "", name);
  const caption = make("figcaption");
  caption.setAttribute("aria-live", "polite");
  const svg = draw("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img" });
  const figure = make("figure", "", title, svg, caption);
  figure.tabIndex = 0;
  let topic = null, about = null, moment = String;
  let chosen = null; // the start of the window that the caption describes
  let xs = [];

  const share = (index) => topic.window_items[index] ? topic.window_negative[index] / topic.window_items[index] : null;

  function updateCaption() {
    const index = chosen === null ? -1 : topic.window_start.indexOf(chosen);
    svg.querySelector(".at")?.remove();
    if (index < 0) {
      chosen = null;
      const total = topic.items ? percent(topic.negative / topic.items) : "–";
      caption.textContent = `${topic.items.toLocaleString()} ${translate("items")}, ${total} ${translate("negative")}`;
      return;
    }
    svg.append(draw("path", { class: "at", d: `M${tenth(xs[index])} ${SHARES[0]}V${ITEMS[1]}` }));
    const expected = topic.window_expected[index];
    caption.textContent = `${moment(chosen)}: ${percent(share(index))} ${translate("negative")} (${topic.window_negative[index]} / ${topic.window_items[index]})`
      + (expected === null ? "" : `, ${translate("expected")} ${percent(expected)}`)
      + (topic.window_above[index] ? ` · ${translate("above")}` : "");
  }

  function select(index) {
    if (!topic?.window_start?.length) return;
    chosen = topic.window_start[Math.max(0, Math.min(topic.window_start.length - 1, index))];
    updateCaption();
  }

  function show(newTopic, newAbout, newMoment) {
    [topic, about, moment] = [newTopic, newAbout, newMoment];
    const starts = topic.window_start;
    const first = Math.min(about.begin, starts[0] ?? about.begin), last = Math.max(about.end, first + 1);
    xs = starts.map((start) => LEFT + ((start - first) / (last - first)) * (WIDE - LEFT - RIGHT));
    const shares = starts.map((_, index) => topic.window_items[index] >= about.min_items || topic.window_above[index] ? share(index) : null);
    const highest = Math.min(1, 1.1 * Math.max(0.1, ...[...shares, ...topic.window_running, ...topic.window_expected].filter((value) => value !== null)));
    const most = Math.max(1, ...topic.window_items);
    const y = (value) => value === null ? null : SHARES[1] - (value / highest) * (SHARES[1] - SHARES[0]);
    const height = (count) => (count / most) * (ITEMS[1] - ITEMS[0]);
    const bars = (counts) => xs.map((x, index) => counts[index] ? `M${tenth(x)} ${ITEMS[1]}v${-tenth(height(counts[index]))}` : "").join("");
    const thick = Math.max(0.8, ((WIDE - LEFT - RIGHT) * about.window) / (last - first + about.window) * 0.8);
    svg.replaceChildren(
      draw("title", {}, `${name}: ${translate("negative_share")}`),
      draw("path", { class: "axis", d: `M${LEFT} ${SHARES[1]}H${WIDE - RIGHT}M${LEFT} ${ITEMS[1]}H${WIDE - RIGHT}` }),
      draw("path", { class: "items", "stroke-width": tenth(thick), d: bars(topic.window_items) }),
      draw("path", { class: "bad", "stroke-width": tenth(thick), d: bars(topic.window_negative) }),
      draw("path", { class: "window", d: line(xs, shares.map(y)) }),
      draw("path", { class: "expected", d: line(xs, topic.window_expected.map(y)) }),
      draw("path", { class: "running", d: line(xs, topic.window_running.map(y)) }),
      ...starts.flatMap((_, index) => topic.window_above[index] ? [draw("circle", { class: "above", cx: tenth(xs[index]), cy: tenth(y(shares[index])), r: 3 })] : []),
      draw("text", { x: LEFT - 4, y: SHARES[0] + 6, "text-anchor": "end" }, `${Math.round(100 * highest)} %`),
      draw("text", { x: LEFT - 4, y: SHARES[1], "text-anchor": "end" }, "0"),
      draw("text", { x: LEFT - 4, y: ITEMS[0] + 7, "text-anchor": "end" }, most.toLocaleString()),
      draw("text", { x: LEFT, y: HIGH - 6 }, moment(first)),
      draw("text", { x: WIDE - RIGHT, y: HIGH - 6, "text-anchor": "end" }, moment(last)),
    );
    updateCaption();
  }

  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * WIDE;
    let nearest = 0;
    xs.forEach((x0, index) => { if (Math.abs(x0 - x) < Math.abs(xs[nearest] - x)) nearest = index; });
    select(nearest);
  });
  const deselect = () => {
    chosen = null;
    if (topic) updateCaption();
  };
  svg.addEventListener("pointerleave", deselect);
  figure.addEventListener("blur", deselect);
  figure.addEventListener("keydown", (event) => {
    const count = topic?.window_start?.length ?? 0;
    const at = chosen === null ? count : topic.window_start.indexOf(chosen);
    const index = { ArrowLeft: at - 1, ArrowRight: chosen === null ? count - 1 : at + 1, Home: 0, End: count - 1 }[event.key];
    if (index === undefined) return;
    event.preventDefault();
    select(index);
  });
  return { figure, show };
}
