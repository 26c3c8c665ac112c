"""The tokenizer of a checkpoint, read as transformers and our runtime read it.

A model is thus tuned and scored on the ids that it will see when it runs. Some files need more than tokenizer.json: see
`ovround.runtime.text.tokenizer_file`.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from ovround.errors import ArtifactError, CheckpointError
from ovround.runtime.text.chat_template import ChatTemplate, read_template
from ovround.runtime.text.tokenizer_file import load_backend, special_tokens
from ovround.texts import Chat, Render


def load_tokenizer(folder: Path) -> Tokenizer:
    """The fast tokenizer of `folder`; raises CheckpointError when tokenizer.json is missing or damaged."""
    if not (folder / "tokenizer.json").is_file():
        raise CheckpointError(
            f"`{folder}` has no tokenizer.json",
            hint="write one: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
        )
    try:
        return load_backend(folder)
    except ArtifactError as error:
        raise CheckpointError(str(error), hint="download it again") from error


def chat_renderer(folder: Path) -> Render | None:
    """What renders a chat by the template of `folder`, as the runtime does; None for a model without a template."""
    source = read_template(folder)
    if source is None:
        return None
    templates: list[ChatTemplate] = []  # its process starts with the first chat

    def render(chat: Chat) -> str:
        if not templates:
            templates.append(ChatTemplate(source, special_tokens(folder)))
        return templates[0].render(chat.messages, add_generation_prompt=False, variables=chat.variables)

    return render
