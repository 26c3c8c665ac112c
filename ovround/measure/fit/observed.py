"""What a `bench` reached, kept for predictions: only of a folder of ours, whose manifest says what was run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ovround.artifact.manifest import MANIFEST, read_manifest
from ovround.measure.benchmark import BenchResult
from ovround.measure.fit.machine import ObservedRun, add_run

_LAYER = "model.layers."


def remember(folder: Path, result: BenchResult) -> None:
    """Keep the result for `ovround fit`."""
    if not (folder / MANIFEST).is_file():
        return
    manifest = read_manifest(folder)
    inside = [weight for weight in manifest.weights if weight.name.startswith(_LAYER)]
    widths = Counter(weight.bits for weight in inside if len(weight.shape) > 1)
    if len(widths) != 1 or not result.time_per_output_token_median_s:
        return  # mixed bits say nothing about one width
    layers = len({weight.name.removeprefix(_LAYER).partition(".")[0] for weight in inside})
    add_run(
        ObservedRun(
            manifest.format, result.kernel, next(iter(widths)), layers, result.weight_bytes_per_token,
            result.time_per_output_token_median_s, result.read_bandwidth_bytes_per_s,
        )
    )  # fmt: skip
