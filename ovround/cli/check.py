"""`ovround check`: the traps in a folder, of ours or of others, each with its fix."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from ovround.cli.shared_flags import Json

NAME = "check"


def command(
    path: Annotated[
        str, typer.Argument(help="Converted folder, checkpoint folder or GGUF file, written by anybody, or hub name.")
    ],
    engine: Annotated[
        str | None,
        typer.Option(
            help="Engine of the findings: openvino, openvino-gpu, openvino-npu, onnxruntime, onnxruntime-genai or optimum-intel."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Find what makes PATH slow, wrong or unreadable on an engine; exit status 1 if something fails or is wrong."""
    from ovround.check import ENGINES, check_folder
    from ovround.cli.printing import print_json
    from ovround.errors import UsageError

    if engine is not None and engine not in ENGINES:
        raise UsageError(f"engine is `{engine}`; allowed: {', '.join(ENGINES)}")
    findings = check_folder(located(path), engine)
    if json:
        print_json({"path": path, "findings": [dataclasses.asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            more = f" and {finding.count - 1} more" if finding.count > 1 else ""
            typer.echo(
                f"{finding.severity}: {finding.engine}: {finding.what}\n  at: {finding.where}{more}\n  fix: {finding.fix}"
            )
        typer.echo(f"{len(findings)} findings" if findings else "nothing found")
    if any(finding.severity in ("fails", "wrong") for finding in findings):
        raise typer.Exit(1)
