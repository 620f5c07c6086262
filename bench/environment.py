"""What the scripts of this folder share: their Python environments (pinned packages in a folder of build/, made on the
first run; scripts/python_environment.py makes one, too), and the names of machine and commit that a result is told with."""

import os
import platform
import subprocess
import sys
import venv
from pathlib import Path

LLAMA_CPP = ("llama-cpp-python==0.3.36", "gguf==0.19.0", "numpy==2.4.6")


def make_environment(folder, packages, **variables):
    """Installs the packages in a folder, unless they are there; returns its Python. What pip gets of environment
    variables beside this process's own is `variables`."""
    python = folder / "bin/python"
    done = folder / "packages"
    if not done.exists() or done.read_text() != "\n".join(packages):
        print(f"installing {', '.join(packages)} in {folder}", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True, clear=True)
        command = [python, "-m", "pip", "install", "--quiet", *packages]
        subprocess.run(command, check=True, env=os.environ | variables)
        done.write_text("\n".join(packages))
    return python


def enter_environment(folder, packages):
    """Runs this script again in its environment, made on the first run: that builds llama.cpp for this processor, which
    takes minutes. Returns in the environment."""
    folder = Path(folder)
    if Path(sys.prefix).resolve() == folder.resolve():
        return
    python = make_environment(folder, packages, CMAKE_ARGS="-DGGML_NATIVE=ON")
    os.execv(python, [str(python), *sys.argv])


def processor_name():
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    else:
        said = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True)
        names = said.stdout.splitlines()
    return names[0] if names else platform.machine()


def commit():
    """Of the sources, short; "-dirty" if they differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"
