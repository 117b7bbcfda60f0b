// Entry point of the monitor page: requests the counts every two seconds and redraws what has changed.

import { call } from "./api.js";
import { chart } from "./charts.js";
import { make, percent } from "./elements.js";
import { setUpLanguageSelect, translate, applyLabels, currentLanguage } from "./labels.js";

const EVERY = 2000;
const byId = (id) => document.getElementById(id);

let etag = null; // the tag of the displayed state
let about = null;
let timer = null;
let firstCount = null; // number of alerts at the first request
let unseen = 0; // alerts that arrived while the window had no focus
const charts = new Map();

function problem(text) {
  if (byId("problem").textContent !== text) byId("problem").textContent = text;
  byId("problem").hidden = !text;
}

/** A formatter of times in the monitor's time zone; UTC where the browser does not know that zone. */
function moments(zone, width) {
  const parts = { year: "numeric", month: "short", day: "numeric", ...(width < 86400 ? { hour: "2-digit", minute: "2-digit", hourCycle: "h23" } : {}) };
  let form;
  try {
    form = new Intl.DateTimeFormat(currentLanguage(), { ...parts, timeZone: zone });
  } catch {
    form = new Intl.DateTimeFormat(currentLanguage(), { ...parts, timeZone: "UTC", timeZoneName: "short" });
  }
  return (seconds) => form.format(new Date(1000 * seconds));
}

function stateOf() {
  if (about.running) return translate(about.begun ? "watching" : "loading");
  if (about.ended?.status === "completed") return translate("completed");
  if (about.ended?.status === "failed") return `${translate("failed")} ${about.ended.error ?? ""}`;
  return about.begun ? translate("not_running") : "";
}

function fact(word, value) {
  return make("div", "", make("dt", "", translate(word)), make("dd", "", value));
}

function alertLine(alert, number, moment) {
  const [begin] = alert.window.split("/");
  const time = make("time", "", moment(Date.parse(begin) / 1000));
  time.dateTime = begin;
  const parts = [time, make("b", "", alert.topic), `${percent(alert.share)} ${translate("negative")} (${alert.negative} / ${alert.items})`,
    `${translate("expected")} ${percent(alert.expected)}`];
  const line = make("li", "", ...parts.map((part) => typeof part === "string" ? make("span", "", part) : part),
    make("span", "p", `p = ${alert.p_value.toPrecision(2)}`));
  const failed = Object.entries(alert.delivery ?? {}).filter(([, outcome]) => outcome !== "delivered");
  for (const [channel, outcome] of failed) line.append(make("span", "p", `${channel}: ${outcome}`));
  line.classList.toggle("fresh", firstCount !== null && number > firstCount);
  return line;
}

function draw() {
  byId("folder").textContent = about.folder;
  const state = stateOf();
  if (byId("state").textContent !== state) byId("state").textContent = state;
  byId("counts").hidden = !about.begun;
  byId("wait").hidden = about.begun;
  document.title = unseen ? `(${unseen}) ${about.folder}` : about.folder;
  if (!about.begun) {
    byId("wait").textContent = `${translate(about.running ? "loading_long" : "not_begun")} ${about.path}`;
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
  byId("alerts").replaceChildren(...about.alerts.map((alert, index) => alertLine(alert, before + index + 1, moment)).reverse());
  byId("key_running").textContent = translate(about.span > 86400 ? "of_week" : "of_day");

  const drawn = about.topics.filter((topic) => topic.window_start?.length);
  about.begin = Math.min(...drawn.map((topic) => topic.window_start[0]));
  about.end = Math.max(...drawn.map((topic) => topic.window_start.at(-1)));
  for (const topic of drawn) {
    if (!charts.has(topic.topic)) charts.set(topic.topic, chart(topic.topic));
    charts.get(topic.topic).show(topic, about, moment);
  }
  const figures = drawn.map((topic) => charts.get(topic.topic).figure);
  // An element loses the focus when it is moved, so only elements at another position are moved.
  figures.forEach((figure, index) => {
    const there = byId("charts").children[index];
    if (there !== figure) byId("charts").insertBefore(figure, there ?? null);
  });
  while (byId("charts").children.length > figures.length) byId("charts").lastChild.remove();
  byId("others").replaceChildren(...about.topics.filter((topic) => !topic.window_start?.length).map((topic) =>
    make("li", "", `${topic.topic}: ${topic.items.toLocaleString()} ${translate("items")}, ${percent(topic.negative / topic.items)} ${translate("negative")}`)));
}

/** Announce new alerts to screen readers, and count them in the title while the window has no focus. */
function notice(numNew) {
  if (firstCount === null) {
    firstCount = about.num_alerts ?? 0;
  } else if (numNew > 0) {
    const newest = about.alerts.at(-1);
    byId("told").textContent = `${translate("new_alert")} ${newest.topic}, ${percent(newest.share)} ${translate("negative")}`;
    if (!document.hasFocus()) unseen += numNew;
  }
}

async function refresh() {
  timer = null;
  try {
    const answer = await call("v1/monitor", null, null, etag);
    if (answer.status !== 304) {
      const before = about?.num_alerts ?? 0;
      etag = answer.headers.get("etag");
      about = await answer.json();
      notice((about.num_alerts ?? 0) - before);
      draw();
    }
    problem("");
  } catch (error) {
    problem(error.message);
    if (error.status === 401) {
      const again = make("button", "quiet", translate("again"));
      again.type = "button";
      again.addEventListener("click", refresh, { once: true });
      byId("problem").append(" ", again);
      return;
    }
  }
  timer = setTimeout(refresh, document.hidden ? 10 * EVERY : EVERY);
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && timer !== null) {
    clearTimeout(timer);
    refresh();
  }
});
window.addEventListener("focus", () => {
  unseen = 0;
  if (about) document.title = about.folder;
});
setUpLanguageSelect(byId("language"));
byId("language").addEventListener("change", () => {
  if (about) draw();
});
applyLabels();
refresh().then(async () => {
  const models = await (await call("v1/models")).json();
  byId("views").hidden = !models.data.length; // a link to the model page, where the server has a model
}).catch(() => {});
