"""What this machine says of itself."""

from __future__ import annotations

import dataclasses
import json

from ovround.runtime.devices import devices, machine


def test_both_engines_have_a_cpu() -> None:
    by_name = {(device.engine, device.device): device for device in devices()}
    for engine in ("OpenVINO", "ONNX Runtime"):
        assert by_name[engine, "CPU"].available
        assert by_name[engine, "CPU"].full_name
    assert all(device.available or device.note for device in by_name.values())


def test_the_machine_can_be_pasted() -> None:
    host = machine()
    assert host.cores >= 1
    assert {"openvino", "onnxruntime", "tokenizers", "numpy"} <= set(host.versions)
    assert json.loads(json.dumps(dataclasses.asdict(host)))["python"] == host.python
