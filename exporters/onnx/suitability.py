"""What ONNX Runtime's attention cannot compute, found before anything is written and without importing onnx."""

from __future__ import annotations

from ovround.errors import ArchitectureError
from ovround.models.calls import attention_specs
from ovround.models.decoder import Decoder

HEAD_MULTIPLE = 8  # of the head sizes that GroupQueryAttention takes


def check_onnx_attention(decoder: Decoder) -> None:
    """Raise ArchitectureError for heads that ONNX Runtime cannot attend with."""
    sizes = (spec.head_dim for spec in attention_specs(decoder))
    head_dim = next((size for size in sizes if size % HEAD_MULTIPLE), None)
    if head_dim is not None:
        raise ArchitectureError(
            f"head_dim is {head_dim}; ONNX Runtime's attention needs a multiple of {HEAD_MULTIPLE}",
            hint="--format openvino takes any",
        )
