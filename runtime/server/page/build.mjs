// Writes ../chat.html, page.html with the style sheet and the bundled scripts inside, and THIRD_PARTY.md, the licences of what
// was bundled.

import { readFile, readdir, writeFile } from "node:fs/promises";
import { build } from "esbuild";

const LIBRARIES = ["dompurify", "highlight.js", "markdown-it", "mdurl", "linkify-it", "uc.micro", "entities", "punycode.js"];

const bundled = async (entry, options) => {
  const result = await build({
    entryPoints: [entry], bundle: true, minify: true, write: false, charset: "utf8", legalComments: "none",
    target: ["chrome123", "firefox120", "safari17.5"], ...options,
  });
  return result.outputFiles[0].text.trim();
};

const licences = await Promise.all(LIBRARIES.map(async (name) => {
  const about = JSON.parse(await readFile(`node_modules/${name}/package.json`, "utf8"));
  const file = (await readdir(`node_modules/${name}`)).find((one) => /^licen[cs]e/i.test(one));
  const text = (await readFile(`node_modules/${name}/${file}`, "utf8")).replaceAll("\r\n", "\n").trim();
  return `## ${name} ${about.version}\n\n${about.license.replace(/^\((.*)\)$/, "$1")}\n\n\`\`\`\n${text}\n\`\`\`\n`;
}));
await writeFile("../../../THIRD_PARTY.md", `# What the chat page bundles

Written by \`runtime/server/page/build.mjs\`. The page of \`ovround serve\` is one file with these libraries in it.

${licences.join("\n")}`);
const parts = {
  STYLE: await bundled("src/style.css", {}),
  SCRIPT: (await bundled("src/main.js", { format: "iife" })).replaceAll("</script", "<\\/script"),
};
const page = await readFile("src/page.html", "utf8");
await writeFile("../chat.html", page.replace(/\{\{(\w+)\}\}/g, (_, name) => parts[name]));
