"""The programs of examples/python run and say what they should."""

import re
import subprocess
import sys
from pathlib import Path

from conftest import MICRO

EXAMPLES = Path(__file__).resolve().parents[2] / "examples/python"


def run(name, *arguments):
    done = subprocess.run([sys.executable, EXAMPLES / name, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_compress_and_generate(tmp_path):
    said = run("compress_and_generate.py", MICRO, tmp_path / "out")
    assert re.search(r"28 linear layers at 4\.\d+ bits a weight", said) and "60 tokens, " in said
    assert (tmp_path / "out/model.safetensors").exists()


def test_compress_kv_cache():
    assert re.search(r"[2-4]\.\d+ times smaller", run("compress_kv_cache.py", MICRO))


def test_score_answers():
    lines = run("score_answers.py", MICRO).splitlines()
    assert len(lines) == 3 and sorted(lines, key=lambda line: -float(line.split()[0])) == lines


def test_errors_are_one_line(tmp_path):
    done = subprocess.run([sys.executable, EXAMPLES / "score_answers.py", tmp_path], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
