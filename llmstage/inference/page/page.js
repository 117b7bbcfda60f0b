// Entry point of the model page: reads /v1/models and opens a view for each route of the model.

import { call } from "./api.js";
import { startChat, startWriting } from "./chat.js";
import { startEmbedding, startRows } from "./rows.js";
import { make } from "./elements.js";
import { setUpLanguageSelect, translate, applyLabels } from "./labels.js";

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

/** Add a button for each view. The server lists the routes in the order in which the views should appear. */
function addViews(modelInfo) {
  const views = modelInfo.routes.map((route) => VIEWS[route] ?? (modelInfo.row && route === `/v1/${modelInfo.row.route}` ? "rows" : null)).filter(Boolean);
  for (const view of new Set(views)) {
    const button = make("button", "", translate(view === "rows" ? "try" : view));
    button.type = "button";
    button.dataset.view = view;
    button.dataset.text = view === "rows" ? "try" : view;
    button.addEventListener("click", () => show(view));
    byId("views").append(button);
  }
  if (modelInfo.routes.includes("/v1/monitor")) {
    const link = make("a", "", translate("monitor"));
    link.href = "monitor";
    link.dataset.text = "monitor";
    byId("views").append(link);
  }
  byId("views").hidden = byId("views").children.length < 2;
  return views;
}

async function start() {
  problem("");
  let modelInfo;
  try {
    modelInfo = (await (await call("v1/models")).json()).data[0];
  } catch (error) {
    problem(error.message);
    const again = make("button", "quiet", translate("again"));
    again.type = "button";
    again.addEventListener("click", start);
    byId("problem").append(" ", again);
    return;
  }
  document.title = modelInfo.id;
  byId("model").textContent = modelInfo.id;
  byId("task").textContent = modelInfo.task.replaceAll("_", " ");
  const views = addViews(modelInfo);
  const stops = [];
  if (views.includes("chat")) stops.push(startChat(modelInfo, problem));
  if (views.includes("write")) stops.push(startWriting(problem));
  if (views.includes("rows")) startRows(modelInfo.row, problem);
  if (views.includes("embed")) startEmbedding(problem);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !event.isComposing) stops.forEach((stop) => stop());
  });
  applyLabels();
  show(views[0]);
}

setUpLanguageSelect(byId("language"));
applyLabels();
start();
