"""Links of the documents: every file and every heading that they point at exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
NOT_IN_ANCHORS = re.compile(r"[^\w\- ]")


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    text = FENCE.sub("", document.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "") for heading in headings]
    return {NOT_IN_ANCHORS.sub("", heading.lower()).replace(" ", "-") for heading in plain}


def broken(document: Path) -> list[str]:
    """The links of a document that lead nowhere within the project."""
    dead = []
    for link in LINK.findall(FENCE.sub("", document.read_text(encoding="utf-8"))):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        linked = document.parent / path if path else document
        if not linked.exists() or (anchor and linked.suffix == ".md" and anchor not in anchors(linked)):
            dead.append(link)
    return dead


@pytest.mark.parametrize("document", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS])
def test_links_lead_somewhere(document: Path) -> None:
    assert broken(document) == []


def test_a_dead_link_is_noticed(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(
        "# A heading\n[a](#a-heading) [b](#another) [c](page.md#a-heading) [d](other.md) [e](https://x.org)\n"
    )
    assert broken(document) == ["#another", "other.md"]


def test_the_changelog_is_short() -> None:
    assert len((ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()) <= 40


def test_files_that_code_and_documents_name_exist() -> None:
    """`tests/...py` and `docs/...md` in comments, scripts and documents; the log keeps the names of its day."""
    named = re.compile(r"(?<![\w/.-])(?:tests|docs|tools|benchmarks)/[\w/-]+\.(?:py|md|json)")
    suffixes = {".py", ".md", ".toml", ".cpp", ".hpp", ".h", ".inl", ".txt"}
    folders = ("ovround", "exporters", "runtime", "tests", "tools", "benchmarks", "docs", "examples")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    paths = [path for path in paths if "log" not in path.parent.name and "node_modules" not in path.parts]
    paths = [path for path in paths if path.stat().st_size < 1_000_000]
    missing = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in [*paths, *ROOT.glob("*.md"), ROOT / "Makefile", ROOT / ".ci" / "run"]
        for name in named.findall(path.read_text(encoding="utf-8", errors="replace"))
        if not (ROOT / name).exists()
    }
    assert missing == set()
