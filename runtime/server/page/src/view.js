// The conversation as elements. Handlers come from main.js.

import * as conversations from "./conversations.js";
import { render } from "./markdown.js";

const $ = (id) => document.getElementById(id);
const NEAR = 48; // pixels from the end within which the view follows an answer

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const button = (text, label, click) => {
  const made = element("button", { type: "button", className: "plain", textContent: text, onclick: click });
  made.setAttribute("aria-label", label);
  made.title = label;
  return made;
};

let follows = true;

export function atEnd() {
  const log = $("log");
  return log.scrollHeight - log.scrollTop - log.clientHeight < NEAR;
}

export function watchScrolling() {
  $("log").addEventListener("scroll", () => {
    follows = atEnd();
    $("down").hidden = follows;
  });
  $("down").addEventListener("click", () => toEnd());
}

export function toEnd() {
  follows = true;
  $("log").scrollTop = $("log").scrollHeight;
}

const followIfAtEnd = () => follows && toEnd();

export function showConversation(conversation, handlers) {
  const messages = conversations.path(conversation);
  $("log").replaceChildren(...messages.map((message) => article(conversation, message, handlers)));
  $("title").textContent = conversation.title || "New chat";
  document.title = conversation.title ? `${conversation.title} · ovround` : "ovround";
  if (!messages.length) $("log").append(element("p", { className: "empty", textContent: "What would you like to know?" }));
  toEnd();
}

function article(conversation, message, handlers) {
  const made = element("article", { className: message.role });
  made.dataset.id = message.id;
  made.setAttribute("aria-label", message.role === "user" ? "You" : "Answer");
  if (message.thought) made.append(thought(message.thought, false));
  for (const file of message.files ?? []) made.append(attached(file));
  const body = element("div", { className: "body" });
  if (message.role === "user") body.textContent = message.text;
  else body.append(render(message.text));
  made.append(body);
  if (message.error) made.append(failure(message, handlers));
  made.append(footer(conversation, message, handlers));
  return made;
}

function thought(text, open) {
  return element("details", { className: "thought", open }, element("summary", { textContent: "Reasoning" }),
    element("div", { textContent: text }));
}

const attached = (file) => element("details", { className: "file" },
  element("summary", { textContent: `${file.name}, ${file.text.length} characters` }), element("pre", { textContent: file.text }));

function failure(message, handlers) {
  const made = element("p", { className: "failed", textContent: message.error });
  made.setAttribute("role", "alert");
  made.append(" ", element("button", { type: "button", textContent: "Try again", onclick: () => handlers.regenerate(message) }));
  return made;
}

function footer(conversation, message, handlers) {
  const made = element("footer");
  const others = conversations.siblings(conversation, message), at = others.indexOf(message);
  if (others.length > 1) {
    const previous = button("‹", "Previous version", () => handlers.choose(others[at - 1]));
    const next = button("›", "Next version", () => handlers.choose(others[at + 1]));
    previous.disabled = at === 0;
    next.disabled = at === others.length - 1;
    made.append(previous, element("span", { textContent: `${at + 1}/${others.length}` }), next);
  }
  if (message.role === "user") made.append(button("Edit", "Edit this message", () => edit(message, handlers)));
  else if (!message.error) made.append(button("Again", "Answer once more", () => handlers.regenerate(message)));
  if (message.text) made.append(button("Copy", "Copy the text", (event) => copy(message.text, event.currentTarget)));
  if (message.note) made.append(element("small", { textContent: message.note }));
  return made;
}

export async function copy(text, from) {
  const before = from.textContent;
  try {
    await navigator.clipboard.writeText(text);
    from.textContent = "Copied";
  } catch {
    from.textContent = "Not allowed";
  }
  setTimeout(() => { from.textContent = before; }, 1500);
}

function edit(message, handlers) {
  const made = $("log").querySelector(`[data-id="${message.id}"]`);
  const area = element("textarea", { value: message.text, rows: Math.min(12, message.text.split("\n").length + 1) });
  area.setAttribute("aria-label", "Changed message");
  const done = () => handlers.edit(message, area.value.trim());
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { event.stopPropagation(); handlers.show(); }
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); done(); }
  });
  made.replaceChildren(area, element("footer", {}, element("button", { type: "button", textContent: "Send", onclick: done }),
    button("Cancel", "Leave it as it was", () => handlers.show())));
  area.focus();
}

// The article of an answer that comes piece by piece. A long one is drawn less often, since each drawing reads all of it.
export class Growing {
  constructor(message) {
    this.message = message;
    this.article = element("article", { className: "assistant" });
    this.article.dataset.id = message.id;
    this.article.setAttribute("aria-busy", "true");
    this.body = element("div", { className: "body" }, element("span", { className: "waiting", textContent: "…" }));
    this.article.append(this.body);
    $("log").querySelector(".empty")?.remove();
    $("log").append(this.article);
    this.due = 0;
    this.wait = 0;
    followIfAtEnd();
  }

  changed() {
    if (this.timer) return;
    this.timer = setTimeout(() => { this.timer = null; this.draw(); }, Math.max(0, this.due - performance.now()));
  }

  draw() {
    const start = performance.now();
    if (this.message.thought) {
      this.thought ??= this.article.insertBefore(thought("", true), this.body);
      this.thought.lastChild.textContent = this.message.thought;
      this.thought.open = !this.message.text;
    }
    if (this.message.text) this.body.replaceChildren(render(this.message.text));
    followIfAtEnd();
    this.due = performance.now() + Math.max(30, 4 * (performance.now() - start));
  }

  end() {
    clearTimeout(this.timer);
    this.article.removeAttribute("aria-busy");
  }
}

export function showList(shown, handlers) {
  const rows = conversations.list().map((conversation) => {
    const open = element("button", { type: "button", className: "plain open", textContent: conversation.title || "New chat",
      onclick: () => handlers.open(conversation.id) });
    if (conversation.id === shown.id) open.setAttribute("aria-current", "true");
    const more = element("details", { className: "more" }, element("summary", { textContent: "⋯" }), element("div", {},
      button("Rename", "Rename this conversation", () => handlers.rename(conversation)),
      button("Export as Markdown", "Export as Markdown", () => handlers.exportMarkdown(conversation)),
      button("Export as JSON", "Export as JSON", () => handlers.exportJson(conversation)),
      button("Delete", "Delete this conversation", () => handlers.remove(conversation))));
    more.firstChild.setAttribute("aria-label", `More about ${conversation.title}`);
    return element("li", {}, open, more);
  });
  $("conversations").replaceChildren(...rows);
}

export function showFiles(files, drop) {
  $("files").replaceChildren(...files.map((file) =>
    element("li", { textContent: file.name }, button("✕", `Leave out ${file.name}`, () => drop(file)))));
}

export const hint = (text) => { $("hint").textContent = text; };
