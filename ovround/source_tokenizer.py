"""The tokenizer of a checkpoint, as transformers and our runtime read it: a model is tuned and scored on the ids that it will see.

Not every tokenizer.json says it all, see `ovround.runtime.text.tokenizer_file`.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from ovround.errors import ArtifactError, CheckpointError
from ovround.runtime.text.tokenizer_file import load_backend


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
