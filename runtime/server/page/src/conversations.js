// Conversations, kept in the browser: each under a key of its own, as a tree of messages.
//
// A message has an id, its parent's id, a role and text; messages with one parent are branches. Nothing in a tree is ever
// changed back, so two windows that write the same conversation are merged by id, and neither loses what the other wrote.

const PREFIX = "ovround.conversation.";
const TITLE = 60;

export const newId = () => crypto.getRandomValues(new Uint32Array(3)).reduce((text, part) => text + part.toString(36), "");

export const create = () => ({ id: newId(), title: "", created: Date.now(), updated: Date.now(), head: null, messages: {} });

const read = (key) => {
  try {
    const found = JSON.parse(localStorage.getItem(key));
    return found && typeof found.messages === "object" && found.id ? found : null;
  } catch {
    return null;
  }
};

export const load = (id) => read(PREFIX + id);

export const isOurs = (key) => key === null || key.startsWith(PREFIX);

export function list() {
  const keys = Object.keys(localStorage).filter((key) => key.startsWith(PREFIX));
  return keys.map(read).filter(Boolean).sort((one, other) => other.updated - one.updated);
}

// Writes the conversation together with what another window has added to it since; returns whether the browser kept it.
export function save(conversation) {
  const kept = load(conversation.id);
  if (kept) conversation.messages = { ...kept.messages, ...conversation.messages };
  conversation.updated = Date.now();
  try {
    localStorage.setItem(PREFIX + conversation.id, JSON.stringify(conversation));
    return true;
  } catch {
    return false;
  }
}

export const remove = (id) => localStorage.removeItem(PREFIX + id);

export function rename(id, title) {
  const conversation = load(id);
  if (!conversation) return;
  conversation.title = title.trim().slice(0, TITLE) || conversation.title;
  save(conversation);
}

export function add(conversation, message) {
  const whole = { id: newId(), parent: conversation.head, time: Date.now(), ...message };
  conversation.messages[whole.id] = whole;
  conversation.head = whole.id;
  if (!conversation.title && message.role === "user") conversation.title = titleOf(message);
  return whole;
}

const titleOf = ({ text, files }) => (text || files?.[0]?.name || "").replace(/\s+/g, " ").slice(0, TITLE);

// The messages from the first to the head.
export function path(conversation) {
  const messages = [], seen = new Set();
  for (let at = conversation.messages[conversation.head]; at && !seen.has(at.id); at = conversation.messages[at.parent]) {
    seen.add(at.id);
    messages.unshift(at);
  }
  return messages;
}

export const siblings = (conversation, message) =>
  Object.values(conversation.messages).filter((other) => other.parent === message.parent && other.role === message.role)
    .sort((one, other) => one.time - other.time);

// Makes the branch with `message` the one that is shown, down to its latest message.
export function choose(conversation, message) {
  let leaf = message;
  for (;;) {
    const children = Object.values(conversation.messages).filter((other) => other.parent === leaf.id);
    if (!children.length) break;
    leaf = children.reduce((latest, other) => (other.time > latest.time ? other : latest));
  }
  conversation.head = leaf.id;
}

const fenced = ({ name, text }) => {
  const fence = "`".repeat(Math.max(3, ...[...text.matchAll(/`+/g)].map((run) => run[0].length + 1)));
  return `${name}:\n${fence}\n${text}\n${fence}`;
};

export const content = ({ text, files }) => [...(files ?? []).map(fenced), text].filter(Boolean).join("\n\n");

// What the server is asked: without a question that failed and its failure, so that one error spoils nothing that follows.
export function request(conversation, system) {
  const messages = path(conversation);
  const failed = new Set(messages.filter((one) => one.error && !one.text).flatMap((one) => [one.id, one.parent]));
  const said = messages.filter((one) => !failed.has(one.id)).map((one) => ({ role: one.role, content: content(one) }));
  return system ? [{ role: "system", content: system }, ...said] : said;
}

export function markdown(conversation) {
  const heading = { user: "You", assistant: "Model" };
  const parts = path(conversation).map((one) => `## ${heading[one.role]}\n\n${content(one) || one.error || ""}`);
  return `# ${conversation.title || "Chat"}\n\n${parts.join("\n\n")}\n`;
}
