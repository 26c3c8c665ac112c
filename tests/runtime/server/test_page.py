"""The chat page in a real browser without a window: send, stream, stop, reload. OVROUND_SCREENSHOT names a file for a picture."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest
from waiting import PATIENCE_S

playwright = pytest.importorskip("playwright.sync_api")
BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on the path")


@pytest.fixture
def page(served: Any) -> Iterator[Any]:
    with playwright.sync_playwright() as library:
        browser = library.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 820, "height": 620})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(served.url)
        yield page
        assert all(url.startswith(served.url) for url in asked)
        assert problems == []
        browser.close()


def send(page: Any, text: str, tokens: int) -> None:
    page.evaluate(
        f"document.getElementById('limit').value = {tokens}; document.getElementById('temperature').value = 0"
    )
    page.fill("#text", text)
    page.press("#text", "Enter")


def until(page: Any, holds: str) -> None:
    """Wait until an expression is true; `wait_for_function` evaluates it within the page, whose policy forbids that."""
    end = time.monotonic() + PATIENCE_S
    while not page.evaluate(holds):
        assert time.monotonic() < end, holds
        time.sleep(0.005)


def test_send_and_reload(served: Any, page: Any) -> None:
    expected = [served.llm.chat([{"role": "user", "content": "How do I open a file?"}], max_new_tokens=24).text]
    send(page, "How do I open a file?", 24)
    page.wait_for_selector("article.assistant small")
    assert page.evaluate("document.querySelector('article.assistant').firstChild.data") == expected[0]
    assert "tokens/s" in page.inner_text("article.assistant small")
    assert page.inner_text("#model") == "demo"
    send(page, "<img src=x onerror=alert(1)> & <b>bold</b>", 8)
    page.wait_for_selector("article:nth-of-type(4) small")
    assert page.locator("main img, main b").count() == 0
    if os.environ.get("OVROUND_SCREENSHOT"):
        page.screenshot(path=os.environ["OVROUND_SCREENSHOT"])
    page.reload()
    assert page.locator("article").count() == 4
    assert page.inner_text("article.user >> nth=0") == "How do I open a file?"
    page.click("#new")
    assert page.locator("article").count() == 0
    page.reload()
    assert page.locator("article").count() == 0


def test_stop(served: Any, page: Any) -> None:
    """A stopped answer stays, and its engine is free."""
    page.evaluate("""() => {
        const fetching = window.fetch;
        window.fetch = (url, options) => {
            if (options?.body) options.body = JSON.stringify({ ...JSON.parse(options.body), ignore_eos: true });
            return fetching(url, options);
        };
    }""")
    # Clicked within the page at the first words: from here, a quick engine would have ended before.
    page.evaluate("""() => {
        const observer = new MutationObserver(() => {
            if (!(document.querySelector('article.assistant')?.textContent.length > 5)) return;
            observer.disconnect();
            window.shownAtStop = document.querySelector('article.assistant').textContent.length;
            document.getElementById('stop').click();
        });
        observer.observe(document.body, { childList: true, characterData: true, subtree: true });
    }""")
    send(page, "Tell me everything.", 480)
    until(page, "window.shownAtStop > 0")
    until(page, "document.getElementById('stop').disabled")
    assert served.idle()
    assert page.locator("article.assistant").count() == 1


def test_an_error_is_shown(page: Any) -> None:
    page.on("console", lambda message: None)
    page.evaluate(
        "window.fetch = async () => new Response(JSON.stringify({error: {message: 'too long'}}), {status: 400})"
    )
    send(page, "hi", 8)
    page.wait_for_selector("article.failed")
    assert page.inner_text("article.failed") == "too long"
