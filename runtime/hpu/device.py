"""Whether a Gaudi is here, found out without failing; and who compiles the step and counts what was compiled.

PyTorch's HPU plugin has two modes that exclude each other, chosen by PT_HPU_LAZY_MODE before torch is imported: eager with
`torch.compile(backend="hpu_backend")`, and lazy with HPU graphs. Both are served; the mode in force is read, never set.
The plugin is often installed where no device is, and importing it changes torch: nothing here happens before an HPU is
asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass
from types import FunctionType
from typing import Any, Protocol

import torch
from torch._dynamo.backends.registry import lookup_backend

from ovround.errors import EngineError
from ovround.runtime.hpu.operator import Convert, device_operator, emulated, wrong_answers
from ovround.runtime.hpu.step import Run, Step

EMULATED, DEVICE = "hpu-emulated", "hpu"
_PLUGIN = "habana_frameworks"
_PLUGIN_ERRORS = (ImportError, AssertionError, OSError, RuntimeError, AttributeError)  # what importing it has raised
_PROBE_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Probe:
    """What the search found, in this order; `missing` names the first thing that is absent and is empty if none is."""

    missing: str = ""
    plugin: str = ""
    device_name: str = ""
    devices: int = 0
    mode: str = ""
    torch_version: str = torch.__version__
    operator: str = ""

    @property
    def available(self) -> bool:
        return not self.missing


def probe() -> Probe:
    """Import the plugin where it is installed and ask it for devices; never raises."""
    if importlib.util.find_spec(_PLUGIN) is None:
        return Probe(f"the Python package {_PLUGIN} (habana-torch-plugin) is not installed")
    try:
        importlib.import_module(f"{_PLUGIN}.torch.core")
    except _PLUGIN_ERRORS as error:
        return Probe(f"{_PLUGIN}.torch cannot be imported: {type(error).__name__}: {error}")
    try:
        hpu = _module()
        count = int(hpu.device_count()) if hpu.is_available() else 0
        plugin = str(getattr(sys.modules[_PLUGIN], "__version__", "")) or "of unknown version"
        mode = "graphs" if _is_lazy() else "compile"
        if not count:
            return Probe("the plugin is installed, yet it finds no device", plugin, mode=mode)
        name, schema = str(hpu.get_device_name()), str(getattr(torch.ops.hpu, "convert_from_uint4", ""))
    except _PLUGIN_ERRORS as error:
        return Probe(f"the plugin fails when it is asked for devices: {type(error).__name__}: {error}")
    missing = "" if schema else "the plugin has no operator convert_from_uint4"
    return Probe(missing, plugin, name, count, mode, operator=schema)


def probe_in_subprocess() -> Probe:
    """`probe` in a process of its own, for lists of devices: the plugin changes the process that imports it."""
    if importlib.util.find_spec(_PLUGIN) is None:
        return probe()
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__], capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False
        )
        return Probe(**json.loads(done.stdout.splitlines()[-1]))
    except (subprocess.TimeoutExpired, ValueError, IndexError, TypeError) as error:
        return Probe(f"asking for devices in another process failed: {type(error).__name__}")


def _module() -> Any:
    """`torch.hpu`, which the plugin puts there."""
    return vars(torch)["hpu"] if "hpu" in vars(torch) else torch.get_device_module("hpu")


def _is_lazy() -> bool:
    internal = importlib.import_module(f"{_PLUGIN}.torch.utils.internal")
    return bool(internal.is_lazy())


class Backend(Protocol):
    """Who runs the step. `device` is torch's name of where tensors lie."""

    device: str
    name: str
    convert: Convert

    def compiled(self, step: Step) -> Run:
        """`step`, to be compiled once a shape."""
        ...

    def moved(self) -> None:
        """The cache lies elsewhere from now on."""
        ...

    def mark_step(self) -> None:
        """A step is complete: what was recorded may run."""
        ...

    def compilations(self) -> int:
        """How many graphs have been compiled for the step so far."""
        ...


class Emulated:
    """The same path on the CPU: torch.compile's front end with static shapes and no breaks, the operator's arithmetic."""

    device = "cpu"

    def __init__(self) -> None:
        self.convert: Convert = emulated
        self.name = f"PyTorch {torch.__version__} CPU, emulating HPU"
        self._graphs = 0

    def compiled(self, step: Step) -> Run:
        def count(graph: Any, inputs: Any) -> Callable[..., Any]:
            self._graphs += 1
            forward: Callable[..., Any] = graph.forward
            return forward

        step.call = ByShape(count)
        return step

    def moved(self) -> None:
        pass

    def mark_step(self) -> None:
        pass

    def compilations(self) -> int:
        return self._graphs


class Compiled:
    """Eager mode: the step through `hpu_backend`. Not run on hardware."""

    device = DEVICE

    def __init__(self, probed: Probe) -> None:
        self.convert = device_operator()
        self.name = f"PyTorch {torch.__version__} HPU {probed.device_name}, torch.compile"

    def compiled(self, step: Step) -> Run:
        step.call = ByShape("hpu_backend")
        return step

    def moved(self) -> None:
        pass

    def mark_step(self) -> None:
        pass

    def compilations(self) -> int:
        return _device_compilations()


class Graphs:
    """Lazy mode: the step as HPU graphs, one a shape. Not run on hardware."""

    device = DEVICE

    def __init__(self, probed: Probe) -> None:
        self.convert = device_operator()
        self.name = f"PyTorch {torch.__version__} HPU {probed.device_name}, HPU graphs"
        self._wrapped: Any = None
        self._mark = importlib.import_module(f"{_PLUGIN}.torch.core").mark_step

    def compiled(self, step: Step) -> Run:
        self._wrapped = _module().wrap_in_hpu_graph(step)

        def run(
            ids: torch.Tensor, held: torch.Tensor, last: torch.Tensor, length: torch.Tensor, room: torch.Tensor, every: bool
        ) -> torch.Tensor:  # fmt: skip
            logits: torch.Tensor = self._wrapped(ids, held, last, length, room, every)
            return logits.clone()  # the next replay writes over it

        return run

    def moved(self) -> None:
        if self._wrapped is not None:
            self._wrapped.clear_cache()  # graphs hold the cache's addresses

    def mark_step(self) -> None:
        self._mark()

    def compilations(self) -> int:
        return _device_compilations()


def open_backend(device: str) -> Backend:
    """The backend for `hpu` or `hpu-emulated`; raises EngineError saying what was looked for where there is no HPU.

    The operator is compared with known answers before it is trusted with weights.
    """
    if device == EMULATED:
        return Emulated()
    probed = probe()
    if not probed.available:
        raise EngineError(
            f"device `HPU` is not there: {probed.missing} (looked for: plugin, device, operator convert_from_uint4)",
            hint="run in an image of Gaudi's PyTorch, with a device; `hpu-emulated` runs the same path on the CPU",
        )
    backend: Backend = Graphs(probed) if probed.mode == "graphs" else Compiled(probed)
    check_operator(backend, probed)
    return backend


def check_operator(backend: Backend, probed: Probe) -> None:
    """Raise EngineError unless the operator, as this mode compiles it, gives the known answers exactly."""
    convert = backend.convert
    if isinstance(backend, Compiled):  # never in bare eager mode
        convert = torch.compile(convert, backend="hpu_backend", fullgraph=True, dynamic=False)
    try:
        wrong = wrong_answers(convert, backend.device, torch.bfloat16)
    except RuntimeError as error:
        wrong = [f"{type(error).__name__}: {str(error).splitlines()[0]}"]
    if wrong:
        other = "1" if probed.mode == "compile" else "0"
        raise EngineError(
            f"convert_from_uint4 of this HPU ({probed.operator}) is not as documented: {'; '.join(wrong)}",
            hint=f"try the other mode, PT_HPU_LAZY_MODE={other}; and please report it with the output of `ovround selftest`",
        )


class ByShape:
    """Calls regions, each compiled for each key once, as a full graph of static shapes; a second time is an EngineError.

    torch.compile looks for a graph among all that it has for a code object. So each key has a copy of the code: a step does
    not search through the graphs of other shapes, and a graph that is compiled again shows.
    """

    def __init__(self, backend: str | Callable[..., Any]) -> None:
        self._backend = backend
        self._compiled: dict[Hashable, Callable[..., Any]] = {}

    def __call__(self, key: Hashable, function: Callable[..., Any], *arguments: Any) -> Any:
        if key in self._compiled:
            return self._compiled[key](*arguments)
        code = function.__code__.replace(co_name=f"{function.__name__}_{len(self._compiled)}")
        copy = FunctionType(code, function.__globals__)
        compiled = torch.compile(copy, backend=_once(self._backend, key), fullgraph=True, dynamic=False)
        self._compiled[key] = compiled
        return compiled(*arguments)


def _once(backend: str | Callable[..., Any], key: Hashable) -> Callable[..., Any]:
    """`backend` for one graph of static shapes."""
    compile_backend = lookup_backend(backend)
    graphs = 0

    def compile_graph(graph: Any, inputs: Any) -> Any:
        nonlocal graphs
        graphs += 1
        if graphs > 1 or any(isinstance(value, torch.SymInt) for value in inputs):
            raise EngineError(
                f"{key} was compiled again, or for no fixed shape: every step would wait for its compiler"
            )
        return compile_backend(graph, inputs)

    return compile_graph


def _device_compilations() -> int:
    metrics = importlib.import_module(f"{_PLUGIN}.torch.hpu.metrics")
    stats = dict(metrics.metric_global("graph_compilation").stats())
    return int(stats.get("TotalNumber", 0))


if __name__ == "__main__":
    print(json.dumps(asdict(probe())))
