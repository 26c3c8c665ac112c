"""Chooses the checks for a folder, by its files and by the engine in question."""

from __future__ import annotations

from pathlib import Path

from ovround.check.finding import SEVERITIES, Finding
from ovround.errors import CheckpointError

ENGINES = ("openvino", "openvino-gpu", "openvino-npu", "onnxruntime", "onnxruntime-genai", "optimum-intel")


def check_folder(folder: Path, engine: str | None = None) -> list[Finding]:
    """All findings for a converted folder or a checkpoint, the gravest first; for all engines where `engine` is None.

    Raises CheckpointError for a folder that holds neither, and for files that cannot be read.
    """
    findings: list[Finding] = []
    known = False
    for path in sorted(folder.glob("*.xml")):
        if not path.name.endswith(("tokenizer.xml", "detokenizer.xml")):
            from ovround.check.openvino import check_openvino

            known = True
            findings += check_openvino(path)
    for path in sorted(folder.glob("*.onnx")):
        from ovround.check.onnx import check_onnx

        known = True
        findings += check_onnx(path)
    if not known and (folder.suffix == ".gguf" or (folder / "config.json").is_file()):
        from ovround.check.checkpoint import check_checkpoint

        known = True
        findings += check_checkpoint(folder)
    if not known:
        raise CheckpointError(f"`{folder}` holds no model", hint="give a converted folder or a checkpoint")
    wanted = [finding for finding in findings if engine in (None, finding.engine)]
    return sorted(wanted, key=lambda finding: (SEVERITIES.index(finding.severity), finding.rule, finding.engine))
