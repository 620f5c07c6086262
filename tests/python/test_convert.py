"""Converting and evaluating: what the command does."""

import json

import pytest
from conftest import MICRO, PROMPT

import turboquant


def same_files(a, b):
    names = sorted(path.name for path in a.iterdir())
    assert names == sorted(path.name for path in b.iterdir())
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in names)


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({"bits": 4}, ["--bits", "4"]),
        ({"bits": 3.25}, ["--bits", "3.25"]),
        ({"format": "mlx", "bits": 3}, ["--format", "mlx", "--bits", "3"]),
        ({"bits_for": ["*.down_proj=8"], "head_bits": 4}, ["--bits-for", "*.down_proj=8", "--head-bits", "4"]),
    ],
)
def test_the_files_are_those_of_the_command(command, tmp_path, options, arguments):
    lines = []
    result = turboquant.convert(MICRO, tmp_path / "a", on_message=lines.append, **options)
    command("convert", "--hf-path", MICRO, "--mlx-path", tmp_path / "b", *arguments)
    assert same_files(tmp_path / "a", tmp_path / "b")
    assert result.linear_layers == 28 and result.bytes > 0 and result.parameters > 0
    assert any("linear layers" in line for line in lines)
    assert len(turboquant.load(tmp_path / "a").generate(PROMPT, max_tokens=5, temperature=0).tokens) == 5


def test_calibration(tmp_path):
    options = turboquant.CalibrationOptions("self", tokens=1024)
    turboquant.convert(MICRO, tmp_path / "a", bits=3, calibration=options)
    turboquant.convert(MICRO, tmp_path / "b", bits=3)
    assert not same_files(tmp_path / "a", tmp_path / "b")


def test_rows_are_those_of_the_command(command, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{i} {PROMPT} {i * i}. " for i in range(300)))
    rows = turboquant.evaluate(MICRO, [text], bits=[3], formats=["tcq16"], num_samples=4, seq_len=128)
    command("evaluate", "--hf-path", MICRO, "--bits", 3, "--formats", "tcq16", "--num-samples", 4, "--seq-len", 128,
            "--text", text, "--json", tmp_path / "rows.json")  # fmt: skip
    expected = json.loads((tmp_path / "rows.json").read_text())
    assert [row.config for row in rows] == ["FP16", "TCQ16 3-bit"] == [row["config"] for row in expected]
    for row, wanted in zip(rows, expected):
        assert row.perplexity == pytest.approx(wanted["perplexity"], rel=1e-6)
        assert row.tokens_scored == 4 * 127
    assert rows[0].kl == 0 and rows[1].kl > 0 and "perplexity" in repr(rows[1])


def test_weights_as_the_file_has_them_give_the_same_text(tmp_path, command):
    turboquant.convert(MICRO, tmp_path / "model", bits=3)
    options = {"max_tokens": 20, "temperature": 0}
    text = turboquant.load(tmp_path / "model").generate(PROMPT, **options).text
    assert turboquant.load(tmp_path / "model", repack=False).generate(PROMPT, **options).text == text
    arguments = ["--model", tmp_path / "model", "--prompt", PROMPT, "--max-tokens", 20, "--temp", 0]
    for repack in [], ["--no-repack"], ["--preload"], ["--preload", "--no-repack"]:
        assert command("generate", *arguments, *repack) == text + "\n", repack
