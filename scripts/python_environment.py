#!/usr/bin/env python3
"""Makes build/python-env, in which the Python module is built and tested: the packages that pyproject.toml pins, from PyPI.
Prints its Python; does nothing if it is there. Exit status 1, and one line that says why, if it cannot be made."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bench"))

from environment import make_environment


def pinned_packages():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    return [*project["build-system"]["requires"], *extras["test"], *extras["lm-eval"]]


def main():
    if sys.version_info < (3, 11):
        return "Python 3.11 or newer is needed to test the Python module"
    folder = ROOT / "build/python-env"
    packages = pinned_packages()
    done = folder / "packages"
    if not done.exists() or done.read_text() != "\n".join(packages):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries", "0", "--timeout", "20"]
        probe = subprocess.run([*command, "--dest", folder / "probe", packages[1]], capture_output=True, text=True)
        if probe.returncode != 0:
            return "PyPI is not reachable, and the Python module is neither built nor tested"
    try:
        print(make_environment(folder, packages))
    except (subprocess.CalledProcessError, OSError) as error:
        return f"{folder} could not be made: {error}"
    return None


if __name__ == "__main__":
    sys.exit(main())
