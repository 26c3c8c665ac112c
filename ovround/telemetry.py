"""Switches OpenVINO's telemetry off: `import openvino` sends an event to Google Analytics unless the user has opted out."""

from __future__ import annotations

import sys


def without_telemetry() -> None:
    """Keep OpenVINO and NNCF from sending telemetry in this process; call it before either is imported.

    Both work without the package `openvino_telemetry`. Only our own programs call this: an application that embeds the
    runtime decides for itself.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None makes its import fail
