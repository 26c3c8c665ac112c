// An answer's Markdown as elements. Nothing of it runs and nothing is fetched: HTML is shown as text, images become links,
// and what comes out is sanitised again.

import DOMPurify from "dompurify";
import hljs from "highlight.js/lib/core";
import bash from "highlight.js/lib/languages/bash";
import c from "highlight.js/lib/languages/c";
import cpp from "highlight.js/lib/languages/cpp";
import csharp from "highlight.js/lib/languages/csharp";
import css from "highlight.js/lib/languages/css";
import diff from "highlight.js/lib/languages/diff";
import go from "highlight.js/lib/languages/go";
import ini from "highlight.js/lib/languages/ini";
import java from "highlight.js/lib/languages/java";
import javascript from "highlight.js/lib/languages/javascript";
import json from "highlight.js/lib/languages/json";
import markdown from "highlight.js/lib/languages/markdown";
import python from "highlight.js/lib/languages/python";
import rust from "highlight.js/lib/languages/rust";
import sql from "highlight.js/lib/languages/sql";
import typescript from "highlight.js/lib/languages/typescript";
import xml from "highlight.js/lib/languages/xml";
import yaml from "highlight.js/lib/languages/yaml";
import MarkdownIt from "markdown-it";

const languages = {
  bash, c, cpp, csharp, css, diff, go, ini, java, javascript, json, markdown, python, rust, sql, typescript, xml, yaml,
};
for (const [name, language] of Object.entries(languages)) hljs.registerLanguage(name, language);
const HIGHLIGHTED = 50_000; // characters; a longer block stays plain, since every change of it is highlighted anew

const parser = new MarkdownIt({ html: false, linkify: true, breaks: true });
parser.renderer.rules.image = (tokens, index) => {
  const token = tokens[index], address = token.attrGet("src");
  return `<a href="${parser.utils.escapeHtml(address)}">${parser.utils.escapeHtml(token.content || address)}</a>`;
};
for (const rule of ["th_open", "td_open"])
  parser.renderer.rules[rule] = (tokens, index, options, environment, self) => {
    const style = tokens[index].attrGet("style"); // the page's policy allows no style in an element
    if (style) tokens[index].attrs = [["class", style.replace("text-align:", "to-")]];
    return self.renderToken(tokens, index, options);
  };
parser.renderer.rules.table_open = () => '<div class="scroll"><table>';
parser.renderer.rules.table_close = () => "</table></div>";
parser.renderer.rules.fence = (tokens, index) => block(tokens[index].content, tokens[index].info.trim().split(/\s/)[0]);
parser.renderer.rules.code_block = (tokens, index) => block(tokens[index].content, "");

function block(code, name) {
  const known = hljs.getLanguage(name) && code.length < HIGHLIGHTED;
  const inner = known ? hljs.highlight(code, { language: name }).value : parser.utils.escapeHtml(code);
  const label = parser.utils.escapeHtml(name || "text");
  return `<div class="code"><div><span>${label}</span><button type="button" class="plain copy">Copy</button></div><pre tabindex="0"><code>${inner}</code></pre></div>`;
}

DOMPurify.addHook("afterSanitizeAttributes", (element) => {
  if (element.tagName !== "A") return;
  element.setAttribute("target", "_blank");
  element.setAttribute("rel", "noopener noreferrer");
});

export const render = (text) =>
  DOMPurify.sanitize(parser.render(text), {
    RETURN_DOM_FRAGMENT: true, FORBID_TAGS: ["img", "style", "form", "input"], FORBID_ATTR: ["style", "id", "name"],
  });
