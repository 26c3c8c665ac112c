"""A model's context length and end tokens, from the configuration files of its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovround.errors import ArtifactError
from ovround.runtime.json_object import read_object


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """`context_length` is the number of tokens of prompt and answer together; `end_token_ids` may be empty.

    `vocab_size` is the number of token ids that the model knows; a tokenizer may have more. None where no file says it.
    """

    context_length: int
    end_token_ids: tuple[int, ...]
    vocab_size: int | None = None

    def __post_init__(self) -> None:
        if self.context_length < 1:
            raise ArtifactError(
                f"context length {self.context_length} in the model's configuration; it must be above 0"
            )


def read_model_info(folder: Path) -> ModelInfo:
    """From Hugging Face's config.json and generation_config.json, else from onnxruntime-genai's genai_config.json.

    Raises ArtifactError if none of them has a context length. As in transformers, the end tokens of
    generation_config.json have priority over those of config.json.
    """
    config = read_object(folder / "config.json", optional=True)
    text_config = config.get("text_config")
    genai = read_object(folder / "genai_config.json", optional=True).get("model")
    sources = [read_object(folder / "generation_config.json", optional=True), config, text_config, genai]
    objects = [source for source in sources if isinstance(source, dict)]
    keys = ("max_position_embeddings", "context_length")
    # ovround writes context_length where config.json has another key, or gives the length before rope scaling
    context = config.get("context_length") or next((length for key in keys if (length := _first(objects, key))), None)
    if not isinstance(context, int) or isinstance(context, bool):
        raise ArtifactError(
            f"`{folder}` states no context length ({context!r})",
            hint="config.json needs max_position_embeddings, or genai_config.json model.context_length",
        )
    size = _first(objects, "vocab_size")
    vocab_size = size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else None
    return ModelInfo(context, _token_ids(_first(objects, "eos_token_id")), vocab_size)


def _first(objects: list[dict[str, Any]], key: str) -> Any:
    return next((source[key] for source in objects if source.get(key) is not None), None)


def _token_ids(value: Any) -> tuple[int, ...]:
    """The value as a tuple: configurations have one id or a list."""
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in ids):
        raise ArtifactError(f"eos_token_id is {value!r}; a token id or a list of them is needed")
    return tuple(ids)
