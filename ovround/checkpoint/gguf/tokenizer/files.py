"""The tokenizer of a GGUF file as the files of a Hugging Face folder, so that everything behind reads one kind of source."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ovround.checkpoint.files.small_files import TEMPLATES
from ovround.checkpoint.gguf.tokenizer.tokenizer_json import adds_bos, adds_eos, special_ids, tokenizer_json
from ovround.checkpoint.gguf.tokenizer.vocabulary import BESIDE, TokenType, Vocabulary, read_vocabulary
from ovround.errors import CheckpointError
from ovround.limits import LIMITS

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_END_OF_TURN = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>", "<|endoftext|>",
    "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>",
    "<|tool_response>", "<\uff5cend\u2581of\u2581sentence\uff5c>", "[e~[",
)  # fmt: skip
_ENDED_BY_CALLS = ({"<|return|>", "<|call|>"}, {"<|calls|>", "<|flush|>"})  # where <|end|> only ends a message


def tokenizer_files(metadata: Mapping[str, object]) -> dict[str, bytes]:
    """Contents by name: tokenizer.json, tokenizer_config.json, generation_config.json and the chat templates.

    `metadata` has Python's types: texts, whole numbers, floats, booleans, and lists of them. Further templates are
    `additional_chat_templates/NAME.jinja`. Raises CheckpointError for a vocabulary that cannot be read.
    """
    vocabulary = read_vocabulary(metadata)
    files = {
        "tokenizer.json": _json(tokenizer_json(vocabulary)),
        "tokenizer_config.json": _json(_tokenizer_config(vocabulary)),
        "generation_config.json": _json(_generation_config(vocabulary)),
    }
    if len(files["tokenizer.json"]) > LIMITS.tokenizer_bytes:
        raise CheckpointError(
            f"the tokenizer of the GGUF file takes {len(files['tokenizer.json'])} bytes; {LIMITS.tokenizer_bytes} are allowed"
        )
    return files | _templates(metadata)


def end_token_ids(vocabulary: Vocabulary) -> tuple[int, ...]:
    """Ids that end an answer: EOS first, then the ends of a turn and of a message.

    A file has no list of them. As in llama.cpp they are known by their texts; an ordinary token of such a text ends nothing.
    """
    found = {
        token: index
        for index, token in enumerate(vocabulary.tokens)
        if token in _END_OF_TURN and vocabulary.types[index] in _ends(token)
    }
    if any(calls <= found.keys() for calls in _ENDED_BY_CALLS):
        found.pop("<|end|>", None)
    if "<|tool_response>" in found:
        found.pop("</s>", None)
    stated = [vocabulary.ids[role] for role in ("eos", "eot", "eom") if role in vocabulary.ids]
    return tuple(dict.fromkeys([*stated, *sorted(found.values())]))


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _tokenizer_config(vocabulary: Vocabulary) -> dict[str, Any]:
    special = special_ids(vocabulary)
    named = {role: index for role, index in vocabulary.ids.items() if role in _ROLES and index in special}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",  # takes the whole tokenizer.json
        "clean_up_tokenization_spaces": False,
        "add_bos_token": adds_bos(vocabulary),
        "add_eos_token": adds_eos(vocabulary),
        **{f"{role}_token": vocabulary.tokens[index] for role, index in named.items()},
    }


def _generation_config(vocabulary: Vocabulary) -> dict[str, Any]:
    ends = end_token_ids(vocabulary)
    config: dict[str, Any] = {
        f"{role}_token_id": vocabulary.ids[role] for role in ("bos", "pad") if role in vocabulary.ids
    }
    if ends:
        config["eos_token_id"] = ends[0] if len(ends) == 1 else list(ends)
    return config


def _templates(metadata: Mapping[str, object]) -> dict[str, bytes]:
    """The chat template, and those with a name of their own.

    Old files have the name of one of llama.cpp's templates, such as `chatml`, in place of a template; that is left out.
    """
    files = {}
    main = _template(metadata, "tokenizer.chat_template")
    if main is not None and "{" in main:
        files["chat_template.jinja"] = main.encode()
    names = metadata.get("tokenizer.chat_templates", ())
    if not isinstance(names, Sequence) or isinstance(names, (str, bytes)):
        raise CheckpointError(f"`tokenizer.chat_templates` of the GGUF file is {names!r:.60}; a list is needed")
    prefix = "tokenizer.chat_template."
    for key in metadata:
        if not key.startswith(prefix):
            continue
        name = key.removeprefix(prefix)
        if not _NAME.fullmatch(name):
            raise CheckpointError(f"a chat template of the GGUF file is called {name!r:.60}; a plain name is needed")
        text = _template(metadata, key)
        if text is not None:
            files[f"{TEMPLATES}/{name}.jinja"] = text.encode()
    return files


def _template(metadata: Mapping[str, object], key: str) -> str | None:
    text = metadata.get(key)
    if text is None:
        return None
    if not isinstance(text, str) or len(text) > LIMITS.template_characters:
        raise CheckpointError(
            f"`{key}` of the GGUF file is {text!r:.60}; a text of at most {LIMITS.template_characters} characters is needed",
            hint=BESIDE,
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise CheckpointError(f"`{key}` of the GGUF file cannot be written in UTF-8") from None
    return text


def _ends(text: str) -> tuple[TokenType, ...]:
    """Types of a token of this text that ends an answer; to Gemma, </s> closes struck-out text in HTML."""
    return (TokenType.CONTROL,) if text == "</s>" else (TokenType.CONTROL, TokenType.USER_DEFINED)
