"""Known weaknesses of the installed dependencies, by pip-audit; an advisory service that cannot be reached is no failure.

    make audit

Exit status 1 for a known weakness. Without the service it says so and ends with 0: whether a change may go in must not
depend on somebody else's server, and the next run asks again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

TIME_LIMIT_S = 300
OURS = "ovround"


def main() -> int:
    """Ask, print what is known, and assess."""
    words = [sys.executable, "-m", "pip_audit", "--local", "--skip-editable", "--progress-spinner", "off"]
    try:
        asked = subprocess.run(
            [*words, "--format", "json", "--timeout", "15"],
            capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False,
        )  # fmt: skip
        return assess(asked.stdout, asked.stderr)
    except subprocess.TimeoutExpired:
        return assess("", f"no answer in {TIME_LIMIT_S} s")


def assess(answer: str, said: str) -> int:
    """1 when pip-audit's JSON lists a weakness, 0 when it lists none or there is no answer, which is then said."""
    try:
        packages: list[dict[str, Any]] = json.loads(answer)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = said.strip().splitlines()[-1:] or ["no answer"]
        print(f"not audited: the advisory service could not be asked ({last[0]:.200})")
        return 0
    found = [(one, weakness) for one in packages for weakness in one.get("vulns", []) if one["name"] != OURS]
    for one, weakness in found:
        fixed = ", ".join(weakness.get("fix_versions", [])) or "no version yet"
        print(f"{one['name']} {one['version']}: {weakness['id']}, fixed in {fixed}")
    print(f"{len(packages)} packages, {len(found)} known weaknesses")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
