"""An ONNX model without int8 activations: every product computes on float32, as the evaluation in torch does.

Exported nodes of MatMulNBits say `accuracy_level` 4, ONNX Runtime's fast path, which rounds activations to int8; those of
QuantizedLinear say `exact` 0. Both are attributes of each node that no session option overrides for all of them, so exact mode
changes them in the model's bytes.
"""

from __future__ import annotations

from pathlib import Path

# An AttributeProto in protobuf's wire format: field 1, the name, then field 3, the integer, as a varint: the tag byte
# `3 << 3 | 0` and the value. The writer of the model put fields in the order of their numbers.
_TAG = b"accuracy_level\x18"
FAST, EXACT = b"\x04", b"\x00"
_NATIVE_TAG = b"\x0a\x05exact\x18"  # with the name's own tag and length: `exact` might end another name


def exact_model(path: Path) -> bytes:
    """The bytes of the model at `path` with each `accuracy_level` 4 made 0, each `exact` 1; same length, weights untouched.

    A session made from bytes does not know their folder: give it the session configuration entry
    `session.model_external_initializers_file_folder_path`. Runs with 2- and 8-bit weights are slow then: ONNX Runtime
    has a float32 kernel for 4 bits alone, and decodes the others whole on every call.
    """
    model = path.read_bytes().replace(_TAG + FAST, _TAG + EXACT)
    return model.replace(_NATIVE_TAG + b"\x00", _NATIVE_TAG + b"\x01")
