"""Several processes that tune one model together: each has a share of the windows, and all take the same steps.

Gradients and losses are summed over all processes before anything is decided by them, so that every process moves its copy
of the weights alike and ends with the same integers, which is checked block by block. The first process has the files:
what it read is sent to the others, so OUT need not lie where all machines see it.

The sums run on the device (NCCL, oneCCL, HCCL) where there is one, everything else by Gloo. A process that ends or is
silent for TIMEOUT ends all.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist

from ovround.errors import EngineError, RankError
from ovround.quant.distributed.launch import Launch

TIMEOUT = timedelta(minutes=10)
_LEAVING_S = 5  # that a process may take to end once its connections are closed
_GONE = f"ovround/gone/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
_BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl", "xpu": "cpu:gloo,xpu:xccl", "hpu": "cpu:gloo,hpu:hccl"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process runs."""

    host: str
    pid: int

    def runs(self) -> bool:
        """Whether it is still there, as far as this machine can tell."""
        if self.host != platform.node() or os.name == "nt":  # where os.kill would not only ask
            return True
        try:
            os.kill(self.pid, 0)
            state = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        except ProcessLookupError:
            return False
        except FileNotFoundError:  # it has ended just now, or this system has no such files
            return not Path("/proc/self").exists()
        except OSError:
            return True
        return state.split()[0] not in ("Z", "X")


@dataclass(frozen=True, slots=True)
class Group:
    """Process `rank` of `size`; with one process every method gives back what it was given."""

    rank: int = 0
    size: int = 1
    places: tuple[Place, ...] = ()

    @property
    def is_main(self) -> bool:
        """Whether this process has the files."""
        return self.rank == 0

    def sum_(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace float32 tensors by their sums over all processes, equal bits everywhere; shapes alike in all of them."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with self._answered():
            dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        with torch.no_grad():
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def totals(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes, in float64."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        with self._answered():
            dist.all_reduce(sums)
        return [float(value) for value in sums]

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` gives in the first process; it is called there alone."""
        if self.size == 1:
            return make()
        values: list[T | None] = [make() if self.is_main else None]
        with self._answered():
            dist.broadcast_object_list(values)
        return values[0]  # type: ignore[return-value]  # T itself may be optional

    def check_fingerprint(self, fingerprint: Mapping[str, str]) -> None:
        """Raise RankError naming the first thing that another process has otherwise than the first one."""
        for rank, others in enumerate(self._gathered(dict(fingerprint))):
            for name, value in others.items():
                if (here := fingerprint.get(name, "not there")) != value:
                    raise RankError(
                        f"{name} is {here} in process {self.rank}, {value} in process {rank}",
                        hint="all processes need the same model, text, options, versions, threads and kind of processor",
                    )

    def check_integers(self, what: str, digest: str) -> None:
        """Raise RankError when `digest`, of what every process has found for `what`, is not the same in all."""
        for rank, other in enumerate(self._gathered(digest)):
            if other != digest:
                raise RankError(
                    f"process {rank} found other integers for {what} than process {self.rank}",
                    hint="their processors compute differently: use machines of one kind, with the same libraries",
                )

    def _gathered(self, value: T) -> list[T]:
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        with self._answered():
            dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]  # all are there now

    @contextlib.contextmanager
    def _answered(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # torch's own errors of this kind derive from it
            gone = self._gone()
            minutes = int(TIMEOUT.total_seconds() / 60)
            who = f"process {gone} ended" if gone else f"another process ended, or did not answer for {minutes} minutes"
            raise RankError(
                f"{who}: {_reason(error)}",
                hint="its own message says why; the same command continues from the blocks that are finished",
            ) from error

    def _gone(self) -> str:
        """The number of the process that ended first, as whoever noticed it first tells the others; empty when nobody can tell.

        Gloo says which address has closed its connection, to those alone that waited for it.
        """
        found, until = "", time.monotonic() + _LEAVING_S
        while not found and self.places and time.monotonic() < until:
            time.sleep(0.05)  # its connections are closed before it is gone
            found = ", ".join(str(rank) for rank, place in enumerate(self.places) if not place.runs())
        if found.startswith("0"):  # it kept the store
            return found
        try:
            host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            socket.create_connection((host, port), _LEAVING_S).close()  # torch would write its own lines to stderr
            connect = dist.TCPStore  # type: ignore[attr-defined]  # documented there, and not in its __all__
            store = connect(host, port, is_master=False, timeout=timedelta(seconds=_LEAVING_S))
            return str(store.compare_set(_GONE, "", found).decode()) or found
        except (RuntimeError, OSError, KeyError, ValueError):  # the first process is gone by now
            return found


ALONE = Group()


@contextlib.contextmanager
def open_group(launch: Launch, device: str) -> Iterator[Group]:
    """Meet the other processes, which compute on `device` too.

    Raises RankError when not all come within TIMEOUT, EngineError for a torch that cannot talk to other processes.
    """
    if launch.size == 1:
        yield ALONE
        return
    if not dist.is_available():
        raise EngineError(f"torch {torch.__version__} was built without its distributed part", hint="run one process")
    if device == "hpu":
        importlib.import_module("habana_frameworks.torch.distributed.hccl")  # gives torch the backend
    group = Group(launch.rank, launch.size)
    with group._answered():
        dist.init_process_group(_BACKENDS[device], timeout=TIMEOUT)
    try:
        yield replace(group, places=tuple(group._gathered(Place(platform.node(), os.getpid()))))
    finally:
        dist.destroy_process_group()


def _reason(error: RuntimeError) -> str:
    """What Gloo or NCCL says, without the place in its source and its advice."""
    line = next(iter(str(error).strip().splitlines()), "no reason given")
    return re.sub(r"^\[[^\]]*\] ", "", line).partition(". This is")[0]
