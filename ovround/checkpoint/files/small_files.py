"""The small files beside the weights that every copy of a model has: configuration, tokenizer, chat templates, licence."""

from __future__ import annotations

from pathlib import Path

from ovround.errors import CheckpointError

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "vocab.json", "merges.txt",
)  # fmt: skip
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
TEMPLATES = "additional_chat_templates"
_LICENSES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE")
_MODEL_FILES = ("config.json", "generation_config.json", *TOKENIZER_FILES, *TEMPLATE_FILES, *_LICENSES)


def model_files(source: Path) -> list[str]:
    """The names of those files that `source` has, its named chat templates included."""
    return [name for name in _possible(source) if (source / name).is_file()]


def _possible(source: Path) -> list[str]:
    named = sorted(f"{TEMPLATES}/{path.name}" for path in (source / TEMPLATES).glob("*.jinja"))
    return [*_MODEL_FILES, *named]


def check_links(source: Path) -> None:
    """Raise CheckpointError for one of `model_files` that is a link out of `source`: the copy would reveal a foreign file.

    Links within a hub cache, from snapshots/REVISION/FILE to blobs/HASH, are allowed.
    """
    folder = source.resolve()
    allowed = [folder, folder.parents[1] / "blobs"] if folder.parent.name == "snapshots" else [folder]
    for name in _possible(source):  # a link that leads nowhere may lead somewhere later
        resolved = (folder / name).resolve()
        if resolved != folder / name and not any(parent in resolved.parents for parent in allowed):
            raise CheckpointError(
                f"`{source / name}` is a link out of its folder, to `{resolved}`",
                hint="copy the file there, or remove the link",
            )
