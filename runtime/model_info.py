"""What a folder says about its model besides the graph: how long a text may be, and which tokens end one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovround.errors import ArtifactError
from ovround.runtime.json_object import read_object


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """`context_length` counts tokens, prompt and answer together; `end_token_ids` may be empty."""

    context_length: int
    end_token_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.context_length < 1:
            raise ArtifactError(
                f"context length {self.context_length} in the model's configuration; it must be above 0"
            )


def read_model_info(folder: Path) -> ModelInfo:
    """From Hugging Face's config.json and generation_config.json, else from onnxruntime-genai's genai_config.json.

    Raises ArtifactError when none of them gives a context length. The end tokens of generation_config.json win over
    those of config.json, as in transformers.
    """
    config = read_object(folder / "config.json", optional=True)
    text_config = config.get("text_config")
    genai = read_object(folder / "genai_config.json", optional=True).get("model")
    sources = [read_object(folder / "generation_config.json", optional=True), config, text_config, genai]
    objects = [source for source in sources if isinstance(source, dict)]
    keys = ("max_position_embeddings", "context_length")
    # ovround adds context_length to a config.json whose own key is another, or means the length before rope stretches it
    context = config.get("context_length") or next((found for key in keys if (found := _first(objects, key))), None)
    if not isinstance(context, int) or isinstance(context, bool):
        raise ArtifactError(
            f"`{folder}` states no context length ({context!r})",
            hint="config.json needs max_position_embeddings, or genai_config.json model.context_length",
        )
    return ModelInfo(context, _token_ids(_first(objects, "eos_token_id")))


def _first(objects: list[dict[str, Any]], key: str) -> Any:
    return next((source[key] for source in objects if source.get(key) is not None), None)


def _token_ids(value: Any) -> tuple[int, ...]:
    """One id or a list of ids, as configurations have either."""
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in ids):
        raise ArtifactError(f"eos_token_id is {value!r}; a token id or a list of them is needed")
    return tuple(ids)
