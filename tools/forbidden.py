"""Finds forbidden code in the package: code that runs data from a file or request, and switches that turn a check off.

    python tools/forbidden.py [FOLDER ...]

Ruff's S rules warn of some of these, but a comment can silence them. Nothing can silence this script.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("ovround", "exporters", "runtime")
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "jsonpickle"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "np.load", "numpy.load"}
ERRORS = {"PickleError", "UnpicklingError", "YAMLError"}  # names of a forbidden module that run nothing


def violations(path: Path) -> Iterator[str]:
    """Violations in one file, each as `file:line: description`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        violation = _violation(node)
        if violation:
            yield f"{path}:{getattr(node, 'lineno', 0)}: {violation}"


def _violation(node: ast.AST) -> str | None:
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        if isinstance(node, ast.ImportFrom) and {alias.name for alias in node.names} <= ERRORS:
            return None
        roots = {name.partition(".")[0] for name in names} & MODULES
        return f"imports {roots.pop()}" if roots else None
    if not isinstance(node, ast.Call):
        return None
    called = ast.unparse(node.func)
    if called in CALLS:
        return f"calls {called}"
    stated = {word.arg: word.value for word in node.keywords}
    if called == "torch.load" and not (
        isinstance(only := stated.get("weights_only"), ast.Constant) and only.value is True
    ):
        return "calls torch.load without weights_only=True"
    for name in ("trust_remote_code", "shell", "allow_pickle"):
        if name in stated and not (isinstance(stated[name], ast.Constant) and stated[name].value is False):  # type: ignore[attr-defined]
            return f"{called} with {name}"
    if called.endswith(".from_pretrained") and "trust_remote_code" not in stated:
        return f"{called} without trust_remote_code=False"
    return None


def main() -> int:
    """Print every violation; return 1 if there is any."""
    folders = [Path(name) for name in sys.argv[1:]] or [ROOT / room for room in ROOMS]
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    if not files:
        print("there are no Python files to check")
        return 1
    lines = [line for path in files for line in violations(path)]
    print("\n".join(lines) or f"{len(files)} files: no pickle, no code from data")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
