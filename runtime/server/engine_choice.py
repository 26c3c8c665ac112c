"""The engine that a server starts with. Nothing changes it later: see `field_support` for what each engine can do."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ovround.errors import MissingExtraError, UsageError
from ovround.runtime.engines import HPU_DEVICES, OPENVINO_FILE, check_folder, check_kernel
from ovround.runtime.server.settings import EngineOptions

_FIXED_STATE = re.compile(r'variable_id="past_state\.\d+\.(\w+?)present_state\.')
# Of PagedCausalConv1D and PagedGatedDeltaNet, in openvino_genai 2026.4.
_PAGED_STATES = frozenset({"tail", "recurrent"})
EngineName = Literal["batching", "single"]


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """An engine and the reason for it."""

    name: EngineName
    reason: str
    extension: Path | None = None
    """Library of the folder's own operators, for the batching engine."""


def choose_engine(folder: Path, options: EngineOptions) -> EngineChoice:
    """The engine that `options.engine` asks for; `auto` is batching wherever that can run.

    Raises UsageError or MissingExtraError where `batching` is asked for and cannot run, ArtifactError for a folder
    without a model.
    """
    check_kernel(options.kernel)
    check_folder(folder, options.device)
    if options.engine == "single":
        return EngineChoice("single", "--engine single")
    obstacle, extension = _obstacle_to_batching(folder, options)
    if obstacle is None:
        reason = "--engine batching" if options.engine == "batching" else "OpenVINO folder"
        return EngineChoice("batching", reason, extension)
    if options.engine == "batching":
        if not _genai_is_installed() and (folder / OPENVINO_FILE).is_file():
            raise MissingExtraError("openvino_genai", "serve")
        raise UsageError(f"the batching engine cannot run this: {obstacle}", hint="start with `--engine single`")
    return EngineChoice("single", obstacle)


def _obstacle_to_batching(folder: Path, options: EngineOptions) -> tuple[str | None, Path | None]:
    """Why openvino_genai cannot batch answers here, None where it can; and the library that it must load for that."""
    if options.device.lower() in HPU_DEVICES or options.device.upper().startswith("NPU"):
        return f"continuous batching does not run on {options.device}", None
    if not (folder / OPENVINO_FILE).is_file():
        return "the folder is no OpenVINO folder", None
    if not _genai_is_installed():
        return "openvino_genai is not installed", None
    unknown = _fixed_states(folder / OPENVINO_FILE) - _PAGED_STATES
    if unknown:
        return f"openvino_genai's paged attention has no state like the model's `{min(unknown)}`", None
    if options.draft_model is not None or options.prompt_lookup:
        return "speculative decoding needs the single engine", None
    from ovround.runtime.engines.native.operator import needs_operator, usable_library  # imports OpenVINO

    if needs_operator(folder / OPENVINO_FILE):
        library = usable_library(folder / OPENVINO_FILE, options.device.upper(), options.kernel)
        return (None, library) if library is not None else ("openvino_genai cannot read an expanded model", None)
    if options.kernel == "native":
        return "kernel is `native`, and openvino_genai uses OpenVINO's kernels", None
    return None, None


def _fixed_states(graph: Path) -> set[str]:
    """The names of the states of fixed size that an OpenVINO model of ours has (`ovround.models.state`)."""
    with graph.open(encoding="utf-8", errors="replace") as lines:
        return {name for line in lines for name in _FIXED_STATE.findall(line)}


def _genai_is_installed() -> bool:
    return importlib.util.find_spec("openvino_genai") is not None
