"""An ONNX model whose products use float32 instead of int8 activations, like the evaluation in torch.

Exported MatMulNBits nodes have `accuracy_level` 4, ONNX Runtime's fast path, which rounds activations to int8. QuantizedLinear
nodes have `exact` 0. No session option overrides these attributes, so exact mode changes them in the model's bytes.
"""

from __future__ import annotations

from pathlib import Path

# An AttributeProto in protobuf's wire format: field 1, the name, then field 3, the integer, as a varint: the tag byte
# `3 << 3 | 0` and the value. The writer of the model orders fields by number.
_TAG = b"accuracy_level\x18"
FAST, EXACT = b"\x04", b"\x00"
_NATIVE_TAG = b"\x0a\x05exact\x18"  # with the tag and length of the name, since another name may end in `exact`


def exact_model(path: Path) -> bytes:
    """The bytes of the model at `path` with `accuracy_level` 0 and `exact` 1; length and weights are unchanged.

    A session from bytes does not know their folder and needs the session configuration entry
    `session.model_external_initializers_file_folder_path`. Runs with 2- and 8-bit weights are slow: ONNX Runtime has a
    float32 kernel only for 4 bits, and decodes all other weights on every call.
    """
    model = path.read_bytes().replace(_TAG + FAST, _TAG + EXACT)
    return model.replace(_NATIVE_TAG + b"\x00", _NATIVE_TAG + b"\x01")
