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

_ODD = 1000  # so many ids without a row are hardly tokens that somebody added


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


def ids_without_rows(tokenizer: Tokenizer, vocab_size: int) -> tuple[str, ...]:
    """A note where the tokenizer has ids that an embedding of `vocab_size` rows lacks; a prompt with one is an error.

    Published models have some: gemma-3-1b's image token, the [PAD] that a fine-tune added.
    """
    beyond = sorted(
        (key, token) for token, key in tokenizer.get_vocab(with_added_tokens=True).items() if key >= vocab_size
    )
    if not beyond:
        return ()
    key, token = beyond[0]
    names = f"`{token}` ({key})" if len(beyond) == 1 else f"{len(beyond)} tokens from `{token}` ({key}) on"
    note = f"the tokenizer has {names} beyond the {vocab_size} rows of the embedding: a prompt that holds such a token is refused"
    return (note if len(beyond) < _ODD else f"{note}; tokenizer.json may belong to another model",)


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
