"""The README.md of an output folder: its content, its measurements, the command that made it, how to load it."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

from ovround.artifact.manifest import ENGINE_FORMATS, FILE_FORMATS, Manifest, WeightRecord
from ovround.options.convert_options import ConvertOptions
from ovround.options.option import DeclaredOption, declared, plain
from ovround.options.tuning_options import TuningOptions
from ovround.tensors.scheme import DEFAULT_GROUP_SIZES

_STATED = ("bits", "group_size", "sym", "recipe", "seed")  # in the command line even at their defaults
_TUNING_FILE = "tuning.toml"
_TRANSFORMERS = (
    "model = AutoModelForCausalLM.from_pretrained({folder!r}, device_map='auto')  # with {library} installed",
    "from transformers import AutoModelForCausalLM",
)
_LIBRARIES = {  # that transformers loads a checkpoint format with
    "auto_round": "auto-round",
    "gptq": "gptqmodel",
    "awq": "gptqmodel",
    "compressed-tensors": "compressed-tensors",
    "aqlm": "aqlm[cpu,gpu]",
}
_USES = {
    True: '```python\nfrom ovround import LLM\n\nprint(LLM("FOLDER").generate("Hello", max_new_tokens=50).text)\n```\n',
    False: "```\novround convert FOLDER OUT --format openvino\n```\n",
}
_ENGINES = {
    "openvino": (
        "OpenVINO",
        "openvino_genai.LLMPipeline({folder!r}, 'CPU').generate('Hello', max_new_tokens=50)",
        "import openvino_genai",
    ),
    "onnx": (
        "ONNX Runtime",
        "model = onnxruntime_genai.Model({folder!r})  # then onnxruntime_genai.Generator over it",
        "import onnxruntime_genai",
    ),
    "olive": (
        "onnxruntime-genai's builder",
        "create_model({folder!r}, None, 'OUT', 'int4', 'cpu', 'CACHE')",
        "from onnxruntime_genai.models.builder import create_model",
    ),
    "gguf": (
        "llama.cpp",
        "Llama({folder!r} + '/model.gguf')('Hello', max_tokens=50)",
        "from llama_cpp import Llama",
    ),
    **{
        name: (f"engines that read {name}", _TRANSFORMERS[0].replace("{library}", library), _TRANSFORMERS[1])
        for name, library in _LIBRARIES.items()
    },
}


def model_card(manifest: Manifest, source: Path) -> str:
    """The card as Markdown; the licence is the source card's own, when that names one."""
    engine, snippet, import_line = _ENGINES[manifest.format]
    parts = [
        _front_matter(manifest, source),
        f"# {manifest.source_name}, {_scheme_words(manifest)}, for {engine}\n",
        f"Converted from `{manifest.source_name}` by [ovround](https://pypi.org/project/ovround/) "
        f"{manifest.ovround_version}{_method(manifest)}.\n",
        "## Measured\n\n" + _measured(manifest),
        "## Weights\n\n" + _weights(manifest),
        _made_by(manifest),
        "## Use\n\n" + _USES[manifest.format in ENGINE_FORMATS],
        f"The folder is also read by others:\n\n```python\n{import_line}\n\n{snippet.format(folder='FOLDER')}\n```\n",
    ]
    return "\n".join(parts)


def command_line(manifest: Manifest) -> str:
    """The `ovround convert` line that gives this folder again, options at their defaults left out."""
    options = manifest.options
    several = ["torchrun", "--nproc-per-node", manifest.processes, "-m"] if manifest.processes > 1 else []
    words = [*several, "ovround", "convert", manifest.source_name, "OUT", "--format", manifest.format]
    for entry in declared(ConvertOptions):
        if entry.name != "formats" and _is_stated(entry, manifest):
            words += _words(entry, _TUNING_FILE if entry.name == "tuning" else options[entry.name])
    return shlex.join(str(word) for word in words)


def _is_stated(entry: DeclaredOption, manifest: Manifest) -> bool:
    """Whether the command line names an option."""
    options, name = manifest.options, entry.name
    if name == "tuning":
        return bool(_tuning_lines(manifest))
    changed = options[name] != plain(ConvertOptions())[name]
    if manifest.source_method:
        rounded = [bits for bits in ("lm_head_bits", "embedding_bits") if options[bits] is not None]
        kept = (*rounded, "group_size", "sym") if rounded else ()
        return changed and name in (*kept, "native_weights")
    if name not in _STATED or options[name] is None:
        return bool(changed)
    if name == "bits":
        return options["budget"] is None and options["plan"] is None and not _coded(manifest)
    return name in ("recipe", "seed") or (_quantised(manifest) and options["plan"] is None)


def _words(entry: DeclaredOption, value: Any) -> list[Any]:
    """The flag and its value as they are typed; a switch by the half that says so."""
    if entry.switch:
        return [entry.flag.split("/")[0 if value else 1]]
    if entry.repeatable:
        return [word for item in value for word in (entry.flag, item)]
    return [entry.flag, value]


def _tuning_lines(manifest: Manifest) -> list[str]:
    """The lines of a tuning file with the switches that are not at their defaults."""
    values, defaults = manifest.options["tuning"], plain(TuningOptions())
    return [f"{key} = {json.dumps(value)}" for key, value in values.items() if value != defaults[key]]


def _made_by(manifest: Manifest) -> str:
    lines = _tuning_lines(manifest)
    file = "\nwith these lines in `{}`:\n\n```toml\n{}\n```\n".format(_TUNING_FILE, "\n".join(lines)) if lines else ""
    return f"## Made by\n\n```\n{command_line(manifest)}\n```\n{file}"


def _coded(manifest: Manifest) -> str:
    """The codebooks of the weights, such as 2x8, and their vectors; empty where there are none."""
    coded = Counter((weight.codebooks, weight.group_size) for weight in manifest.weights if weight.codebooks)
    if not coded:
        return ""
    (codebooks, size), _ = coded.most_common(1)[0]
    return f"codebooks {codebooks} of vectors of {size}"


def _quantised(manifest: Manifest) -> bool:
    return any(weight.group_size for weight in manifest.weights)


def _method(manifest: Manifest) -> str:
    kept = (
        f", the integers of its {manifest.source_method} checkpoint kept as they are" if manifest.source_method else ""
    )
    if manifest.source_types and any(entry.relative_error for entry in manifest.source_types):
        kept = f"; {_kept_types(manifest)}"
    if manifest.source_way == "retune":
        kept = ", from the numbers that the integers of a GGUF file stand for"
    if manifest.blocks:
        pv = " and PV-Tuning" if manifest.options.get("pv") else ""
        return f" with {'AQLM' if _coded(manifest) else 'SignRound'} tuning{pv}{kept}"
    if kept:
        return kept
    if "nncf" in manifest.versions:
        awq = (
            ", AWQ and scale estimation"
            if manifest.options["recipe"] != "rtn" and manifest.options["bits"] == 4
            else ""
        )
        return f" from an OpenVINO IR, by NNCF {manifest.versions['nncf']}{awq}"
    return ", rounded to nearest" if _quantised(manifest) else ""


def _kept_types(manifest: Manifest) -> str:
    """What became of a GGUF file's types: `Q4_K became 8 bits in groups of 32, asymmetric (relative error 0.0010)`."""
    return ", ".join(
        f"{entry.type} became {entry.grid} (relative error {entry.relative_error:.2g})"
        if entry.relative_error
        else f"{entry.type} is kept"
        for entry in manifest.source_types
    )


def _scheme_words(manifest: Manifest) -> str:
    options = manifest.options
    if _coded(manifest):
        return _coded(manifest)
    if manifest.source_method:
        schemes = Counter((weight.bits, weight.symmetric) for weight in manifest.weights if weight.group_size)
        if not schemes:
            return "not quantised"
        (bits, symmetric), _ = schemes.most_common(1)[0]
        return f"{bits} bits, {'symmetric' if symmetric else 'asymmetric'}"
    if options["bits"] == 16:
        return "not quantised"
    if options["budget"] is not None or options["plan"] is not None:
        return "mixed precision"
    return f"{options['bits']} bits, {_group_words(manifest)}, {'symmetric' if options['sym'] else 'asymmetric'}"


def _group_words(manifest: Manifest) -> str:
    stated, fitted = manifest.options["group_size"], fitted_groups(manifest)
    if stated is not None:
        return "one group a row" if stated == -1 else f"group {stated}"
    sizes = {weight.group_size for weight in _on_grids(manifest)}
    if len(sizes) == 1:
        return f"group {sizes.pop()}"
    return ", ".join(
        [f"group {DEFAULT_GROUP_SIZES[0]}", *(f"{size} over {inputs} inputs" for inputs, size in fitted.items())]
    )


def fitted_groups(manifest: Manifest) -> dict[int, int]:
    """The group size by inputs of the weights that the usual default does not divide; empty where one was stated."""
    if manifest.options["group_size"] is not None or manifest.source_method:
        return {}
    if len({weight.group_size for weight in _on_grids(manifest)}) == 1 and manifest.format in FILE_FORMATS:
        return {}  # a block of the format
    groups = {weight.shape[-1]: weight.group_size for weight in _on_grids(manifest)}
    return {inputs: group for inputs, group in sorted(groups.items()) if inputs % DEFAULT_GROUP_SIZES[0]}


def _on_grids(manifest: Manifest) -> list[WeightRecord]:
    return [weight for weight in manifest.weights if weight.group_size and not weight.codebooks]


def _front_matter(manifest: Manifest, source: Path) -> str:
    lines = [
        "---",
        f"base_model: {json.dumps(manifest.source_name)}",
        "pipeline_tag: text-generation",
        "library_name: ovround",
    ]
    licence = _licence(source)
    if licence:
        lines.append(f"license: {licence}")
    lines += ["tags:", "- ovround", f"- {manifest.format}", f"- {manifest.model_type}", "---\n"]
    return "\n".join(lines)


def _licence(source: Path) -> str | None:
    card = source / "README.md"
    if not card.is_file():
        return None
    match = re.search(
        r"\A---\n.*?^license:\s*([\w.-]+)\s*$.*?^---$", card.read_text(encoding="utf-8", errors="replace"), re.M | re.S
    )
    return match[1] if match else None


def _measured(manifest: Manifest) -> str:
    rows = []
    quality = manifest.quality
    if quality is not None:
        change = quality.perplexity_quantised / quality.perplexity_original - 1
        rows += [
            f"- perplexity on {quality.tokens} held-out calibration tokens: {quality.perplexity_original:.4f} original, "
            f"{quality.perplexity_quantised:.4f} quantised ({change:+.2%})",
            f"- divergence from the original (KL) on the same tokens: {quality.kl_nats:.5f} nats",
        ]
    if manifest.blocks:
        before = sum(block.loss_before for block in manifest.blocks)
        after = sum(block.loss_after for block in manifest.blocks)
        gone = f" ({1 - after / before:.0%} less)" if before else ""
        rows.append(
            f"- output error summed over {len(manifest.blocks)} blocks: {before:.4g} where tuning began, {after:.4g} tuned{gone}"
        )
    size = sum(weight.size_bytes for weight in manifest.weights)
    count = sum(_count(weight.shape) for weight in manifest.weights)
    rows.append(
        f"- weights: {size / 1e6:.2f} MB for {count / 1e6:.2f} million parameters, {8 * size / count:.2f} bits each"
    )
    if quality is None:
        rows.append(
            "- quality was not measured while converting; `ovround eval FOLDER --text FILE --reference MODEL` measures it"
        )
    return "\n".join(rows) + "\n"


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _weights(manifest: Manifest) -> str:
    kinds: Counter[tuple[int, int, str]] = Counter()
    sizes: Counter[tuple[int, int, str]] = Counter()
    for weight in manifest.weights:
        symmetry = "float" if weight.group_size == 0 else "symmetric" if weight.symmetric else "asymmetric"
        kind = (weight.bits, weight.group_size, weight.codebooks or symmetry)
        kinds[kind] += 1
        sizes[kind] += weight.size_bytes
    lines = ["| bits | group | scheme | tensors | MB |", "|---|---|---|---|---|"]
    for (bits, group_size, symmetry), number in sorted(kinds.items()):
        lines.append(
            f"| {bits} | {group_size or '-'} | {symmetry} | {number} | {sizes[bits, group_size, symmetry] / 1e6:.2f} |"
        )
    lines += [f"\n{note[0].upper()}{note[1:]}." for note in manifest.notes]
    return "\n".join(lines) + "\n"
