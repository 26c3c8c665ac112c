"""`--time`: steps, samples and their length chosen so that tuning ends near a time, from a measurement of this run's first block.

The choice is three plain options, so whoever names them gets the same bytes without measuring.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovround.checkpoint import locate
from ovround.conversion.adapted_source import open_adapted
from ovround.conversion.preparation import Job, prepare
from ovround.conversion.time_choice import Choice, given_values, read_choice
from ovround.conversion.tuning import end_to_end_steps
from ovround.errors import UsageError
from ovround.models import from_config
from ovround.options.convert_options import ConvertOptions, resolved_recipe
from ovround.options.units import shown_duration
from ovround.progress import OnProgress, Progress
from ovround.quant.block_store import working_folder
from ovround.quant.calibration.samples import LONGEST_CHOSEN, MOST_CHOSEN, fitting_samples
from ovround.quant.distributed.launch import Launch
from ovround.quant.passes.compile_choice import BLOCK_COMPILE_S, choose
from ovround.quant.tuning_costs import Costs, Work
from ovround.source_tokenizer import chat_renderer, load_tokenizer

if TYPE_CHECKING:
    from ovround.quant.passes.context import QuantContext

LENGTHS = (128, 256, 512, 1024, 2048)  # of samples; a longer one once the steps are ENOUGH
FEWEST_STEPS, ENOUGH_STEPS, MOST_STEPS = 10, 200, 1000
FEWEST_SAMPLES, MOST_SAMPLES = 16, MOST_CHOSEN
STEPS_A_SAMPLE = 6  # steps that see a sample; 6.25 in the default recipe
MEASURED_SAMPLES = 8  # and one that is held out
_FILLED = 0.97  # share of the time that the estimate fills


def check_time(options: ConvertOptions) -> None:
    """Raise UsageError where a time has nothing to choose, or could not be kept."""
    instead = "--iters in place of it"
    if not options.tunes:
        raise UsageError("time is given, yet nothing is tuned", hint="leave out one of the two")
    if None not in (options.iters, options.nsamples, options.seqlen):
        raise UsageError(
            "time chooses iters, nsamples and seqlen, yet all three are given", hint="leave out one of them"
        )
    if options.pv or options.linear_codebooks is not None:
        what = "PV-Tuning takes" if options.pv else "fitting codebooks takes"
        raise UsageError(f"time is given, yet what {what} is not known before", hint=instead)
    processes = Launch.from_environment().size
    if processes > 1:
        raise UsageError(f"time is given, yet {processes} processes tune together", hint=instead)


def choose_in_time(
    model: str, out: Path, options: ConvertOptions, time_s: float, began: float, on_progress: OnProgress
) -> Choice:
    """Steps, samples and length for `time_s` seconds since `began`, a moment of `time.monotonic`; those that are given stay.

    An interrupted run's choice with the same options and time is taken again. Raises UsageError where the time is too short; it
    says what the least is.
    """
    check_time(options)
    given = given_values(options, time_s)
    kept = read_choice(working_folder(out.absolute()), given)
    if kept is not None:
        on_progress(Progress("note", note=f"time {shown_duration(time_s)}, as chosen by the earlier run: {kept.words}"))
        return kept
    context = from_config(open_adapted(locate(model), options.adapter).config).config.max_position_embeddings
    few = replace(
        options, iters=options.iters or ENOUGH_STEPS, nsamples=min(MEASURED_SAMPLES, options.nsamples or MEASURED_SAMPLES),
        seqlen=options.seqlen or min(LENGTHS[0], context),
    )  # fmt: skip
    job = prepare(model, out, few)
    if job.calibration is None:
        raise UsageError(
            "time is given, yet nothing is tuned", hint="--recipe default tunes weights that are quantised already"
        )
    on_progress(Progress("measure"))
    choice = _Chooser(job, options, time_s, began, given).choice()
    on_progress(Progress("note", note=f"time {shown_duration(time_s)}: {choice.words}"))
    return choice


class _Chooser:
    """Finds the choice that fills the time; `job` has few short samples, which the costs are measured on."""

    def __init__(
        self, job: Job, options: ConvertOptions, time_s: float, began: float, given: Mapping[str, Any]
    ) -> None:
        self._job, self._options, self._time_s, self._began, self._given = job, options, time_s, began, given
        folder, config = job.checkpoint.folder, job.decoder.config
        self._fitting = fitting_samples(load_tokenizer(folder), options, config.vocab_size, chat_renderer(folder))
        longest = min(LONGEST_CHOSEN, config.max_position_embeddings)
        whole = [length for length in LENGTHS if length <= longest and self._fitting(length) >= FEWEST_SAMPLES]
        self._lengths = [options.seqlen] if options.seqlen else whole or [min(longest, LENGTHS[0])]

    def choice(self) -> Choice:
        from ovround.quant.costs import measure_costs, with_compiled_steps  # torch

        context = _context(self._job)
        costs = measure_costs(context)
        choice = self._best(costs)
        if self._compiles(choice):
            costs = with_compiled_steps(context, costs, BLOCK_COMPILE_S)
            choice = self._best(costs)
        return choice

    def _compiles(self, choice: Choice) -> bool:
        job, options = self._job, choice.into(self._options)
        tokens = choice.seqlen * resolved_recipe(options).batch_size
        return choose(options.tuning.compile, job.options.device, job.decoder, tokens, choice.iters, integers=True)

    def _best(self, costs: Costs) -> Choice:
        """The longest samples that leave enough steps, else the shortest with what the time allows."""
        for length in reversed(self._lengths):
            choice, enough = self._filled(costs, length)
            if choice is not None and (enough or length == self._lengths[0]):
                return choice
        least = self._choice(
            costs, self._steps(FEWEST_STEPS), self._samples(FEWEST_STEPS, self._lengths[0]), self._lengths[0]
        )
        needed = least.seconds / _FILLED + time.monotonic() - self._began
        raise UsageError(
            f"time is {shown_duration(self._time_s)}; the least that can be chosen, {least.iters} steps a block on "
            f"{least.nsamples} samples of {least.seqlen} tokens, takes about {shown_duration(needed)}",
            hint=f"--time {shown_duration(60 * math.ceil(1.1 * needed / 60))}, or --recipe rtn, which tunes nothing",
        )

    def _filled(self, costs: Costs, length: int) -> tuple[Choice | None, bool]:
        """The most that fits the time with samples of this length, if anything does, and whether it is enough."""
        room_s = _FILLED * self._time_s - (time.monotonic() - self._began)
        iters = self._options.iters
        if iters is None:
            choices = [self._choice(costs, steps, self._samples(steps, length), length) for steps in _steps()]
        else:
            choices = [self._choice(costs, iters, count, length) for count in self._counts(length)]
        fitting = [choice for choice in choices if choice.seconds <= room_s]
        if not fitting:
            return None, False
        if iters is None:
            return fitting[-1], fitting[-1].iters >= ENOUGH_STEPS
        return fitting[-1], fitting[-1].nsamples >= self._samples(iters, length)

    def _counts(self, length: int) -> list[int]:
        """Numbers of samples to choose from."""
        if self._options.nsamples is not None:
            return [self._options.nsamples]
        most = max(1, min(MOST_SAMPLES, self._fitting(length)))
        return [*range(FEWEST_SAMPLES, most, 8), most]

    def _choice(self, costs: Costs, iters: int, nsamples: int, seqlen: int) -> Choice:
        job, options = self._job, replace(self._options, iters=iters, nsamples=nsamples, seqlen=seqlen)
        end_to_end = end_to_end_steps(options, job.decoder, job.plan)
        work = Work(iters, nsamples, seqlen, resolved_recipe(options).batch_size, end_to_end)
        return Choice(iters, nsamples, seqlen, round(costs.seconds(work), 1), self._given)

    def _steps(self, fewest: int) -> int:
        return self._options.iters or fewest

    def _samples(self, iters: int, length: int) -> int:
        """As many samples as so many steps use, in eights, of those that the text gives."""
        if self._options.nsamples is not None:
            return self._options.nsamples
        batch_size = resolved_recipe(self._options).batch_size
        used = 8 * math.ceil(iters * batch_size / STEPS_A_SAMPLE / 8)
        return max(1, min(max(FEWEST_SAMPLES, used), MOST_SAMPLES, self._fitting(length)))


def _steps() -> list[int]:
    """Numbers of steps to choose from, about 2 % apart."""
    steps = [FEWEST_STEPS]
    while steps[-1] < MOST_STEPS:
        steps.append(min(MOST_STEPS, max(steps[-1] + 1, round(steps[-1] * 1.02))))
    return steps


def _context(job: Job) -> QuantContext:
    from ovround.quant.device import open_device  # torch
    from ovround.quant.passes.context import QuantContext

    device = open_device(job.options.device, job.launch.local_rank)
    return QuantContext(job.checkpoint, job.decoder, job.plan, job.settings, job.calibration, device=device)
