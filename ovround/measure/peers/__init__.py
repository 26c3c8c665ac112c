"""Other runtimes beside ours, one process a side, in turn: what `ovround bench --baseline` measures.

`worker.py` is a program of its own, run by path: it needs nothing but numpy and the library that it measures, so a peer may
live in another environment than ovround. `comparison.py` starts two of them and asks them alternately.
"""

from __future__ import annotations

from ovround.measure.peers.comparison import PEERS, Comparison, Side, compare

__all__ = ["PEERS", "Comparison", "Side", "compare"]
