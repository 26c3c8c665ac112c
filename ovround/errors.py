"""All errors that ovround raises deliberately.

    OvroundError
    ├── UsageError            an option or argument that is not allowed (exit status 2)
    ├── CheckpointError       a source folder that is missing, damaged, or not understood
    │   ├── HeaderError       a safetensors header that does not describe its file
    │   └── TensorError       a tensor that is missing, of the wrong shape, or not finite
    ├── ArchitectureError     a model family or variant that ovround does not have
    ├── CalibrationError      calibration or evaluation text that is missing or too short
    ├── OutputError           an output folder that exists already, is full, or is not writable
    ├── ResumeError           an interrupted conversion that cannot be continued
    ├── RankError             another process of the same conversion that ended, does not answer, or has other options
    ├── VerifyError           a written folder whose contents differ from the intended ones
    ├── ArtifactError         an output folder that the runtime cannot read
    ├── EngineError           an engine or device that is missing or refuses the model
    ├── BusyError             a request that the server has no capacity for now
    ├── GenerationError       a request that the loaded model cannot answer
    └── MissingExtraError     an optional package that is not installed

A message says what is wrong, the value, and what is allowed; `hint` says what to do.
"""

from __future__ import annotations

# Messages quote files and libraries: a value of a megabyte must not fill the screen.
MESSAGE_CHARACTERS = 1600
_END = 300


class OvroundError(Exception):
    """Base of all deliberate errors; `str(error)` is the message, `error.hint` says what to do (or is None).

    A message longer than MESSAGE_CHARACTERS is shortened in the middle.
    """

    exit_status = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        if len(message) > MESSAGE_CHARACTERS:
            message = f"{message[: MESSAGE_CHARACTERS - _END]} [...] {message[-_END:]}"
        super().__init__(message)
        self.hint = hint


class UsageError(OvroundError):
    exit_status = 2


class CheckpointError(OvroundError):
    pass


class HeaderError(CheckpointError):
    pass


class TensorError(CheckpointError):
    pass


class ArchitectureError(OvroundError):
    pass


class CalibrationError(OvroundError):
    pass


class OutputError(OvroundError):
    pass


class ResumeError(OvroundError):
    pass


class RankError(OvroundError):
    pass


class VerifyError(OvroundError):
    pass


class ArtifactError(OvroundError):
    pass


class EngineError(OvroundError):
    pass


class BusyError(OvroundError):
    pass


class GenerationError(OvroundError):
    pass


class MissingExtraError(OvroundError):
    """An optional dependency is not installed; the hint is the pip command that installs it."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f"this needs `{module}`, which is not installed", hint=f"pip install 'ovround[{extra}]'")
