"""`ovround check`: what a model is and what runs it, and the traps in a folder, of ours or of others, each with its fix."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovround.cli.shared_flags import Json, Quiet
from ovround.cli.working import Working

if TYPE_CHECKING:
    from ovround.check import Finding
    from ovround.conversion.fit.support import ModelSupport
    from ovround.errors import OvroundError

NAME = "check"


def command(
    model: Annotated[
        str,
        typer.Argument(
            help="Checkpoint folder, with weights or without, config.json, GGUF file, hub name, or folder that anybody converted."
        ),
    ],
    engine: Annotated[
        str | None,
        typer.Option(
            help="Engine of the findings: openvino, openvino-gpu, openvino-npu, onnxruntime, onnxruntime-genai or optimum-intel."
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what runs MODEL, and what in its files is slow, wrong or unreadable; exit status 1 if something fails or is wrong.

    Of a hub name its configuration alone is fetched.
    """
    from ovround.check import ENGINES, check_folder
    from ovround.checkpoint.locate import local_path
    from ovround.cli.printing import print_json
    from ovround.errors import ArchitectureError, CheckpointError, UsageError

    if engine is not None and engine not in ENGINES:
        raise UsageError(f"engine is `{engine}`; allowed: {', '.join(ENGINES)}")
    folder = local_path(model)
    converted = folder is not None and any(folder.glob("*.xml")) | any(folder.glob("*.onnx"))
    has_files = folder is not None and (converted or folder.is_file() or _has_weights(folder))
    support: ModelSupport | None = None
    refused: OvroundError | None = None
    with Working(f"reading {model}", quiet=quiet):
        if not converted:
            try:
                support = _support(model)
            except (ArchitectureError, CheckpointError) as error:
                if not has_files:
                    raise
                refused = error  # other programs may read it; what is damaged is found below
        findings = check_folder(folder, engine) if folder is not None and has_files else []
    if json:
        rows = [dataclasses.asdict(finding) for finding in findings]
        print_json(
            {
                "path": model, "support": support and dataclasses.asdict(support), "refused": refused and str(refused),
                "findings": rows,
            }
        )  # fmt: skip
    else:
        if refused is not None:
            typer.echo(f"{model}: `ovround convert` does not take it: {refused}")
        if support is not None:
            _print_support(model, support)
        if has_files:
            _print_findings(findings)
    if any(finding.severity in ("fails", "wrong") for finding in findings):
        raise typer.Exit(1)


def _support(model: str) -> ModelSupport:
    from ovround.conversion.fit.config import read_config
    from ovround.conversion.fit.support import model_support

    return model_support(read_config(model))


def _has_weights(folder: Path) -> bool:
    """Whether a folder is a checkpoint with weights; an adapter alone is none."""
    weights = [path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".gguf", ".pt", ".pth")]
    return bool(weights) and ((folder / "config.json").is_file() or any(path.suffix == ".gguf" for path in weights))


def _print_support(model: str, support: ModelSupport) -> None:
    family = "" if support.family == support.model_type else f", computed as {support.family}"
    text = ", its text model" if support.text_part else ""
    typer.echo(f"{model}: {support.model_type}{family}{text}; `ovround convert` takes it")
    weights = f"quantised ({support.quantised})" if support.quantised else "in float"
    typer.echo(
        f"{support.parameters / 1e6:.0f} M parameters in {support.layers} layers, {weights}; context {support.context_length}"
    )
    for engine in support.engines:
        typer.echo(f"{'yes' if engine.runs else 'no '}  {engine.engine}{f': {engine.why}' if engine.why else ''}")


def _print_findings(findings: list[Finding]) -> None:
    for finding in findings:
        more = f" and {finding.count - 1} more" if finding.count > 1 else ""
        typer.echo(
            f"{finding.severity}: {finding.engine}: {finding.what}\n  at: {finding.where}{more}\n  fix: {finding.fix}"
        )
    typer.echo(f"{len(findings)} findings" if findings else "nothing found")
