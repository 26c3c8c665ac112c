"""Evaluation of a converted folder by its engine, or of a checkpoint by torch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ovround.checkpoint import Checkpoint, locate, mapped, mapped_packed
from ovround.checkpoint.gguf import GgufCheckpoint
from ovround.conversion.adapted_source import open_adapted, tokenizer_folder
from ovround.conversion.stored_head import with_stored_head
from ovround.errors import CalibrationError, MissingExtraError, UsageError
from ovround.measure.perplexity import Evaluation, Logits, OnSamples, cut_samples, evaluate
from ovround.models import from_config
from ovround.source_tokenizer import chat_renderer, load_tokenizer
from ovround.texts import Document, read_documents, text_prefix
from ovround.texts.data_set import TO_SCORE
from ovround.texts.windows import NO_PREFIX

LONGEST_DEFAULT = 2048  # tokens a sample when no context is given


def evaluate_model(
    model: str,
    texts: Sequence[Path],
    *,
    reference: str | None = None,
    context: int | None = None,
    exact: bool = True,
    device: str = "CPU",
    kernel: str = "auto",
    bos: bool = True,
    on_samples: OnSamples | None = None,
) -> list[Evaluation]:
    """One `Evaluation` for each text. Plain documents of a file are joined by blank lines; chats follow one another as rendered.

    With `bos` each sample begins with what the tokenizer puts before a text, which is not scored. Raises OvroundError when a
    folder or text cannot be read, and UsageError for a context that the model does not allow.
    """
    from ovround.runtime.engines import check_kernel

    check_kernel(kernel)
    folder = locate(model)
    files = tokenizer_folder(folder)
    render = chat_renderer(files)
    read = {path: list(read_documents(path, render, TO_SCORE)) for path in texts}
    with ExitStack() as stack:
        logits, vocab_size, longest = _open(folder, stack, exact, device, kernel)
        compared = _open_reference(reference, vocab_size)
        length = min(LONGEST_DEFAULT, longest) if context is None else context
        if not 2 <= length <= longest:
            raise UsageError(f"context is {length}; the model allows 2 to {longest}")
        tokenizer = load_tokenizer(files)
        prefix = text_prefix(tokenizer) if bos else NO_PREFIX
        results = []
        for path, documents in read.items():
            tokens = _tokens(tokenizer, documents)
            if tokens.max(initial=0) >= vocab_size:
                raise CalibrationError(
                    f"the tokenizer gives token {tokens.max()}; the model has {vocab_size}",
                    hint="tokenizer.json belongs to another model",
                )
            samples = cut_samples(tokens, length, str(path), prefix)
            results.append(evaluate(samples, logits, vocab_size, compared, on_samples, prefix))
        return results


def _tokens(tokenizer: Tokenizer, documents: Sequence[Document]) -> NDArray[np.int64]:
    """Token ids `[n]` of a text's documents."""
    parts = []
    for rendered, group in groupby(documents, lambda document: document.rendered):
        text = ("" if rendered else "\n\n").join(document.text for document in group)
        parts.append(np.asarray(tokenizer.encode(text, add_special_tokens=not rendered).ids, np.int64))
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def is_converted(folder: Path) -> bool:
    """Whether `folder` is read by an engine instead of by torch."""
    return any((folder / name).is_file() for name in ("openvino_model.xml", "model.onnx"))


def open_logits(folder: Path) -> Logits:
    """Logits of a checkpoint folder, quantised or not, by torch in float32: token ids `[B, T]` -> logits `[B, T, V]`."""
    return _open_checkpoint(folder)[0]


def _open(folder: Path, stack: ExitStack, exact: bool, device: str, kernel: str) -> tuple[Logits, int, int]:
    """The logits function of a folder, its vocabulary size and its context length."""
    if not is_converted(folder):
        return _open_checkpoint(folder)
    from ovround.runtime import LLM

    llm = stack.enter_context(LLM(folder, device=device, exact=exact, kernel=kernel))

    def logits(ids: NDArray[np.int64]) -> NDArray[np.float32]:
        return llm.logits(ids)

    return logits, llm.vocab_size, llm.context_length


def _open_checkpoint(folder: Path) -> tuple[Logits, int, int]:
    """The same for a checkpoint, computed by torch in float32; quantised weights are de-quantised."""
    try:
        from ovround.measure.torch_model import CheckpointWeights, PackedWeights, ReadWeights, TorchModel
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", "convert") from error
    source = open_adapted(folder)
    if isinstance(source, GgufCheckpoint):  # the numbers that its types stand for, not the grids near them
        source = source.stored
    decoder, _ = with_stored_head(from_config(source.config), source)
    weights: ReadWeights
    if isinstance(source, Checkpoint):
        expected = decoder.every_tensor()
        checkpoint = mapped(source, decoder.sources(), expected)
        checkpoint.check(expected, decoder.unused_tensors())
        weights = CheckpointWeights(checkpoint)
    else:
        expected = decoder.every_tensor()
        packed = mapped_packed(source, decoder.sources(), expected)
        packed.check(expected, decoder.unused_tensors())
        weights = PackedWeights(packed, expected)
    return TorchModel(decoder, weights), decoder.config.vocab_size, decoder.config.max_position_embeddings


def _open_reference(reference: str | None, vocab_size: int) -> Logits | None:
    if reference is None:
        return None
    logits, reference_vocab, _ = _open_checkpoint(locate(reference))
    if reference_vocab != vocab_size:
        raise CalibrationError(
            f"reference `{reference}` has {reference_vocab} tokens, the model {vocab_size}",
            hint="give the checkpoint that the model was converted from as the reference",
        )
    return logits
