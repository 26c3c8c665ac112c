// Settings of the page: kept in the browser, the key for as long as the window is open.

const KEPT = "ovround.settings";
const FIELDS = ["system", "temperature", "limit"];
const field = (name) => document.getElementById(name);

export function restore() {
  let kept = {};
  try {
    kept = JSON.parse(localStorage.getItem(KEPT)) ?? {};
  } catch {
    // as if nothing was kept
  }
  for (const name of FIELDS) field(name).value = kept[name] ?? "";
  field("key").value = sessionStorage.getItem(KEPT) ?? "";
}

export function keep() {
  localStorage.setItem(KEPT, JSON.stringify(Object.fromEntries(FIELDS.map((name) => [name, field(name).value]))));
  sessionStorage.setItem(KEPT, field("key").value);
}

export const key = () => field("key").value.trim();
export const system = () => field("system").value.trim();

// The fields of a request; one that is left empty is the server's to choose.
export function sampling() {
  const temperature = parseFloat(field("temperature").value), limit = parseInt(field("limit").value, 10);
  return { ...(temperature >= 0 && { temperature }), ...(limit > 0 && { max_tokens: limit }) };
}
