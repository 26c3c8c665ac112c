"""What tuning takes by estimate: costs as lines over tokens, added up over its steps; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from ovround.quant.calibration.samples import held_out_samples
from ovround.quant.passes.candidates import is_candidate


@dataclass(frozen=True, slots=True)
class Line:
    """Seconds of a piece of work on so many tokens."""

    fixed_s: float
    token_s: float

    def __call__(self, tokens: float) -> float:
        return self.fixed_s + self.token_s * tokens

    @classmethod
    def through(cls, few: tuple[int, float], many: tuple[int, float]) -> Line:
        """The line through two measurements (tokens, seconds); neither part is negative, as noise could have it."""
        (x, a), (y, b) = few, many
        slope = max(0.0, (b - a) / (y - x))
        if b - slope * y < 0:
            return cls(0.0, b / y)
        return cls(b - slope * y, slope)


@dataclass(frozen=True, slots=True)
class Work:
    """How a model is tuned, for an estimate: steps a block, samples to tune on and their tokens, samples a step, end-to-end steps."""

    iters: int
    nsamples: int
    seqlen: int
    batch_size: int
    end_to_end_steps: int


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds over tokens. `head` is about the head of both models, their divergence and its gradient; the rest about a group of
    blocks: its start up to the first step, a step (`plain_step`: not compiled), a comparison on held-out samples, and advancing
    the quantised model. Its compilation takes `compile_s`, the first one's `first_compile_s`; both 0 where nothing is compiled.
    """

    start: Line
    step: Line
    plain_step: Line
    compare: Line
    advance: Line
    head: Line
    groups: int
    first_compile_s: float = 0.0
    compile_s: float = 0.0

    def seconds(self, work: Work) -> float:
        """What tuning takes by estimate, from the embedding to the measured quality."""
        held_out = held_out_samples(work.nsamples) * work.seqlen
        train, batch = work.nsamples * work.seqlen, min(work.batch_size, work.nsamples) * work.seqlen
        late = [step for step in range(work.iters // 2, work.iters) if is_candidate(step + 1, work.iters)]
        group_s = self.start(train) + work.iters * self.step(batch) + (1 + len(late)) * self.compare(held_out)
        total_s = self.groups * (group_s + self.advance(train + held_out) + self.compile_s)
        total_s += max(0.0, self.first_compile_s - self.compile_s) + self.head(held_out)
        steps = work.end_to_end_steps
        if not steps:
            return total_s
        candidates = 1 + sum(is_candidate(step + 1, steps) for step in range(steps))
        uncompiled_s = self.groups * self.plain_step(batch) + self.head(batch)
        compared_s = self.groups * self.compare(held_out) + self.head(held_out)
        passes_s = 2 * self.groups * self.advance(train + held_out) + self.head(held_out)
        return total_s + steps * uncompiled_s + candidates * compared_s + passes_s
