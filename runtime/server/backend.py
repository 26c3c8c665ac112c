"""Who computes answers: an engine that one thread owns."""

from __future__ import annotations

from typing import Protocol

from ovround.runtime.server.job import Job


class Backend(Protocol):
    """Takes jobs from the event loop and gives each its pieces, the last of which has a finish_reason, or an error."""

    slots: int
    """Jobs computed at once."""

    def submit(self, job: Job) -> None:
        """Take a job up; it may wait here for a slot."""
        ...

    def running(self) -> int:
        """Answers that are being computed."""
        ...

    def cache_usage(self) -> float:
        """The share of the KV cache that is in use, 0 to 1."""
        ...

    def close(self) -> None:
        """End the thread and release the engine; jobs on their way get an error."""
        ...
