"""The tokenizer and detokenizer as OpenVINO graphs, by openvino_tokenizers."""

from __future__ import annotations

from pathlib import Path

import openvino as ov
from openvino_tokenizers import convert_tokenizer
from transformers import AutoTokenizer

from ovround.errors import CheckpointError


def write_tokenizer(source: Path, folder: Path) -> None:
    """Write `openvino_tokenizer.xml/.bin` and `openvino_detokenizer.xml/.bin`; padding on the left, as generation needs.

    Raises CheckpointError when the tokenizer cannot be converted.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
        tokenizer.padding_side = tokenizer.truncation_side = "left"
        encoder, decoder = convert_tokenizer(tokenizer, with_detokenizer=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"the tokenizer of `{source}` cannot be converted for OpenVINO: {error}") from error
    if getattr(tokenizer, "chat_template", None):
        encoder.set_rt_info(tokenizer.chat_template, "chat_template")
    ov.save_model(encoder, folder / "openvino_tokenizer.xml", compress_to_fp16=False)
    ov.save_model(decoder, folder / "openvino_detokenizer.xml", compress_to_fp16=False)
