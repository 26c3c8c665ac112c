"""The chat page in a real browser without a window: every part of it that a person can press. OVROUND_SCREENSHOTS names a
folder for pictures."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE_S

playwright = pytest.importorskip("playwright.sync_api")
BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on the path"),
    pytest.mark.parametrize("served", ["openvino"], indirect=True),
]
PICTURES = os.environ.get("OVROUND_SCREENSHOTS")
QUESTION = "How do I open a file?"
# Answers of a server: a page of Markdown, and what a hostile model may write.
MARKDOWN = """# Files

Use `with`:

```python
with open("notes.txt") as file:  # closed in the end
    print(file.read())
```

| mode | what | size |
|:-----|------|-----:|
| `r`  | read | 1 |
| `w`  | write, emptied | 20 |

1. **Open** it
2. read [the docs](https://docs.python.org)

> It is closed even after an error.
"""
HOSTILE = """<img src=x onerror="window.ran = 1"> <script>window.ran = 1</script> <b>bold</b>
![a picture](https://example.org/x.png) [a link](javascript:window.ran=1)

<style>body { display: none }</style>

```html" onmouseover="window.ran = 1
<script>window.ran = 1</script>
```
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as library:
        browser = library.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def window(served: Any, chromium: Any) -> Iterator[Any]:
    """A browser with a history of its own, in which every request and problem is noted."""
    context = chromium.new_context(viewport={"width": 1000, "height": 640})
    asked: list[str] = []
    problems: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    context.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    context.on("weberror", lambda error: problems.append(str(error.error)))
    yield context
    assert all(url.startswith((served.url, "blob:")) for url in asked)
    assert problems == []
    context.close()


@pytest.fixture
def page(served: Any, window: Any) -> Any:
    page = window.new_page()
    page.goto(served.url)
    return page


def settings(page: Any, **values: object) -> None:
    page.click("#settings-open")
    for name, value in values.items():
        page.fill(f"#{name}", str(value))
    page.click("#settings form > button")


def send(page: Any, text: str) -> None:
    page.fill("#text", text)
    page.press("#text", "Enter")


def finished(page: Any, count: int) -> None:
    """Wait until `count` answers stand there and none is being written."""
    until(
        page,
        f"document.querySelectorAll('article.assistant footer').length === {count} && document.getElementById('stop').hidden",
    )


def until(page: Any, holds: str) -> None:
    """Wait until an expression is true; `wait_for_function` evaluates it within the page, whose policy forbids that."""
    end = time.monotonic() + PATIENCE_S
    while not page.evaluate(holds):
        assert time.monotonic() < end, holds
        time.sleep(0.005)


def answering(page: Any, *answers: list[dict[str, Any]] | None) -> None:
    """Let the server's answers be these: deltas of each, one event apart; None: a refusal. Requests are kept in `window.sent`."""
    page.evaluate(
        """(answers) => {
            window.sent = [];
            window.fetch = async (url, options) => {
                window.sent.push(JSON.parse(options.body));
                const deltas = answers.shift();
                if (deltas === null) return new Response(JSON.stringify({ error: { message: "too long" } }), { status: 400 });
                const events = deltas.map((delta) => `data: ${JSON.stringify({ choices: [{ delta }] })}\\n\\n`);
                return new Response(new ReadableStream({ async start(controller) {
                    for (const event of [...events, "data: [DONE]\\n\\n"]) {
                        controller.enqueue(new TextEncoder().encode(event));
                        await new Promise((next) => setTimeout(next));
                    }
                    controller.close();
                } }));
            };
        }""",
        list(answers),
    )


def said(text: str) -> list[dict[str, Any]]:
    return [{"content": part} for part in re.findall(r".{1,40}", text, re.DOTALL)]


def picture(page: Any, name: str) -> None:
    if PICTURES:
        page.screenshot(path=str(Path(PICTURES) / f"{name}.png"))


def bodies(page: Any) -> list[str]:
    return [body.inner_text() for body in page.locator("article .body").all()]


def test_send_and_reload(served: Any, page: Any) -> None:
    settings(page, temperature=0, limit=24)
    expected = served.llm.chat([{"role": "user", "content": QUESTION}], max_new_tokens=24).text
    send(page, QUESTION)
    finished(page, 1)
    kept = page.evaluate(
        "Object.values(JSON.parse(Object.entries(localStorage).find(([key]) => /conversation/.test(key))[1]).messages)"
    )
    assert [message["text"] for message in kept] == [QUESTION, expected]
    assert "tokens/s" in page.inner_text("article.assistant small")
    assert page.inner_text("#model") == "demo"
    assert page.inner_text("#title") == QUESTION
    page.reload()
    assert bodies(page)[0] == QUESTION
    assert page.locator("article").count() == 2
    assert (page.input_value("#temperature"), page.input_value("#limit")) == ("0", "24")
    page.click("#new")
    assert page.locator("article").count() == 0
    assert page.locator("#conversations li").count() == 1


def test_markdown_is_shown_and_code_can_be_copied(window: Any, page: Any) -> None:
    window.grant_permissions(["clipboard-read", "clipboard-write"])
    answering(page, said(MARKDOWN))
    send(page, QUESTION)
    finished(page, 1)
    assert page.inner_text("article h1") == "Files"
    assert page.locator("article td.to-right").all_inner_texts() == ["1", "20"]
    assert page.locator("article .hljs-keyword").count() >= 2
    assert page.locator("article ol li").count() == 2
    assert page.get_attribute("article .body a", "rel") == "noopener noreferrer"
    page.click(".copy")
    assert page.evaluate("navigator.clipboard.readText()").startswith('with open("notes.txt") as file:  # closed')
    picture(page, "code-and-table")
    page.emulate_media(color_scheme="dark")
    picture(page, "dark")


def test_nothing_of_an_answer_runs_or_is_fetched(window: Any, page: Any) -> None:
    """`window` sees to it that no other address was asked."""
    answering(page, said(HOSTILE))
    send(page, HOSTILE)
    finished(page, 1)
    assert page.evaluate("window.ran") is None
    assert page.locator("main img, main script, main style, main b").count() == 0
    assert page.locator("article.assistant a").evaluate_all("links => links.map(link => link.protocol)") == ["https:"]
    assert page.evaluate(
        "[...document.querySelectorAll('article *')].every(one => ![...one.attributes].some(a => a.name.startsWith('on')))"
    )
    assert page.is_visible("body")


def test_reasoning_is_apart(page: Any) -> None:
    answering(
        page, [{"reasoning_content": "It is "}, {"reasoning_content": "simple."}, {"content": "Four."}], said("Fine.")
    )
    send(page, "2 + 2?")
    finished(page, 1)
    assert page.inner_text("article.assistant .body") == "Four."
    page.click(".thought summary")
    assert page.inner_text(".thought div") == "It is simple."
    send(page, "Thanks")
    finished(page, 2)
    assert page.evaluate("window.sent[1].messages.map(one => one.content)") == ["2 + 2?", "Four.", "Thanks"]


STOPS: dict[str, Callable[[Any], None]] = {
    "button": lambda page: page.evaluate("window.how = () => document.getElementById('stop').click()"),
    "escape": lambda page: page.evaluate(
        "window.how = () => document.dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape', bubbles: true }))"
    ),
}


@pytest.mark.parametrize("how", sorted(STOPS))
def test_stop(served: Any, page: Any, how: str) -> None:
    """A stopped answer stays, and its engine is free."""
    settings(page, temperature=0, limit=480)
    STOPS[how](page)
    # From within the page, at the first words: from here, a quick engine would have ended before.
    page.evaluate("""() => {
        const fetching = window.fetch;
        window.fetch = (url, options) => {
            if (options?.body) options.body = JSON.stringify({ ...JSON.parse(options.body), ignore_eos: true });
            return fetching(url, options);
        };
        const observer = new MutationObserver(() => {
            if (!(document.querySelector('article.assistant .body')?.textContent.length > 5)) return;
            observer.disconnect();
            window.stopped = true;
            window.how();
        });
        observer.observe(document.body, { childList: true, characterData: true, subtree: true });
    }""")
    send(page, "Tell me everything.")
    until(page, "window.stopped === true")
    finished(page, 1)
    assert "stopped" in page.inner_text("article.assistant small")
    assert served.idle()


def test_a_failure_is_shown_sent_again_and_spoils_nothing(page: Any) -> None:
    answering(page, None, None, said("Now."), said("Yes."))
    send(page, "first")
    finished(page, 1)
    assert page.locator(".failed").evaluate("one => one.firstChild.data") == "too long"
    picture(page, "error")
    send(page, "second")
    finished(page, 2)
    page.click("article:last-of-type .failed button")
    finished(page, 2)
    assert bodies(page)[-1] == "Now."
    assert page.evaluate("window.sent.map(one => one.messages.map(message => message.content))") == [
        ["first"], ["second"], ["second"],
    ]  # fmt: skip
    send(page, "third")
    finished(page, 3)
    assert page.evaluate("window.sent[3].messages.map(one => one.content)") == ["second", "Now.", "third"]


def test_answers_and_questions_have_versions(page: Any) -> None:
    answering(page, said("One."), said("Two."), said("Three."))
    send(page, "Count")
    finished(page, 1)
    page.click("text=Again")
    until(page, "document.querySelector('article.assistant .body')?.textContent.trim() === 'Two.'")
    finished(page, 1)
    assert "2/2" in page.inner_text("article.assistant footer")
    page.click("article.assistant [aria-label='Previous version']")
    assert bodies(page) == ["Count", "One."]
    page.click("article.user >> text=Edit")
    page.fill("article.user textarea", "Count on")
    page.press("article.user textarea", "Enter")
    finished(page, 1)
    assert bodies(page) == ["Count on", "Three."]
    page.click("article.user [aria-label='Previous version']")
    assert bodies(page)[0] == "Count"
    page.reload()
    assert bodies(page)[0] == "Count"


def test_conversations_are_listed_renamed_exported_and_deleted(page: Any) -> None:
    answering(page, said("One."), said("Two."))
    for number, text in enumerate(("First talk", "Second talk"), 1):
        if number == 2:
            page.click("#new")
        send(page, text)
        finished(page, 1)
    assert page.locator("#conversations .open").all_inner_texts() == ["Second talk", "First talk"]
    page.click("#conversations li:nth-of-type(2) .open")
    assert bodies(page) == ["First talk", "One."]
    page.once("dialog", lambda dialog: dialog.accept("Another name"))
    page.click("#conversations li:nth-of-type(2) summary")
    page.click("#conversations li:nth-of-type(2) >> text=Rename")
    assert page.inner_text("#title") == "Another name"
    row = page.locator("#conversations li", has_text="Another name")
    row.locator("summary").click()
    with page.expect_download() as download:
        row.get_by_text("Export as JSON").click()
    exported = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert {message["text"] for message in exported["messages"].values()} == {"First talk", "One."}
    with page.expect_download() as download:
        row.get_by_text("Export as Markdown").click()
    assert (
        Path(download.value.path()).read_text(encoding="utf-8")
        == "# Another name\n\n## You\n\nFirst talk\n\n## Model\n\nOne.\n"
    )
    page.once("dialog", lambda dialog: dialog.accept())
    row.get_by_text("Delete").click()
    assert page.locator("#conversations .open").all_inner_texts() == ["Second talk"]


def test_two_windows_lose_nothing_of_each_other(served: Any, window: Any, page: Any) -> None:
    answering(page, said("One."), said("From here."))
    send(page, "Start")
    finished(page, 1)
    other = window.new_page()
    other.goto(served.url)
    answering(other, said("From there."))
    send(other, "There")
    finished(other, 2)
    send(page, "Here")
    until(page, "document.body.textContent.includes('From here.') && document.getElementById('stop').hidden")
    until(other, "Object.values(localStorage).some(text => text.includes('From here.'))")
    texts = page.evaluate("Object.values(localStorage).join()")
    assert all(text in texts for text in ("Start", "One.", "There", "From there.", "Here", "From here."))


def test_who_scrolls_up_stays_there(page: Any) -> None:
    answering(page, said("A line of words.\n\n" * 60), said("More of it.\n\n" * 60))
    send(page, "Tell")
    finished(page, 1)
    end = page.evaluate(
        "(() => { const log = document.getElementById('log'); return log.scrollHeight - log.scrollTop - log.clientHeight })()"
    )
    assert end < 2
    page.evaluate("""() => {
        const observer = new MutationObserver(() => {
            if (!(document.querySelector('article:last-of-type .body')?.textContent.length > 100)) return;
            observer.disconnect();
            document.getElementById('log').scrollTop = 10;
        });
        observer.observe(document.getElementById('log'), { childList: true, characterData: true, subtree: true });
    }""")
    send(page, "More")
    finished(page, 2)
    assert page.evaluate("document.getElementById('log').scrollTop") == 10
    assert page.is_visible("#down")
    picture(page, "long-answer")
    page.click("#down")
    until(page, "document.getElementById('down').hidden")


def test_text_files_go_with_a_message(page: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("```\ncode\n```", encoding="utf-8")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff")
    answering(page, said("Read."))
    page.set_input_files("#file", [tmp_path / "notes.md", tmp_path / "picture.png"])
    until(page, "document.getElementById('hint').textContent !== ''")
    assert page.inner_text("#hint") == "picture.png is no text file."
    assert page.locator("#files li").count() == 1
    send(page, "What is this?")
    finished(page, 1)
    assert (
        page.evaluate("window.sent[0].messages[0].content") == "notes.md:\n````\n```\ncode\n```\n````\n\nWhat is this?"
    )
    assert page.inner_text("article.user summary").startswith("notes.md")


def test_the_input_grows_and_keys_do_what_they_say(page: Any) -> None:
    low = page.locator("#text").bounding_box()["height"]
    page.focus("#text")
    for _ in range(4):
        page.keyboard.press("Shift+Enter")
    assert page.locator("#text").bounding_box()["height"] > 2 * low
    assert page.locator("article").count() == 0
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "send"
    unnamed = page.evaluate("""() => [...document.querySelectorAll('button, input, textarea')].filter(one =>
        !(one.labels?.length || /\\w/.test(one.textContent) || one.getAttribute('aria-label') || one.hidden)).map(one => one.id)""")
    assert unnamed == []


def test_a_phone(served: Any, page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 760})
    answering(page, said(MARKDOWN))
    send(page, QUESTION)
    finished(page, 1)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert not page.is_visible("#new")
    picture(page, "phone")
    page.click("#menu")
    until(page, "getComputedStyle(document.getElementById('side')).visibility === 'visible'")
    page.click("#new")
    assert page.locator("article").count() == 0
