"""Round to nearest, block after block: no text, no activations, nothing stored."""

from __future__ import annotations

from collections.abc import Iterator

from ovround.models.decoder import HEAD
from ovround.progress import Progress
from ovround.quant.emitted import Emitted
from ovround.quant.integers.rtn import round_to_nearest
from ovround.quant.passes.context import QuantContext
from ovround.tensors.scheme import QuantScheme


class RtnPass:
    """Rounds every weight that the plan quantises, and gives each tensor as soon as it is finished.

    `wide_scales`: the formats hold float32 scales, where float16 cannot.
    """

    def __init__(self, context: QuantContext, *, wide_scales: bool = False) -> None:
        self._context, self._wide_scales = context, wide_scales
        self._stacked = context.decoder.stacked()  # experts share one tensor, so one type of scales

    def run(self) -> Iterator[Emitted]:
        """Every tensor in the model's order."""
        context, decoder = self._context, self._context.decoder
        yield from map(self.rounded, decoder.first_tensors())
        for layer in range(context.blocks):
            yield from map(self.rounded, decoder.tensors(layer))
            context.on_progress(Progress("quantise", layer + 1, context.blocks))
        yield from map(self.rounded, names_after_blocks(context))

    def rounded(self, name: str) -> Emitted:
        """One tensor, rounded to its scheme; as it is in the checkpoint where it stays in float."""
        tensor, scheme = self._context.read(name), self._context.plan.get(name.removesuffix(".weight"))
        if not isinstance(scheme, QuantScheme) or not name.endswith(".weight"):
            return Emitted(name, tensor, 0.0)
        wide = self._wide_scales and name.removesuffix(".weight") not in self._stacked
        return Emitted(name, *round_to_nearest(name, tensor, scheme, wide_scales=wide))


def names_after_blocks(context: QuantContext) -> tuple[str, ...]:
    """The tensors after the last block: the norm, then the head unless the embedding serves as head."""
    head = f"{HEAD}.weight"
    others = tuple(name for name in context.decoder.last_tensors() if name != head)
    return (*others, head) if HEAD in context.plan else others
