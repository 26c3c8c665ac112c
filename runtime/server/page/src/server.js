// What the page asks of the server that it came from.

const headers = (key) => ({ "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) });

export async function model(key) {
  const reply = await fetch("/v1/models", { headers: headers(key) });
  return reply.ok ? (await reply.json()).data[0] : null;
}

// The deltas of an answer, `{ text, thought, finish, timings }`; throws an Error with the server's own words.
export async function* answer(body, key, signal) {
  const reply = await fetch("/v1/chat/completions", {
    method: "POST", headers: headers(key), body: JSON.stringify({ ...body, stream: true }), signal,
  });
  if (!reply.ok) throw new Error(await words(reply));
  for await (const event of events(reply)) {
    if (event.error) throw new Error(event.error.message);
    const choice = event.choices?.[0];
    yield {
      text: choice?.delta?.content ?? "", thought: choice?.delta?.reasoning_content ?? "",
      finish: choice?.finish_reason ?? null, timings: event.timings ?? null,
    };
  }
}

async function words(reply) {
  if (reply.status === 401) return "The server wants an API key: see Settings.";
  try {
    return (await reply.json()).error.message;
  } catch {
    return `The server answered ${reply.status}.`;
  }
}

async function* events(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (held + value).split("\n");
    held = lines.pop();
    for (const line of lines)
      if (line.startsWith("data: ") && line.trim() !== "data: [DONE]") yield JSON.parse(line.slice(6));
  }
}
