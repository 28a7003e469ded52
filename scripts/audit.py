"""Look the installed packages up in a list of known vulnerabilities, by pip-audit; say so where there is none."""

from __future__ import annotations

import json
import subprocess
import sys


def main() -> int:
    """Run pip-audit; return 0 where nothing is known, 1 where something is, 2 where nobody could be asked."""
    command = [sys.executable, "-m", "pip_audit", "--local", "--format", "json", "--progress-spinner", "off"]
    result = subprocess.run([*command, *sys.argv[1:]], capture_output=True, text=True, check=False, timeout=900)
    try:
        packages = json.loads(result.stdout)["dependencies"]
    except ValueError:  # it broke off before it had a list
        packages = []
    checked = [package for package in packages if "skip_reason" not in package]
    if not checked:
        reason = result.stderr.strip().splitlines()[-1] if result.returncode else "it knows none of the packages"
        print(f"make audit: the list of vulnerabilities cannot be reached, nothing was checked ({reason})")
        return 2
    for package in checked:
        for found in package["vulns"]:
            fixes = ", ".join(found["fix_versions"]) or "no release"
            print(f"{package['name']} {package['version']}: {found['id']}, fixed in {fixes}")
    vulnerable = [package for package in checked if package["vulns"]]
    print(f"make audit: {len(vulnerable)} of {len(checked)} packages are vulnerable; {len(packages)} are installed")
    return 1 if vulnerable else 0


if __name__ == "__main__":
    sys.exit(main())
