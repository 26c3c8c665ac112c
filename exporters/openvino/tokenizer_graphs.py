"""The tokenizer and detokenizer as OpenVINO graphs, by openvino_tokenizers.

This module imports transformers; `tokenizer.py` says in which process.
"""

from __future__ import annotations

import os
import re
import shutil
from functools import partial
from pathlib import Path

import openvino as ov
from openvino_tokenizers import convert_tokenizer
from transformers import AutoTokenizer

from ovround.checkpoint import read_json
from ovround.errors import CheckpointError
from ovround.exporters.openvino.digit_splitting import join_digit_splitting
from ovround.exporters.openvino.saving import count_names, saved
from ovround.exporters.tokenizer_source import show_tokenizer


def write_graphs(source: Path, folder: Path) -> None:
    """Write `openvino_tokenizer.xml/.bin` and `openvino_detokenizer.xml/.bin`; padding on the left, as generation needs.

    Raises CheckpointError when the tokenizer cannot be converted.
    """
    shown = folder / "tokenizer.shown"
    try:
        show_tokenizer(source, shown)  # its own errors are reported as they are
    except BaseException:
        shutil.rmtree(shown, ignore_errors=True)
        raise
    try:
        tokenizer = AutoTokenizer.from_pretrained(shown, local_files_only=True, trust_remote_code=False)
        if isinstance(tokenizer.chat_template, dict):  # named ones; openvino_genai knows one
            tokenizer.chat_template = tokenizer.chat_template.get("default")
        tokenizer.padding_side = tokenizer.truncation_side = "left"
        join_digit_splitting(tokenizer.backend_tokenizer)
        encoder, decoder = convert_tokenizer(tokenizer, with_detokenizer=True)
    except Exception as error:  # OpenVINO's own errors are TypeErrors, and tokenizers raises nothing narrower than this
        _raise_disk_error(error)
        raise CheckpointError(f"the tokenizer of `{source}` cannot be converted for OpenVINO: {error}") from error
    finally:
        shutil.rmtree(shown, ignore_errors=True)
    generation = source / "generation_config.json"
    ends = read_json(generation).get("eos_token_id") if generation.is_file() else None
    if tokenizer.eos_token_id is None and ends not in (None, []):
        encoder.set_rt_info(ends[0] if isinstance(ends, list) else ends, "eos_token_id")
    if getattr(tokenizer, "chat_template", None):
        encoder.set_rt_info(tokenizer.chat_template, "chat_template")
    for name, model in (("tokenizer", encoder), ("detokenizer", decoder)):
        path = folder / f"openvino_{name}.xml"
        count_names(model)
        saved(path, partial(ov.save_model, model, path, compress_to_fp16=False))


def _raise_disk_error(error: Exception) -> None:
    """Raise OSError where a library failed to write a file; Rust libraries put the error number into a text."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    number = re.search(r"\(os error (\d+)\)", str(error))
    if number is not None:
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
