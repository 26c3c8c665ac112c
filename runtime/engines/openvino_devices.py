"""The abilities of OpenVINO's devices with a stateful decoder: all decisions of the engine that depend on the device.

CPU was measured. GPU and NPU were not run; their entries come from the sources of OpenVINO and openvino_genai. An NPU gets
openvino_genai's properties, since its plugin runs decoders only in static shapes, through its wrapper NPUW.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ovround.errors import UsageError

_NPU_PROMPT, _NPU_ANSWER = 1024, 128  # tokens, openvino_genai's defaults
_BATCH_AXIS, _TEXT_AXIS = 0, 2  # of the cache's variables [B, H_kv, S, D]
# Float32, no int8 activations, float32 cache. EXECUTION_MODE_HINT=ACCURACY should mean the same, but in 2026.4.1 on a CPU
# with AMX the error of 4-bit models was 2e-4; these three give 5e-7.
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0", "KV_CACHE_PRECISION": "f32"}
_EXACT_GPU = {**EXACT, "KV_CACHE_PRECISION": "f16"}  # a GPU's cache is float16 or 8 bits


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of device. `exact` None: it cannot compute in float32.

    `whole`: any number of rows, positions and tokens. Otherwise one row: a prompt of at most `prompt_length` tokens in an
    empty cache, then one token per step, and logits of the last position only.
    """

    kind: str
    exact: Mapping[str, str] | None = field(default_factory=lambda: dict(EXACT))
    threads: bool = False
    whole: bool = True
    properties: Mapping[str, str | int] = field(default_factory=dict)
    context_length: int | None = None
    prompt_length: int | None = None

    def options(self, *, exact: bool, threads: int | None) -> dict[str, str | int]:
        """The properties for compiling the model; raises UsageError for an option that the device does not have."""
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
    """The profile of a device in OpenVINO's spelling (`GPU.1`, `AUTO:GPU,CPU`), for this context length."""
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
