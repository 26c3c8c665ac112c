"""Names of OpenVINO nodes."""

from __future__ import annotations

import openvino as ov


def named(node: ov.Node, name: str) -> ov.Node:
    """`node`, called `name` from now on."""
    node.set_friendly_name(name)
    return node
