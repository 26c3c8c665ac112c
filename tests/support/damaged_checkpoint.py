"""A checkpoint that a test damages, and a check that `convert` refuses it correctly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from checkpoint_writer import in_bytes, random_weights, tiny_config, write_checkpoint, write_safetensors
from command_server import CommandServer, Result

GROUP = ("--group-size", "32")


class Case:
    """A checkpoint for a test to damage, and an empty folder for the output."""

    def __init__(self, folder: Path, command: CommandServer) -> None:
        self.model = write_checkpoint(folder / "model")
        self.output_root = folder / "output"
        self.output_root.mkdir()
        self._command = command

    def convert(self, *options: object, model: object = None, by: CommandServer | None = None) -> Result:
        command = by or self._command
        return command("convert", model or self.model, self.output_root / "out", *GROUP, *options)

    def refused(
        self,
        message: str,
        hint: str | None,
        *options: object,
        model: object = None,
        status: int = 1,
        torch: bool = False,
    ) -> None:
        """Assert that the conversion fails with exactly these lines, writes nothing, and imports torch only if `torch` is set."""
        result = self.convert(*options, model=model)
        lines = result.stderr.splitlines()
        expected_lines = [f"error: {message}", *([f"hint: {hint}"] if hint else [])]
        assert lines[-len(expected_lines) :] == expected_lines
        assert lines[: -len(expected_lines)] in ([], ["checking the checkpoint"]), "there are other lines"
        assert (result.status, result.stdout) == (status, "")
        assert ("torch" in result.modules) == torch
        assert list(self.output_root.iterdir()) == []

    def config(self, **changes: Any) -> None:
        (self.model / "config.json").write_text(json.dumps(tiny_config(**changes)))

    def weights(self, dtype: str = "F32", **changes: Any) -> None:
        """Write the weights again with some of them changed; None removes a weight."""
        weights = {**random_weights(tiny_config()), **changes}
        tensors = {
            name: (dtype, values.shape, in_bytes(values, dtype))
            for name, values in weights.items()
            if values is not None
        }
        write_safetensors(self.model / "model.safetensors", tensors)
