"""The demo model's text: the documentation in every Python installation, split into training and held-out text.

It is the language reference in `pydoc_data.topics` and the docstrings of the standard library, which are read with `ast` and
never imported. A document is one topic or one module, and the split is by document. Topics quote each other and modules copy
each other. So a paragraph is kept once, and a held-out section is dropped if it shares more than half of its eight-word
shingles with the training text.
"""

from __future__ import annotations

import ast
import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

HELDOUT_SHARE = 0.05
HELDOUT_LONGEST_BYTES = 16_000  # so that one long document is not most of the held-out text
CALIBRATION_BYTES = 320_000
CALIBRATION_LONGEST_BYTES = 8_000
REPEATED_PARAGRAPH_CHARS = 60  # shorter ones ("Return the result.") are common phrases, not copies
SHINGLE_WORDS = 8
DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "pydoc_data"}
QUESTIONS = ("What is {}?", "What does {} do?", "Explain {}.", "Tell me about {}.")


@dataclass(frozen=True, slots=True)
class Section:
    """A docstring under its qualified name, or a topic under its title."""

    title: str
    body: str


@dataclass(frozen=True, slots=True)
class Document:
    """One topic or one module; `name` alone decides its side of the split."""

    name: str
    sections: tuple[Section, ...]

    def text(self) -> str:
        return "\n\n".join(f"# {section.title}\n\n{section.body}" for section in self.sections) + "\n"

    def size_bytes(self) -> int:
        return len(self.text().encode())


def tidy(text: str) -> str:
    """The text without tabs, form feeds and blanks at line ends; the indentation of doctests stays."""
    return "\n".join(line.rstrip() for line in text.replace("\f", "").expandtabs().strip("\n").splitlines())


def topic_documents() -> Iterator[Document]:
    """One document for each topic, the longest first, because short topics quote long ones."""
    for name, text in sorted(topics.items(), key=lambda item: (-len(item[1]), item[0])):
        title, _, body = tidy(text).partition("\n")
        yield Document(f"topic:{name}", (Section(title, body.lstrip("*\n")),))


def docstrings(node: ast.AST, name: str) -> Iterator[Section]:
    """The docstring of a module, class or function and of what is defined in it, in source order."""
    if isinstance(node, (ast.Module, *DEFINITIONS)):
        body = tidy(ast.get_docstring(node) or "")
        if any(character.isalpha() for character in body):
            yield Section(name, body)
    for child in ast.iter_child_nodes(node):
        yield from docstrings(child, f"{name}.{child.name}" if isinstance(child, DEFINITIONS) else name)


def module_documents(root: Path) -> Iterator[Document]:
    """One document for each module of the standard library under `root`, sorted by path."""
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if LEFT_OUT.isdisjoint(parts):
            name = ".".join(parts).removesuffix(".__init__")
            sections = tuple(docstrings(ast.parse(path.read_bytes()), name))
            if sections:
                yield Document(f"module:{name}", sections)


def without_repeats(documents: Sequence[Document]) -> list[Document]:
    """The documents with every longer paragraph kept once; a section that is mostly repeats is dropped."""
    seen: set[str] = set()
    kept_documents = []
    for document in documents:
        kept_sections = []
        for section in document.sections:
            fresh = []
            for paragraph in section.body.split("\n\n"):
                key = " ".join(paragraph.split())
                if key not in seen:
                    fresh.append(paragraph)
                if len(key) >= REPEATED_PARAGRAPH_CHARS:
                    seen.add(key)
            body = "\n\n".join(fresh)
            if 2 * len(body) > len(section.body):
                kept_sections.append(Section(section.title, body))
        if kept_sections:
            kept_documents.append(Document(document.name, tuple(kept_sections)))
    return kept_documents


def by_digest(documents: Sequence[Document], purpose: str) -> list[Document]:
    """A fixed shuffle by the SHA-256 of purpose and name, so that a new document does not move the others."""
    return sorted(documents, key=lambda document: hashlib.sha256(f"{purpose} {document.name}".encode()).digest())


def split(documents: Sequence[Document]) -> tuple[list[Document], list[Document]]:
    """(train, held-out): `HELDOUT_SHARE` of the topics' bytes and of the modules' bytes is held out."""
    heldout: set[str] = set()
    for kind in ("topic:", "module:"):
        pool = [document for document in documents if document.name.startswith(kind)]
        room = HELDOUT_SHARE * sum(document.size_bytes() for document in pool)
        for document in by_digest(pool, "heldout"):
            if document.size_bytes() <= min(room, HELDOUT_LONGEST_BYTES):
                heldout.add(document.name)
                room -= document.size_bytes()
    train = [document for document in documents if document.name not in heldout]
    return train, unshared([document for document in documents if document.name in heldout], train)


def shingles(text: str) -> set[str]:
    words = text.split()
    return {" ".join(words[i : i + SHINGLE_WORDS]) for i in range(len(words) - SHINGLE_WORDS + 1)}


def unshared(heldout: Sequence[Document], train: Sequence[Document]) -> list[Document]:
    """The held-out documents without the sections that have most of their shingles in the training text."""
    known = {shingle for document in train for section in document.sections for shingle in shingles(section.body)}
    kept = []
    for document in heldout:
        sections = []
        for section in document.sections:
            own = shingles(section.body)
            if 2 * len(own & known) <= len(own):
                sections.append(section)
        if sections:
            kept.append(Document(document.name, tuple(sections)))
    return by_digest(kept, "order")


def plain(documents: Sequence[Document]) -> str:
    return "\n".join(document.text() for document in documents)


def calibration_text(train: Sequence[Document]) -> str:
    """`CALIBRATION_BYTES` of training text in many short pieces, each cut at the end of a paragraph."""
    pieces: list[str] = []
    size = 0
    for document in by_digest(train, "calibration"):
        piece = document.text()
        if len(piece) > CALIBRATION_LONGEST_BYTES:
            piece = piece[: piece.rindex("\n\n", 0, CALIBRATION_LONGEST_BYTES)] + "\n"
        if size < CALIBRATION_BYTES:
            pieces.append(piece)
            size += len(piece.encode())
    return "\n".join(pieces)


def dialogues(train: Sequence[Document], rng: random.Random) -> list[str]:
    """One dialogue for each section: a question, and its first paragraph as the answer, in the chat template's format."""
    turns = []
    for document in train:
        for section in document.sections:
            question = rng.choice(QUESTIONS).format(section.title)
            answer = section.body.split("\n\n")[0]
            turns.append(f"### User\n{question}\n\n### Assistant\n{answer}")
    rng.shuffle(turns)
    return turns
