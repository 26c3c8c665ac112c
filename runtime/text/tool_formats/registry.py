"""All formats by name, and the one that a chat template shows."""

from __future__ import annotations

from ovround.errors import UsageError
from ovround.runtime.text.tool_formats import (
    deepseek,
    gemma,
    glm4,
    granite,
    harmony,
    hermes,
    llama3_json,
    minimax,
    mistral,
    phi4_mini,
    pythonic,
    qwen3_coder,
)
from ovround.runtime.text.tool_formats.tool_format import ToolFormat

_MODULES = (
    harmony, deepseek, minimax, mistral, glm4, qwen3_coder, phi4_mini, granite, pythonic, llama3_json, hermes, gemma,
)  # fmt: skip
GENERIC = ToolFormat(
    "generic", (),
    {marker: reader for module in _MODULES for marker, reader in module.FORMAT.calls.items()},
    {marker: reader for module in _MODULES for marker, reader in module.FORMAT.channels.items()},
    tuple(dict.fromkeys(token for module in _MODULES for token in module.FORMAT.hidden)),
)  # fmt: skip
"""Every marker of every format; for a template that shows none."""
FORMATS: dict[str, ToolFormat] = {module.FORMAT.name: module.FORMAT for module in _MODULES} | {GENERIC.name: GENERIC}
"""In the order in which a template is compared with them: the rarer sign first."""


def tool_format(name: str) -> ToolFormat:
    """The format by its name; raises UsageError for a name that there is not."""
    if name not in FORMATS:
        raise UsageError(f"the tool parser is `{name}`; allowed: {', '.join(sorted(FORMATS))}")
    return FORMATS[name]


def format_of_template(template: str) -> ToolFormat:
    """The format that the text of a chat template shows."""
    return next((form for form in FORMATS.values() if form.fits(template)), GENERIC)
