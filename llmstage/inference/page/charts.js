// A small chart of one topic: its negative share over time, what was expected, and how many items there were.

import { make, percent } from "./shown.js";
import { say } from "./words.js";

const WIDE = 380, HIGH = 150, LEFT = 36, RIGHT = 6;
const SHARES = [8, 96], ITEMS = [104, 132]; // top and bottom of the two parts
const SVG = "http://www.w3.org/2000/svg";

function draw(tag, attributes, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

const tenth = (number) => Math.round(number * 10) / 10;

/** A line through the points that there are; where a value is null, it breaks. */
function line(xs, ys) {
  let path = "", pen = false;
  xs.forEach((x, place) => {
    if (ys[place] === null) {
      pen = false;
      return;
    }
    // A single point would be no line: a stretch of nothing with a round end is a dot.
    path += `${pen ? "L" : "M"}${tenth(x)} ${tenth(ys[place])}${pen ? "" : "h.01"}`;
    pen = true;
  });
  return path;
}

/** A topic's figure. `show(topic, about, moment)` draws it anew; `moment` writes a time of the monitor's zone. */
export function chart(name) {
  const title = make("h3", "", name);
  const told = make("figcaption");
  told.setAttribute("aria-live", "polite");
  const svg = draw("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img" });
  const figure = make("figure", "", title, svg, told);
  figure.tabIndex = 0;
  let topic = null, about = null, moment = String;
  let chosen = null; // the start of the window that is looked at
  let xs = [];

  const share = (place) => topic.window_items[place] ? topic.window_negative[place] / topic.window_items[place] : null;

  function tell() {
    const place = chosen === null ? -1 : topic.window_start.indexOf(chosen);
    svg.querySelector(".at")?.remove();
    if (place < 0) {
      chosen = null;
      const whole = topic.items ? percent(topic.negative / topic.items) : "–";
      told.textContent = `${topic.items.toLocaleString()} ${say("items")}, ${whole} ${say("negative")}`;
      return;
    }
    svg.append(draw("path", { class: "at", d: `M${tenth(xs[place])} ${SHARES[0]}V${ITEMS[1]}` }));
    const expected = topic.window_expected[place];
    told.textContent = `${moment(chosen)}: ${percent(share(place))} ${say("negative")} (${topic.window_negative[place]} / ${topic.window_items[place]})`
      + (expected === null ? "" : `, ${say("expected")} ${percent(expected)}`)
      + (topic.window_above[place] ? ` · ${say("above")}` : "");
  }

  function look(place) {
    if (!topic?.window_start?.length) return;
    chosen = topic.window_start[Math.max(0, Math.min(topic.window_start.length - 1, place))];
    tell();
  }

  function show(newTopic, newAbout, newMoment) {
    [topic, about, moment] = [newTopic, newAbout, newMoment];
    const starts = topic.window_start;
    const first = Math.min(about.begin, starts[0] ?? about.begin), last = Math.max(about.end, first + 1);
    xs = starts.map((start) => LEFT + ((start - first) / (last - first)) * (WIDE - LEFT - RIGHT));
    const shares = starts.map((_, place) => topic.window_items[place] >= about.min_items || topic.window_above[place] ? share(place) : null);
    const highest = Math.min(1, 1.1 * Math.max(0.1, ...[...shares, ...topic.window_running, ...topic.window_expected].filter((value) => value !== null)));
    const most = Math.max(1, ...topic.window_items);
    const y = (value) => value === null ? null : SHARES[1] - (value / highest) * (SHARES[1] - SHARES[0]);
    const height = (count) => (count / most) * (ITEMS[1] - ITEMS[0]);
    const bars = (counts) => xs.map((x, place) => counts[place] ? `M${tenth(x)} ${ITEMS[1]}v${-tenth(height(counts[place]))}` : "").join("");
    const thick = Math.max(0.8, ((WIDE - LEFT - RIGHT) * about.window) / (last - first + about.window) * 0.8);
    svg.replaceChildren(
      draw("title", {}, `${name}: ${say("negative_share")}`),
      draw("path", { class: "axis", d: `M${LEFT} ${SHARES[1]}H${WIDE - RIGHT}M${LEFT} ${ITEMS[1]}H${WIDE - RIGHT}` }),
      draw("path", { class: "items", "stroke-width": tenth(thick), d: bars(topic.window_items) }),
      draw("path", { class: "bad", "stroke-width": tenth(thick), d: bars(topic.window_negative) }),
      draw("path", { class: "window", d: line(xs, shares.map(y)) }),
      draw("path", { class: "expected", d: line(xs, topic.window_expected.map(y)) }),
      draw("path", { class: "running", d: line(xs, topic.window_running.map(y)) }),
      ...starts.flatMap((_, place) => topic.window_above[place] ? [draw("circle", { class: "above", cx: tenth(xs[place]), cy: tenth(y(shares[place])), r: 3 })] : []),
      draw("text", { x: LEFT - 4, y: SHARES[0] + 6, "text-anchor": "end" }, `${Math.round(100 * highest)} %`),
      draw("text", { x: LEFT - 4, y: SHARES[1], "text-anchor": "end" }, "0"),
      draw("text", { x: LEFT - 4, y: ITEMS[0] + 7, "text-anchor": "end" }, most.toLocaleString()),
      draw("text", { x: LEFT, y: HIGH - 6 }, moment(first)),
      draw("text", { x: WIDE - RIGHT, y: HIGH - 6, "text-anchor": "end" }, moment(last)),
    );
    tell();
  }

  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * WIDE;
    let nearest = 0;
    xs.forEach((one, place) => { if (Math.abs(one - x) < Math.abs(xs[nearest] - x)) nearest = place; });
    look(nearest);
  });
  const away = () => {
    chosen = null;
    if (topic) tell();
  };
  svg.addEventListener("pointerleave", away);
  figure.addEventListener("blur", away);
  figure.addEventListener("keydown", (event) => {
    const count = topic?.window_start?.length ?? 0;
    const at = chosen === null ? count : topic.window_start.indexOf(chosen);
    const place = { ArrowLeft: at - 1, ArrowRight: chosen === null ? count - 1 : at + 1, Home: 0, End: count - 1 }[event.key];
    if (place === undefined) return;
    event.preventDefault();
    look(place);
  });
  return { figure, show };
}
