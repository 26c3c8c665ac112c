"""Which steps of a tuning are compared on held-out samples; needs no torch."""

from __future__ import annotations

CANDIDATES = 10  # one step in (steps / CANDIDATES) is compared


def is_candidate(done: int, steps: int) -> bool:
    """Whether the parameters after `done` of `steps` steps are compared; those after the last step always are."""
    return done % max(1, steps // CANDIDATES) == 0 or done == steps
