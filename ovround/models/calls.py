"""Which verbs a model calls, recorded by a run without tensors. Backends use that for checks and sizes before anything is written."""

from __future__ import annotations

from collections.abc import Sequence

from ovround.models.decoder import Decoder
from ovround.models.ops import Activation, Attention, Experts, shared_name
from ovround.models.rope import Rope
from ovround.models.verbs import Verb, has_verb, implementation


class _Recorder:
    """`Ops` over no tensors; keeps what attention and the verbs of single parts are asked for, and what crosses blocks."""

    def __init__(self) -> None:
        self.attention_specs: list[Attention] = []
        self.verbs: list[Verb] = []
        self.expert_specs: list[Experts] = []
        self.left: dict[str, None] = {}
        self.read: dict[str, None] = {}

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

    def experts(self, x: None, at: str, spec: Experts, routed: None = None) -> None:
        self.expert_specs.append(spec)

    def share(self, name: str, value: None) -> None:
        self.left[name] = None

    def shared(self, name: str) -> None:
        self.read[name] = None

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


def expert_specs(decoder: Decoder) -> tuple[Experts, ...]:
    """The mixtures of experts of all blocks, each kind once."""
    return tuple(dict.fromkeys(_recorded(decoder).expert_specs))


def ropes(decoder: Decoder) -> tuple[Rope, ...]:
    """The rotations of all blocks, each once."""
    return tuple(dict.fromkeys(spec.rope for spec in attention_specs(decoder) if spec.rope is not None))


def check_verbs(decoder: Decoder, backend: str) -> None:
    """Raise ArchitectureError where the model calls a verb that `backend` does not have."""
    for verb in _recorded(decoder).verbs:
        implementation(backend, verb.name)


def missing_verbs(decoder: Decoder, backend: str) -> list[str]:
    """The verbs that the model calls and `backend` does not have; nothing is imported."""
    return [verb.name for verb in _recorded(decoder).verbs if not has_verb(backend, verb.name)]


def shared_reads(decoder: Decoder, layer: int) -> tuple[str, ...]:
    """The names of the values that block `layer` reads and an earlier one has left; keys and values of a cache are not among them."""
    return tuple(_recorded(decoder, layer).read)


def shared_caches(decoder: Decoder, layer: int) -> tuple[int, ...]:
    """The earlier layers whose keys and values block `layer` reads."""
    specs = _recorded(decoder, layer).attention_specs
    return tuple(dict.fromkeys(spec.cache_of for spec in specs if spec.cache_of is not None))


def carried(decoder: Decoder, layer: int) -> tuple[str, ...]:
    """All that block `layer` reads of earlier ones besides the hidden states, by the names of `Ops.shared`."""
    caches = shared_caches(decoder, layer)
    return (*shared_reads(decoder, layer), *(shared_name(of, name) for of in caches for name in ("key", "value")))


def _recorded(decoder: Decoder, layer: int | None = None) -> _Recorder:
    recorder = _Recorder()
    first_of_kind = {block: number for number, block in reversed(list(enumerate(decoder.blocks)))}
    for number in sorted(first_of_kind.values()) if layer is None else (layer,):
        decoder.block(recorder, None, number)
    return recorder
