// The page begins here: what model is this, and which ways are there to use it?

import { call } from "./api.js";
import { startChat, startWriting } from "./chat.js";
import { startEmbedding, startRows } from "./rows.js";
import { make } from "./shown.js";
import { offerLanguages, say, speak } from "./words.js";

const byId = (id) => document.getElementById(id);

function problem(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = !text;
}

const VIEWS = { "/v1/chat/completions": "chat", "/v1/completions": "write", "/v1/embed": "embed" };

function show(view) {
  problem("");
  for (const section of document.querySelectorAll(".view")) section.hidden = section.id !== view;
  for (const button of byId("views").querySelectorAll("button")) button.setAttribute("aria-current", button.dataset.view === view ? "page" : "false");
  byId(view).querySelector("textarea:not(details textarea), input")?.focus();
}

/** `routes` stand in the order in which they make sense for the model; each has a view. */
function offerViews(about) {
  const views = about.routes.map((route) => VIEWS[route] ?? (about.row && route === `/v1/${about.row.route}` ? "rows" : null)).filter(Boolean);
  for (const view of new Set(views)) {
    const button = make("button", "", say(view === "rows" ? "try" : view));
    button.type = "button";
    button.dataset.view = view;
    button.dataset.say = view === "rows" ? "try" : view;
    button.addEventListener("click", () => show(view));
    byId("views").append(button);
  }
  if (about.routes.includes("/v1/monitor")) {
    const link = make("a", "", say("monitor"));
    link.href = "monitor";
    link.dataset.say = "monitor";
    byId("views").append(link);
  }
  byId("views").hidden = byId("views").children.length < 2;
  return views;
}

async function begin() {
  problem("");
  let about;
  try {
    about = (await (await call("v1/models")).json()).data[0];
  } catch (error) {
    problem(error.message);
    const again = make("button", "quiet", say("again"));
    again.type = "button";
    again.addEventListener("click", begin);
    byId("problem").append(" ", again);
    return;
  }
  document.title = about.id;
  byId("model").textContent = about.id;
  byId("task").textContent = about.task.replaceAll("_", " ");
  const views = offerViews(about);
  const stops = [];
  if (views.includes("chat")) stops.push(startChat(about, problem));
  if (views.includes("write")) stops.push(startWriting(problem));
  if (views.includes("rows")) startRows(about.row, problem);
  if (views.includes("embed")) startEmbedding(problem);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !event.isComposing) stops.forEach((stop) => stop());
  });
  speak();
  show(views[0]);
}

offerLanguages(byId("language"));
speak();
begin();
