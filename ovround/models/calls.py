"""Which verbs a model calls, recorded by a run without tensors. Backends use that for checks and sizes before anything is written."""

from __future__ import annotations

from collections.abc import Sequence

from ovround.models.decoder import Decoder
from ovround.models.ops import Activation, Attention, Experts
from ovround.models.rope import Rope
from ovround.models.verbs import Verb, implementation


class _Recorder:
    """`Ops` over no tensors; keeps what attention and the verbs of single parts are asked for."""

    def __init__(self) -> None:
        self.attention_specs: list[Attention] = []
        self.verbs: list[Verb] = []

    def embedding(self, ids: None, at: str) -> None:
        pass

    def position_embedding(self, ids: None, at: str) -> None:
        pass

    def linear(self, x: None, at: str) -> None:
        pass

    def rms_norm(self, x: None, at: str, eps: float, heads: int = 1) -> None:
        pass

    def layer_norm(self, x: None, at: str, eps: float) -> None:
        pass

    def attention(self, q: None, k: None, v: None, layer: int, spec: Attention) -> None:
        self.attention_specs.append(spec)

    def experts(self, x: None, at: str, spec: Experts) -> None:
        pass

    def call(self, verb: Verb, inputs: Sequence[None], layer: int) -> None:
        self.verbs.append(verb)
        attends = getattr(verb, "attention", None)
        if isinstance(attends, Attention):
            self.attention_specs.append(attends)

    def activation(self, x: None, kind: Activation) -> None:
        pass

    def softcap(self, x: None, cap: float) -> None:
        pass

    def scale(self, x: None, factor: float) -> None:
        pass

    def add(self, x: None, y: None) -> None:
        pass

    def mul(self, x: None, y: None) -> None:
        pass


def attention_specs(decoder: Decoder, layer: int | None = None) -> tuple[Attention, ...]:
    """What the attention of block `layer` computes, or that of all blocks, each kind once."""
    return tuple(dict.fromkeys(_recorded(decoder, layer).attention_specs))


def ropes(decoder: Decoder) -> tuple[Rope, ...]:
    """The rotations of all blocks, each once."""
    return tuple(dict.fromkeys(spec.rope for spec in attention_specs(decoder) if spec.rope is not None))


def check_verbs(decoder: Decoder, backend: str) -> None:
    """Raise ArchitectureError where the model calls a verb that `backend` does not have."""
    for verb in _recorded(decoder).verbs:
        implementation(backend, verb.name)


def _recorded(decoder: Decoder, layer: int | None = None) -> _Recorder:
    recorder = _Recorder()
    first_of_kind = {block: number for number, block in reversed(list(enumerate(decoder.blocks)))}
    for number in sorted(first_of_kind.values()) if layer is None else (layer,):
        decoder.block(recorder, None, number)
    return recorder
