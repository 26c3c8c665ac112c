"""OpenVINO's telemetry: `import openvino` reports to Google Analytics that it happened, unless a user has opted out."""

from __future__ import annotations

import sys


def without_telemetry() -> None:
    """Let this process's imports of OpenVINO and NNCF send nothing; for programs of ours, before they import either.

    Both do without the package `openvino_telemetry` where it cannot be imported. An application that embeds the runtime
    decides for itself.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: an import of it fails
