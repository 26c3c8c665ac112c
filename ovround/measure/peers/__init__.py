"""Comparison with other runtimes for `ovround bench --baseline`: one process per side, measured alternately.

`worker.py` is a program that is run by its path. It needs only numpy and the library that it measures, so a peer may be in
another environment than ovround. `comparison.py` starts two workers and measures them alternately.
"""

from __future__ import annotations

from ovround.measure.peers.comparison import PEERS, Baseline, Comparison, Side, compare

__all__ = ["PEERS", "Baseline", "Comparison", "Side", "compare"]
