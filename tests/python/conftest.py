"""What the tests of the Python module share: the micro model, and the command to compare with."""

import os
import subprocess
from pathlib import Path

import pytest

import turboquant

DATA = Path(__file__).resolve().parent.parent / "data"
MICRO = DATA / "micro/llama"
PROMPT = "The quick brown fox jumps over the lazy dog"


@pytest.fixture(scope="session")
def model():
    return turboquant.load(MICRO, threads=2)


@pytest.fixture
def prompt():
    return PROMPT


@pytest.fixture(scope="session")
def command():
    """Runs the command, and returns its standard output; "turboquant" of the PATH, or what TURBOQUANT_COMMAND names."""

    def run(*arguments):
        program = os.environ.get("TURBOQUANT_COMMAND", "turboquant")
        done = subprocess.run([program, *map(str, arguments)], capture_output=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()  # not as text: a random model writes carriage returns

    return run
