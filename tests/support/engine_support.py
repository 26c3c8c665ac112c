"""What other people's engines cannot do with a configuration of `smallest_configs`, by `family-number`.

tests/test_clients.py runs every other pair, and sees that these still fail; docs/reference/families.md is made of both.
"""

OPENVINO_GENAI, ONNXRUNTIME_GENAI = "openvino_genai", "onnxruntime_genai"
CAPPED = "soft-capped attention is no ScaledDotProductAttention: not with ATTENTION_BACKEND=PA"

LIMITS: dict[tuple[str, str], str] = {
    ("gemma2-0", OPENVINO_GENAI): CAPPED,
}
