"""Lists known vulnerabilities of the installed dependencies, found by pip-audit.

    make audit

The exit status is 1 for a known vulnerability. If the advisory service cannot be reached, the script says so and ends with
0: merging a change must not depend on somebody else's server, and the next run asks again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

TIME_LIMIT_S = 300
OURS = "ovround"


def main() -> int:
    """Run pip-audit, print its result, and return the exit status."""
    command = [sys.executable, "-m", "pip_audit", "--local", "--skip-editable", "--progress-spinner", "off"]
    try:
        done = subprocess.run(
            [*command, "--format", "json", "--timeout", "15"],
            capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False,
        )  # fmt: skip
        return assess(done.stdout, done.stderr)
    except subprocess.TimeoutExpired:
        return assess("", f"no answer in {TIME_LIMIT_S} s")


def assess(answer: str, stderr: str) -> int:
    """Print the vulnerabilities in pip-audit's JSON; 1 if there are any, 0 if there are none or there is no answer."""
    try:
        packages: list[dict[str, Any]] = json.loads(answer)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = stderr.strip().splitlines()[-1:] or ["no answer"]
        print(f"not audited: the advisory service could not be asked ({last[0]:.200})")
        return 0
    others = [package for package in packages if package["name"] != OURS]
    known = [(package, vulnerability) for package in others for vulnerability in package.get("vulns", [])]
    for package, vulnerability in known:
        fixed = ", ".join(vulnerability.get("fix_versions", [])) or "no version yet"
        print(f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
    print(f"{len(packages)} packages, {len(known)} known vulnerabilities")
    return int(bool(known))


if __name__ == "__main__":
    sys.exit(main())
