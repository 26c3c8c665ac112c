"""How a benchmark runs: the same record for one folder, a sweep over lengths, and two runtimes in turn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ovround.errors import UsageError
from ovround.runtime.engine import Engine
from ovround.runtime.engines import open_engine

_LEAST = {"prompt_tokens": 1, "new_tokens": 2, "repeat": 1}  # the time per further token needs two


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """Options of a benchmark. Raises UsageError for a count that is no whole number or too small."""

    prompt_tokens: int = 128
    """Tokens of the prompt, drawn at random from `seed`."""
    new_tokens: int = 64
    """Tokens to generate; end tokens are ignored."""
    repeat: int = 5
    """Measured runs after one to warm up; for two runtimes, rounds."""
    device: str = "CPU"
    """Device, as `LLM` takes it, and so are the fields that follow."""
    exact: bool = False
    """Whether to compute in float32."""
    threads: int | None = None
    """CPU threads; by default the engine's own number."""
    seed: int = 0
    """Seed of the prompt."""
    verify: bool = True
    """Whether to compare every file with the manifest."""
    kernel: str = "auto"
    """Matrix kernels on CPU: `native`, `engine`, or the faster ones (`auto`)."""

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise UsageError(f"{name} is {value!r}; a whole number of {least} or more is needed")

    def open(self, folder: Path) -> Engine:
        """The engine of `folder` with these options; raises what `open_engine` raises."""
        return open_engine(
            folder, self.device, exact=self.exact, threads=self.threads, verify=self.verify, kernel=self.kernel
        )
