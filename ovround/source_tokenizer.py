"""The tokenizer of a checkpoint, read as transformers and our runtime read it.

A model is thus tuned and scored on the ids that it will see when it runs. Some files need more than tokenizer.json: see
`ovround.runtime.text.tokenizer_file`.
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
