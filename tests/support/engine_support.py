"""Configurations of `smallest_configs`, by `family-number`, that other projects' engines cannot run.

tests/test_clients.py runs every other pair and checks that these still fail. docs/reference/families.md lists both.
"""

OPENVINO_GENAI, ONNXRUNTIME_GENAI = "openvino_genai", "onnxruntime_genai"
CAPPED = "soft-capped attention is no ScaledDotProductAttention: not with ATTENTION_BACKEND=PA"

LIMITS: dict[tuple[str, str], str] = {
    ("gemma2-0", OPENVINO_GENAI): CAPPED,
}
