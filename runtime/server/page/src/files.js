// Text files that go with a message.

const LARGEST = 256 * 1024;

// `{ name, text }`; throws an Error that says why a file cannot go with a message.
export async function readText(file) {
  if (file.size > LARGEST) throw new Error(`${file.name} has ${Math.round(file.size / 1024)} KB; at most ${LARGEST / 1024} KB can be attached.`);
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    if (text.includes("\0")) throw new TypeError();
    return { name: file.name, text };
  } catch {
    throw new Error(`${file.name} is no text file.`);
  }
}

export function download(name, kind, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: kind }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
