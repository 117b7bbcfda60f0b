// The page of a monitor begins here: it asks every two seconds what was counted, and shows what has changed.

import { call } from "./api.js";
import { chart } from "./charts.js";
import { make, percent } from "./shown.js";
import { offerLanguages, say, speak, spoken } from "./words.js";

const EVERY = 2000;
const byId = (id) => document.getElementById(id);

let known = null; // the tag of what is shown
let about = null;
let timer = null;
let seen = null; // alerts at the first look
let fresh = 0; // alerts that came while nobody looked
const charts = new Map();

function problem(text) {
  if (byId("problem").textContent !== text) byId("problem").textContent = text;
  byId("problem").hidden = !text;
}

/** A time in the monitor's own zone; this browser may not know it. */
function moments(zone, width) {
  const parts = { year: "numeric", month: "short", day: "numeric", ...(width < 86400 ? { hour: "2-digit", minute: "2-digit", hourCycle: "h23" } : {}) };
  let form;
  try {
    form = new Intl.DateTimeFormat(spoken(), { ...parts, timeZone: zone });
  } catch {
    form = new Intl.DateTimeFormat(spoken(), { ...parts, timeZone: "UTC", timeZoneName: "short" });
  }
  return (seconds) => form.format(new Date(1000 * seconds));
}

function stateOf() {
  if (about.running) return say(about.begun ? "watching" : "loading");
  if (about.ended?.status === "completed") return say("completed");
  if (about.ended?.status === "failed") return `${say("failed")} ${about.ended.error ?? ""}`;
  return about.begun ? say("not_running") : "";
}

function fact(word, value) {
  return make("div", "", make("dt", "", say(word)), make("dd", "", value));
}

function alertLine(alert, number, moment) {
  const [begin] = alert.window.split("/");
  const time = make("time", "", moment(Date.parse(begin) / 1000));
  time.dateTime = begin;
  const parts = [time, make("b", "", alert.topic), `${percent(alert.share)} ${say("negative")} (${alert.negative} / ${alert.items})`,
    `${say("expected")} ${percent(alert.expected)}`];
  const line = make("li", "", ...parts.map((part) => typeof part === "string" ? make("span", "", part) : part),
    make("span", "p", `p = ${alert.p_value.toPrecision(2)}`));
  const failed = Object.entries(alert.delivery ?? {}).filter(([, outcome]) => outcome !== "delivered");
  for (const [way, outcome] of failed) line.append(make("span", "p", `${way}: ${outcome}`));
  line.classList.toggle("fresh", seen !== null && number > seen);
  return line;
}

function draw() {
  byId("folder").textContent = about.folder;
  const state = stateOf();
  if (byId("state").textContent !== state) byId("state").textContent = state;
  byId("counts").hidden = !about.begun;
  byId("wait").hidden = about.begun;
  document.title = fresh ? `(${fresh}) ${about.folder}` : about.folder;
  if (!about.begun) {
    byId("wait").textContent = `${say(about.running ? "loading_long" : "not_begun")} ${about.path}`;
    return;
  }
  const moment = moments(about.timezone, about.window);
  const negative = about.topics.reduce((sum, topic) => sum + topic.negative, 0);
  const counted = about.topics.reduce((sum, topic) => sum + topic.items, 0);
  byId("facts").replaceChildren(
    fact("items", about.items.toLocaleString()),
    fact("negative", counted ? percent(negative / counted) : "–"),
    fact("last_item", about.newest === null ? "–" : moments(about.timezone, 0)(about.newest)),
    ...(about.late ? [fact("late", about.late.toLocaleString())] : []),
    ...(about.bad ? [fact("bad_rows", about.bad.toLocaleString())] : []),
  );
  byId("calm").hidden = about.num_alerts > 0;
  const before = about.num_alerts - about.alerts.length;
  byId("alerts").replaceChildren(...about.alerts.map((alert, place) => alertLine(alert, before + place + 1, moment)).reverse());
  byId("key_running").textContent = say(about.span > 86400 ? "of_week" : "of_day");

  const drawn = about.topics.filter((topic) => topic.window_start?.length);
  about.begin = Math.min(...drawn.map((topic) => topic.window_start[0]));
  about.end = Math.max(...drawn.map((topic) => topic.window_start.at(-1)));
  for (const topic of drawn) {
    if (!charts.has(topic.topic)) charts.set(topic.topic, chart(topic.topic));
    charts.get(topic.topic).show(topic, about, moment);
  }
  const figures = drawn.map((topic) => charts.get(topic.topic).figure);
  // Moving an element takes the focus from it, so only what stands elsewhere is moved.
  figures.forEach((figure, place) => {
    const there = byId("charts").children[place];
    if (there !== figure) byId("charts").insertBefore(figure, there ?? null);
  });
  while (byId("charts").children.length > figures.length) byId("charts").lastChild.remove();
  byId("others").replaceChildren(...about.topics.filter((topic) => !topic.window_start?.length).map((topic) =>
    make("li", "", `${topic.topic}: ${topic.items.toLocaleString()} ${say("items")}, ${percent(topic.negative / topic.items)} ${say("negative")}`)));
}

/** Alerts that came since the last look are told to those who do not see the page change, too. */
function notice(came) {
  if (seen === null) {
    seen = about.num_alerts ?? 0;
  } else if (came > 0) {
    const newest = about.alerts.at(-1);
    byId("told").textContent = `${say("new_alert")} ${newest.topic}, ${percent(newest.share)} ${say("negative")}`;
    if (!document.hasFocus()) fresh += came;
  }
}

async function look() {
  timer = null;
  try {
    const answer = await call("v1/monitor", null, null, known);
    if (answer.status !== 304) {
      const before = about?.num_alerts ?? 0;
      known = answer.headers.get("etag");
      about = await answer.json();
      notice((about.num_alerts ?? 0) - before);
      draw();
    }
    problem("");
  } catch (error) {
    problem(error.message);
    if (error.status === 401) {
      const again = make("button", "quiet", say("again"));
      again.type = "button";
      again.addEventListener("click", look, { once: true });
      byId("problem").append(" ", again);
      return;
    }
  }
  timer = setTimeout(look, document.hidden ? 10 * EVERY : EVERY);
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && timer !== null) {
    clearTimeout(timer);
    look();
  }
});
window.addEventListener("focus", () => {
  fresh = 0;
  if (about) document.title = about.folder;
});
offerLanguages(byId("language"));
byId("language").addEventListener("change", () => {
  if (about) draw();
});
speak();
look().then(async () => {
  const models = await (await call("v1/models")).json();
  byId("views").hidden = !models.data.length; // a way back, where there is a model beside the monitor
}).catch(() => {});
