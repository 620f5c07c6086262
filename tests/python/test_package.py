"""The package itself: versions, types, documentation."""

import inspect
import subprocess
import sys
from pathlib import Path

import turboquant

FOLDER = Path(turboquant.__file__).parent


def test_version(command):
    assert turboquant.__version__ in command("--version")


def test_types_are_there():
    assert (FOLDER / "py.typed").exists()
    stub = (FOLDER / "_native.pyi").read_text()
    for name in ("class LanguageModel", "class KvCache", "def generate(", "def convert(", "max_tokens: int = 200"):
        assert name in stub, name


def test_everything_public_is_documented():
    assert set(turboquant.__all__) <= set(dir(turboquant))
    for name in turboquant.__all__:
        item = getattr(turboquant, name)
        if name == "__version__":
            continue
        assert inspect.getdoc(item), name
        if inspect.isclass(item) and item.__module__ == "turboquant._native" and not issubclass(item, Exception):
            for member, value in vars(item).items():
                assert member.startswith("_") or not callable(value) or value.__doc__, f"{name}.{member}"


def test_importing_needs_no_numpy():
    program = "import sys, turboquant; assert 'numpy' not in sys.modules and 'lm_eval' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
