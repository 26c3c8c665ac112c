"""Trains the demo model: a 1.4 M parameter Llama that fits in the repository.

    python benchmarks/train_demo_model.py ovround/demo_model --calibration ovround/calibration.txt

Tests and first commands need a language model that needs no download. Its perplexity must change when its weights are
damaged: with random weights no test could show that a quantiser loses quality. So this model is trained, on the English text
in each Python installation.

Its held-out perplexity is reliable for two reasons:

- `demo_corpus.py` splits the text so that held-out documents share no section with the training text.
- The perplexity is measured on the written folder, from its float16 weights and its `heldout.txt`, in consecutive sequences of
  512 tokens. The first token of a sequence is not predicted, and the last partial sequence is left out.

Seven sequences in ten are plain text, and half of those begin with `<s>`, so that the model knows the beginning of a prompt.
The others are questions and answers made from the same docstrings in the format of the chat template. They teach the model to
answer a chat and to end it with `</s>`, which tests of a stop condition need.

The result depends on the Python version (its text), the seed, the flags and the rounding of the processor's matrix
product, but not on the time. The last line on stdout is one JSON document; progress goes to stderr.
"""

import argparse
import hashlib
import json
import math
import platform
import random
import shlex
import sys
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from demo_corpus import (
    HELDOUT_SHARE,
    Document,
    calibration_text,
    dialogues,
    module_documents,
    plain,
    split,
    topic_documents,
    without_repeats,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

BOS, EOS = "<s>", "</s>"
BOS_ID, EOS_ID = 0, 1
VOCAB_SIZE = 2048
CONTEXT = 512
LARGEST_FOLDER_BYTES = 4_000_000
PROMPTS = ("The with statement is used to", "Return the number of", "This module provides")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '### Assistant\\n' + message['content'] + eos_token + '\\n' }}"
    "{% elif message['role'] == 'system' %}{{ '### System\\n' + message['content'] + '\\n\\n' }}"
    "{% else %}{{ '### User\\n' + message['content'] + '\\n\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '### Assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings of the training run; each field is a flag. `batch` counts sequences of `CONTEXT` tokens.

    `learning_rate` is AdamW's peak rate; Muon's is twice that. `dialogue_share` is the share of sequences that are chats.
    Another number of `threads` rounds differently.
    """

    steps: int = 4000
    batch: int = 4
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    dropout: float = 0.1
    dialogue_share: float = 0.3
    seed: int = 0
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Score:
    """Cross-entropy over `tokens` predictions that stand for `size_bytes` bytes of text; `nats` is their sum."""

    nats: float
    tokens: int
    size_bytes: int

    @property
    def perplexity(self) -> float:
        return math.exp(self.nats / self.tokens)

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.size_bytes


# Tokenizer


def train_tokenizer(texts: Sequence[str]) -> Tokenizer:
    """Byte-level BPE with `VOCAB_SIZE` entries, no normaliser, `<s>` put in front: decode(encode(x)) == x."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, BOS_ID)]
    )
    if (tokenizer.get_vocab_size(), tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)) != (VOCAB_SIZE, 0, 1):
        raise SystemExit(
            f"the tokenizer has {tokenizer.get_vocab_size()} entries; {VOCAB_SIZE} are needed, special tokens first"
        )
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the three files that both transformers 4 and 5 read; each release's own writer writes other files."""
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS}
    settings = {
        "added_tokens_decoder": {
            str(index): {
                "content": token,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": True,
            }
            for index, token in enumerate((BOS, EOS))
        },
        **special,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "special_tokens_map.json", special)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# Training


def demo_config() -> LlamaConfig:
    """A grouped-query Llama; hidden and intermediate sizes are multiples of 64 and differ from the vocabulary size."""
    return LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        initializer_range=0.05,
        tie_word_embeddings=True,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
    )


def add_dropout(model: LlamaForCausalLM, rate: float) -> None:
    """Add dropout to the embedding and to the outputs that each block adds to the residual; Llama has no dropout itself."""
    for name, module in model.named_modules():
        if name.endswith(("embed_tokens", "o_proj", "down_proj")):
            module.register_forward_hook(lambda hooked, _, output: nn.functional.dropout(output, rate, hooked.training))


class TrainingSequences:
    """Draws training sequences from two token streams, [text tokens] and [dialogue tokens]."""

    def __init__(self, tokenizer: Tokenizer, train: Sequence[Document], recipe: Recipe) -> None:
        rng = random.Random(recipe.seed)
        texts = [document.text() for document in train]
        turns = dialogues(train, rng)
        self.text = stream(tokenizer, texts)
        self.dialogue = stream(tokenizer, turns)
        newline = torch.tensor(["\n" in tokenizer.decode([i]) for i in range(VOCAB_SIZE)])
        self.line_starts = _inside(newline[self.text].nonzero().flatten() + 1, self.text)
        self.turn_starts = _inside((self.dialogue == BOS_ID).nonzero().flatten(), self.dialogue)
        self.recipe = recipe
        self.generator = torch.Generator().manual_seed(recipe.seed)

    def draw(self) -> tuple[Tensor, Tensor]:
        """(inputs, targets), each [batch, CONTEXT] int64: dialogues, text after `<s>`, and text from anywhere."""
        rows = []
        for kind in torch.rand(self.recipe.batch, generator=self.generator).tolist():
            if kind < self.recipe.dialogue_share:
                row = _sequence(self.dialogue, self._pick(self.turn_starts))
            elif kind < (1 + self.recipe.dialogue_share) / 2:
                row = torch.cat([torch.tensor([BOS_ID]), _sequence(self.text, self._pick(self.line_starts))[:-1]])
            else:
                row = _sequence(self.text, self._below(len(self.text) - CONTEXT))
            rows.append(row)
        batch = torch.stack(rows)
        return batch[:, :-1], batch[:, 1:]

    def _below(self, limit: int) -> int:
        return int(torch.randint(limit, (1,), generator=self.generator))

    def _pick(self, starts: Tensor) -> int:
        return int(starts[self._below(len(starts))])


def _inside(starts: Tensor, tokens: Tensor) -> Tensor:
    return starts[starts < len(tokens) - CONTEXT]


def _sequence(tokens: Tensor, start: int) -> Tensor:
    return tokens[start : start + CONTEXT + 1]


def stream(tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """[tokens] int64: `<s> text </s>` for each text, end to end."""
    ids: list[int] = []
    for encoding in tokenizer.encode_batch(texts):
        ids += [*encoding.ids, EOS_ID]
    return torch.tensor(ids)


def optimizers_for(model: LlamaForCausalLM, recipe: Recipe) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices of the blocks, AdamW for the embedding and the gains.

    Muon with the step size of AdamW (`match_rms_adamw`) is best at twice its learning rate. After 250 steps the held-out
    perplexity was 89 with 2x, 96 with 1x, 109 with 4x, and 158 with AdamW for all parameters.
    """
    blocks = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed_tokens" not in name]
    embedding = [p for name, p in model.named_parameters() if "embed_tokens" in name]
    gains = [p for p in model.parameters() if p.ndim == 1]
    return (
        torch.optim.Muon(blocks, lr=1.0, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(
            [{"params": embedding, "weight_decay": recipe.weight_decay}, {"params": gains, "weight_decay": 0.0}],
            lr=1.0,
            betas=(0.9, 0.98),
        ),
    )


def learning_rate_at(step: int, recipe: Recipe) -> float:
    """AdamW's rate: linear warm-up over a fiftieth of the steps, then half a cosine down to a fiftieth of the peak."""
    warm_up = max(1, recipe.steps // 50)
    if step < warm_up:
        return recipe.learning_rate * (step + 1) / warm_up
    progress = (step - warm_up) / max(1, recipe.steps - warm_up)
    return recipe.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def train_model(
    draws: TrainingSequences, heldout: Tensor, sizes: Tensor, recipe: Recipe
) -> tuple[LlamaForCausalLM, int]:
    """The model at its lowest held-out loss, and the step at which that was."""
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(demo_config())
    add_dropout(model, recipe.dropout)
    muon, adamw = optimizers_for(model, recipe)
    check_every = max(1, recipe.steps // 20)
    best_perplexity, best_step, best_weights = math.inf, 0, model.state_dict()
    started, running = time.perf_counter(), 0.0
    for step in range(recipe.steps):
        model.train()
        for optimizer, factor in ((muon, 2.0), (adamw, 1.0)):
            for group in optimizer.param_groups:
                group["lr"] = factor * learning_rate_at(step, recipe)
        inputs, targets = draws.draw()
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(inputs, use_cache=False).logits
        loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        muon.step()
        adamw.step()
        running += loss.item()
        if (step + 1) % check_every == 0 or step + 1 == recipe.steps:
            perplexity = score_model(model, heldout, sizes).perplexity
            elapsed_s = time.perf_counter() - started
            say(f"step {step + 1:6d}  train loss {running / check_every:.4f}  held-out perplexity {perplexity:8.3f}  "
                f"{(step + 1) * inputs.numel() / elapsed_s:6.0f} tokens/s  {elapsed_s:6.0f} s")  # fmt: skip
            running = 0.0
            if perplexity < best_perplexity:
                best_perplexity, best_step = perplexity, step + 1
                best_weights = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(best_weights)
    return model, best_step


# Measurement


def token_sizes(tokenizer: Tokenizer) -> Tensor:
    """[VOCAB_SIZE] bytes that each token stands for; the byte-level alphabet spends one character a byte."""
    sizes = [len(tokenizer.id_to_token(index) or "") for index in range(VOCAB_SIZE)]
    sizes[BOS_ID] = sizes[EOS_ID] = 0
    return torch.tensor(sizes)


def full_sequences(ids: Sequence[int]) -> Tensor:
    """[sequences, CONTEXT]: the ids in consecutive sequences, without the last partial one."""
    count = len(ids) // CONTEXT
    return torch.tensor(ids[: count * CONTEXT]).view(count, CONTEXT)


@torch.no_grad()
def score_model(model: nn.Module, sequences: Tensor, sizes: Tensor) -> Score:
    """The model's score on sequences [sequences, CONTEXT]; the first token of each is given and not predicted."""
    model.eval()
    nats = 0.0
    for rows in torch.split(sequences, 8):
        logits = model(rows, use_cache=False).logits[:, :-1].float()
        nats += nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum").item()
    predicted = sequences[:, 1:]
    return Score(nats, predicted.numel(), int(sizes[predicted].sum()))


def score_unigram(train: Tensor, sequences: Tensor, sizes: Tensor) -> Score:
    """The score of the same predictions by token frequency in the training stream [tokens], with one added to each count."""
    counts = torch.bincount(train, minlength=VOCAB_SIZE).double() + 1
    predicted = sequences[:, 1:]
    nats = -(counts / counts.sum()).log()[predicted].sum().item()
    return Score(nats, predicted.numel(), int(sizes[predicted].sum()))


# Output


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of the model card and of the last line on stdout."""

    parameters: int
    train_bytes: int
    train_tokens: int
    heldout_bytes: int
    heldout_predictions: int
    heldout_perplexity: float
    heldout_bits_per_byte: float
    unigram_perplexity: float
    unigram_bits_per_byte: float
    steps: int
    best_step: int
    tokens_seen: int
    training_s: float
    corpus_sha256: str
    machine: str
    python: str
    torch: str
    transformers: str
    tokenizers: str


def processor() -> str:
    """The processor's name; `platform.processor` is empty on most Linux systems."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def write_model(model: LlamaForCausalLM, folder: Path) -> None:
    """config.json, generation_config.json and model.safetensors in float16."""
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=BOS_ID, eos_token_id=EOS_ID, pad_token_id=EOS_ID
    )
    model.half().save_pretrained(folder)  # type: ignore[no-untyped-call]
    (folder / "model.safetensors").chmod(
        0o644
    )  # safetensors writes 0600, for which git and wheels record different modes
    # Programs for transformers 4 read these two names; transformers 5 writes `dtype` and `rope_parameters`.
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"torch_dtype": config["dtype"], "rope_theta": config["rope_parameters"]["rope_theta"]}
    write_json(folder / "config.json", dict(sorted(config.items())))


def samples(folder: Path) -> list[tuple[str, str]]:
    """(prompt, greedy continuation) for each of `PROMPTS`, from the folder as written."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    pairs = []
    for prompt in PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        output = model.generate(**inputs, max_new_tokens=40, do_sample=False)
        text = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        pairs.append((prompt, str(text)))
    return pairs


def card(figures: Figures, recipe: Recipe, command: str, continuations: Sequence[tuple[str, str]]) -> str:
    """The model card, Markdown with the front matter that the Hugging Face Hub reads."""
    shown = "\n\n".join(f"> **{prompt}**{text}".replace("\n", "\n> ") for prompt, text in continuations)
    return f"""---
language: en
license: other
license_name: psf-2.0
license_link: https://docs.python.org/3/license.html
library_name: transformers
pipeline_tag: text-generation
tags: [demo, test, llama]
---

# ovround demo model

A Llama with {figures.parameters:,} parameters, trained from nothing on the documentation of Python. It is there so
that the first command, the tests and the continuous integration have a model whose perplexity means something and that
needs no download. **Intended use: demonstration and tests only.** It writes text in the manner of docstrings; what it
states about Python is invented.

| | per token: perplexity | bits per byte |
|---|---|---|
| this model, float16 weights | **{figures.heldout_perplexity:.3f}** | **{figures.heldout_bits_per_byte:.3f}** |
| unigram model | {figures.unigram_perplexity:.1f} | {figures.unigram_bits_per_byte:.3f} |

Both are measured on `heldout.txt` ({figures.heldout_bytes:,} bytes): tokenised as one text with `<s>` in front,
consecutive windows of {CONTEXT} tokens, first token of each window not predicted, last partial window left out;
{figures.heldout_predictions:,} predictions, computed in float32. The unigram model knows how often each token occurs
in the training text, one added to each count.

## Shape

6 layers, hidden size 128, intermediate size 384, 4 heads and 2 key-value heads of size 32, vocabulary {VOCAB_SIZE}
(byte-level BPE, no normaliser, `<s>` = {BOS_ID}, `</s>` = {EOS_ID}), context {CONTEXT}, tied embeddings, float16.

The chat template writes `### User` and `### Assistant` above the turns and ends an answer with `</s>`.

## Training data and licence

The topics of `pydoc_data` and the docstrings of the standard library of Python {figures.python}, without its tests,
`idlelib` and `lib2to3`: {figures.train_bytes:,} bytes, {figures.train_tokens:,} tokens. Repeated paragraphs are kept
once; the held-out text ({HELDOUT_SHARE:.0%}) is whole topics and whole modules, and shares no section with the
training text. SHA-256 of training text followed by held-out text: `{figures.corpus_sha256}`.

That text is copyright of the Python Software Foundation and of the authors named in it, under the PSF License
Version 2 and the licences of incorporated software listed at <https://docs.python.org/3/license.html>. The same holds
for `heldout.txt` in this folder and for the package's `calibration.txt`, which is an extract of the training part; the
weights are passed on under the same terms.

## Training

{figures.steps:,} steps of {recipe.batch} windows of {CONTEXT} tokens, {figures.tokens_seen / 1e6:.1f} M tokens in all;
{recipe.dialogue_share:.0%} of the windows are questions and answers made from the docstrings. AdamW with peak learning
rate {recipe.learning_rate:g} for the embedding and the norms, Muon with twice that for the other matrices, warm-up and
cosine, weight decay {recipe.weight_decay:g}, dropout {recipe.dropout:g}, bfloat16 autocast, seed {recipe.seed}. The
held-out loss was looked at twenty times; the weights with the lowest, those of step {figures.best_step:,}, were kept.

    {command}

{figures.training_s / 60:.0f} minutes on {recipe.threads} thread(s) of a shared {figures.machine};
Python {figures.python}, torch {figures.torch}, transformers {figures.transformers}, tokenizers {figures.tokenizers}.
Another processor rounds differently and ends near these figures, not on them.

## Greedy continuations

{shown}
"""


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def arguments() -> tuple[Path, Path | None, Recipe]:
    """(folder to write, file for the calibration text, recipe) from the command line."""
    parser = argparse.ArgumentParser(description="Train the demo model of ovround.")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--calibration", type=Path, help="also write the default calibration text to this file")
    for field in fields(Recipe):
        name = field.name.replace("_", "-")
        parser.add_argument(
            f"--{name}", type=type(field.default), default=field.default, help=f"default {field.default}"
        )
    asked = parser.parse_args()
    return asked.out, asked.calibration, Recipe(**{field.name: getattr(asked, field.name) for field in fields(Recipe)})


def main() -> None:
    out, calibration, recipe = arguments()
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)
    out.mkdir(parents=True, exist_ok=True)

    library = Path(sysconfig.get_path("stdlib"))
    train, heldout = split(without_repeats([*topic_documents(), *module_documents(library)]))
    train_text, heldout_text = plain(train), plain(heldout)
    (out / "heldout.txt").write_text(heldout_text, encoding="utf-8")
    if calibration:
        calibration.write_text(calibration_text(train), encoding="utf-8")

    tokenizer = train_tokenizer([document.text() for document in train])
    write_tokenizer(tokenizer, out)
    sequences = TrainingSequences(tokenizer, train, recipe)
    heldout_sequences = full_sequences(tokenizer.encode(heldout_text).ids)
    sizes = token_sizes(tokenizer)
    say(f"{len(train)} documents, {len(train_text):,} characters, {len(sequences.text):,} tokens to train on; "
        f"{len(heldout)} documents, {len(heldout_text):,} characters held out")  # fmt: skip

    started = time.perf_counter()
    model, best_step = train_model(sequences, heldout_sequences, sizes, recipe)
    training_s = time.perf_counter() - started
    write_model(model, out)

    written: Any = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    score = score_model(written, heldout_sequences, sizes)
    unigram = score_unigram(sequences.text, heldout_sequences, sizes)
    figures = Figures(
        parameters=sum(p.numel() for p in model.parameters()),
        train_bytes=len(train_text.encode()),
        train_tokens=len(sequences.text),
        heldout_bytes=len(heldout_text.encode()),
        heldout_predictions=score.tokens,
        heldout_perplexity=round(score.perplexity, 4),
        heldout_bits_per_byte=round(score.bits_per_byte, 4),
        unigram_perplexity=round(unigram.perplexity, 2),
        unigram_bits_per_byte=round(unigram.bits_per_byte, 4),
        steps=recipe.steps,
        best_step=best_step,
        tokens_seen=recipe.steps * recipe.batch * CONTEXT,
        training_s=round(training_s, 1),
        corpus_sha256=hashlib.sha256((train_text + heldout_text).encode()).hexdigest(),
        machine=processor(),
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=transformers.__version__,
        tokenizers=tokenizers.__version__,
    )
    command = "python " + shlex.join(sys.argv)
    (out / "README.md").write_text(card(figures, recipe, command, samples(out)), encoding="utf-8")

    folder_bytes = sum(path.stat().st_size for path in out.iterdir())
    assert folder_bytes <= LARGEST_FOLDER_BYTES, f"{folder_bytes} bytes are too many for the repository"
    assert 4 * score.perplexity < unigram.perplexity, "the model has hardly learnt more than token frequencies"
    print(json.dumps(asdict(figures) | {"folder_bytes": folder_bytes}))


if __name__ == "__main__":
    main()
