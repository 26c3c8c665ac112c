"""Configurations of `smallest_configs`, by `family-number`, that other projects' engines cannot run.

tests/test_clients.py runs every other pair and checks that these still fail. docs/reference/families.md lists both.
"""

OPENVINO_GENAI, ONNXRUNTIME_GENAI = "openvino_genai", "onnxruntime_genai"
CAPPED = "soft-capped attention is no ScaledDotProductAttention: not with ATTENTION_BACKEND=PA"

NO_PAGED_SCAN = "Mamba 2's state has no paged form in 2026.4: not with ATTENTION_BACKEND=PA"

# What openvino_genai's paged back end says, by the reason.
ERRORS = {CAPPED: "No ScaledDotProductAttention", NO_PAGED_SCAN: "undeclared parameters"}

LIMITS: dict[tuple[str, str], str] = {
    ("gemma2-0", OPENVINO_GENAI): CAPPED,
    **{
        (name, OPENVINO_GENAI): NO_PAGED_SCAN
        for name in (
            "bamba-0",
            "falcon_h1-0",
            "falcon_h1-1",
            "granitemoehybrid-0",
            "granitemoehybrid-1",
            "nemotron_h-0",
            "nemotron_h-1",
            "nemotron_h-2",
            "nemotron_h-3",
        )
    },
}
