// The chat page: what happens when something is pressed.

import * as conversations from "./conversations.js";
import { download, readText } from "./files.js";
import * as server from "./server.js";
import * as settings from "./settings.js";
import * as view from "./view.js";

const $ = (id) => document.getElementById(id);
let conversation = conversations.list()[0] ?? conversations.create();
let running = null; // the AbortController of the answer that is being written
let files = [];

const handlers = {
  show, regenerate, edit, exportMarkdown, exportJson,
  choose(message) {
    if (running) return;
    conversations.choose(conversation, message);
    save();
    show();
  },
  open(id) {
    open(conversations.load(id) ?? conversations.create());
  },
  rename(other) {
    const title = prompt("Name of the conversation", other.title);
    if (title === null) return;
    conversations.rename(other.id, title);
    if (other.id === conversation.id) conversation.title = conversations.load(other.id).title;
    show();
  },
  remove(other) {
    if (!confirm(`Delete "${other.title}"?`)) return;
    if (other.id === conversation.id) open(conversations.create());
    conversations.remove(other.id);
    show();
  },
};

function exportMarkdown(other) {
  download(`${filename(other)}.md`, "text/markdown", conversations.markdown(other));
}

function exportJson(other) {
  download(`${filename(other)}.json`, "application/json", JSON.stringify(other, null, 1));
}

const filename = (other) => (other.title || "chat").replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40);

function open(other) {
  running?.abort();
  conversation = other;
  document.body.classList.remove("listed");
  show();
  $("text").focus();
}

function show() {
  view.showConversation(conversation, handlers);
  view.showList(conversation, handlers);
}

function save(changed = conversation) {
  if (!conversations.save(changed)) view.hint("The browser has no room left: export and delete conversations.");
}

async function answer() {
  const abort = running = new AbortController(), home = conversation;
  const body = { messages: conversations.request(home, settings.system()), ...settings.sampling() };
  const message = conversations.add(home, { role: "assistant", text: "" });
  const growing = new view.Growing(message);
  busy(true);
  try {
    for await (const delta of server.answer(body, settings.key(), abort.signal)) {
      message.text += delta.text;
      if (delta.thought) message.thought = (message.thought ?? "") + delta.thought;
      if (delta.finish === "length") message.note = join(message.note, "cut at the most tokens");
      if (delta.timings) message.note = join(statistics(delta.timings), message.note);
      growing.changed();
    }
  } catch (error) {
    if (abort.signal.aborted) message.note = join(message.note, "stopped");
    else message.error = error instanceof TypeError ? "The server does not answer." : error.message;
  }
  growing.end();
  if (running === abort) running = null;
  save(home);
  if (home === conversation) {
    busy(false);
    redraw();
  }
}

// The finished conversation, where the view is.
function redraw() {
  const before = $("log").scrollTop, followed = view.atEnd();
  show();
  if (!followed) $("log").scrollTop = before;
}

const join = (...notes) => notes.filter(Boolean).join(", ");

function statistics({ prompt_n, prompt_ms, predicted_n, predicted_per_second }) {
  const rate = predicted_per_second ? `${predicted_per_second.toFixed(1)} tokens/s` : "";
  const prompt = prompt_n === undefined ? "" : `prompt ${prompt_n}`;
  return join(`${predicted_n} tokens`, rate, `first after ${Math.round(prompt_ms)} ms`, prompt);
}

function busy(is) {
  $("send").hidden = is;
  $("stop").hidden = !is;
  view.hint("");
}

function send() {
  const text = $("text").value.trim();
  if ((!text && !files.length) || running) return;
  conversations.add(conversation, { role: "user", text, ...(files.length && { files }) });
  $("text").value = "";
  files = [];
  grow();
  view.showFiles(files, drop);
  save();
  show();
  answer();
}

function regenerate(message) {
  if (running) return;
  conversation.head = message.parent;
  show();
  answer();
}

function edit(message, text) {
  if (running || !text) return;
  conversation.head = message.parent;
  conversations.add(conversation, { role: "user", text, ...(message.files && { files: message.files }) });
  save();
  show();
  answer();
}

async function attach(list) {
  view.hint("");
  for (const file of list) {
    try {
      files.push(await readText(file));
    } catch (error) {
      view.hint(error.message);
    }
  }
  view.showFiles(files, drop);
  $("text").focus();
}

function drop(file) {
  files = files.filter((other) => other !== file);
  view.showFiles(files, drop);
}

function grow() {
  $("text").style.height = "auto";
  $("text").style.height = `${$("text").scrollHeight + 2}px`;
}

async function nameModel() {
  try {
    const model = await server.model(settings.key());
    $("model").textContent = model?.id ?? "";
    if (!model) view.hint("The server wants an API key: see Settings.");
  } catch {
    view.hint("The server does not answer.");
  }
}

$("form").addEventListener("submit", (event) => { event.preventDefault(); send(); });
$("text").addEventListener("input", grow);
$("text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
$("stop").addEventListener("click", () => running?.abort());
$("new").addEventListener("click", () => open(conversations.create()));
$("menu").addEventListener("click", () => {
  const listed = document.body.classList.toggle("listed");
  $("menu").setAttribute("aria-expanded", String(listed));
});
for (const id of ["close", "shade"]) $(id).addEventListener("click", () => {
  document.body.classList.remove("listed");
  $("menu").setAttribute("aria-expanded", "false");
});
$("settings-open").addEventListener("click", () => $("settings").showModal());
$("settings").addEventListener("close", () => { settings.keep(); nameModel(); });
$("attach").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => { attach([...$("file").files]); $("file").value = ""; });
$("stage").addEventListener("dragover", (event) => event.preventDefault());
$("stage").addEventListener("drop", (event) => { event.preventDefault(); attach([...event.dataTransfer.files]); });
$("log").addEventListener("click", (event) => {
  const from = event.target.closest(".copy");
  if (from) view.copy(from.closest(".code").querySelector("code").textContent, from);
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") running?.abort(); });
document.addEventListener("click", (event) => {
  for (const more of document.querySelectorAll("details.more[open]")) if (!more.contains(event.target)) more.open = false;
});
window.addEventListener("storage", (event) => {
  if (!conversations.isOurs(event.key)) return;
  const kept = conversations.load(conversation.id);
  if (kept && !running) conversation.messages = { ...kept.messages, ...conversation.messages };
  if (running) view.showList(conversation, handlers);
  else redraw();
});

settings.restore();
view.watchScrolling();
show();
nameModel();
