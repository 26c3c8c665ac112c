"""What OpenVINO's devices can do with a stateful decoder, as a table: every decision of the engine that depends on one.

CPU was measured. GPU and NPU were read in OpenVINO's and openvino_genai's sources, and not run: an NPU gets the properties
that openvino_genai gives it, since its plugin runs decoders only through its wrapper for them (NPUW), in static shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ovround.errors import UsageError

_NPU_PROMPT, _NPU_ANSWER = 1024, 128  # tokens, openvino_genai's defaults
_BATCH_AXIS, _TEXT_AXIS = 0, 2  # of the cache's variables [B, H_kv, S, D]
# Float32, no int8 activations, float32 cache. EXECUTION_MODE_HINT=ACCURACY is meant to say the same, but 2026.4.1 on a CPU
# with AMX then computed 4-bit models to 2e-4 only, where these three give 5e-7 (docs/log.md).
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0", "KV_CACHE_PRECISION": "f32"}
_EXACT_GPU = {**EXACT, "KV_CACHE_PRECISION": "f16"}  # a GPU's cache is float16 or 8 bits


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of device. `exact` None: it cannot compute in float32.

    `whole`: rows, positions and lengths are free. Otherwise one row, a prompt at once into an empty cache, then a token at a
    time, logits of the last position alone, at most `prompt_length` tokens of a prompt.
    """

    kind: str
    exact: Mapping[str, str] | None = field(default_factory=lambda: dict(EXACT))
    threads: bool = False
    whole: bool = True
    properties: Mapping[str, str | int] = field(default_factory=dict)
    context_length: int | None = None
    prompt_length: int | None = None

    def options(self, *, exact: bool, threads: int | None) -> dict[str, str | int]:
        """What the model is compiled with; raises UsageError for what the device does not have."""
        if threads is not None and not self.threads:
            raise UsageError(f"threads is {threads} and the device {self.kind}; threads are chosen for CPU only")
        if exact and self.exact is None:
            raise UsageError(f"exact is on, and the device {self.kind} computes in float16 only", hint="leave it out")
        options: dict[str, str | int] = dict(self.properties)
        if exact and self.exact is not None:
            options |= self.exact
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        return options


def profile_of(device: str, context_length: int) -> Profile:
    """The profile of a device in OpenVINO's spelling (`GPU.1`, `AUTO:GPU,CPU`), for a model of this context."""
    kind = device.partition(":")[0].partition(".")[0]
    if kind == "CPU":
        return Profile("CPU", threads=device == "CPU")
    if kind == "GPU":
        return Profile("GPU", exact=_EXACT_GPU)
    if kind == "NPU":
        return _npu(context_length)
    return Profile(kind)


def _npu(context_length: int) -> Profile:
    answer = max(1, min(_NPU_ANSWER, context_length // 4))
    prompt = max(1, min(_NPU_PROMPT, context_length - answer))
    properties: dict[str, str | int] = {
        "NPU_USE_NPUW": "YES",
        "NPUW_LLM": "YES",
        "NPUW_LLM_BATCH_DIM": _BATCH_AXIS,
        "NPUW_LLM_SEQ_LEN_DIM": _TEXT_AXIS,
        "NPUW_LLM_MAX_PROMPT_LEN": prompt,
        "NPUW_LLM_MIN_RESPONSE_LEN": answer,
    }
    return Profile(
        "NPU", None, whole=False, properties=properties, context_length=prompt + answer, prompt_length=prompt
    )
