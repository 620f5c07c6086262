"""The iterator over a text that is being written."""

import gc
import subprocess
import sys
import threading
import time

import pytest
from conftest import MICRO, PROMPT

import turboquant


def writers():
    return [thread for thread in threading.enumerate() if thread.name == "turboquant stream"]


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 1, "seed": 5}])
def test_the_pieces_are_the_text(model, options):
    stream = turboquant.stream(model, PROMPT, max_tokens=50, **options)
    pieces = list(stream)
    result = model.generate(PROMPT, max_tokens=50, **options)
    assert "".join(pieces) == result.text and len(pieces) > 10
    assert stream.result.tokens == result.tokens and stream.result.finish_reason == "length"
    assert next(stream, None) is None
    assert not writers()


def test_closing_ends_the_writing(model):
    stream = turboquant.stream(model, PROMPT, max_tokens=4000, temperature=0)
    first = next(stream)
    stream.close()
    assert not writers()
    assert stream.result.finish_reason == "cancelled" and stream.result.text.startswith(first)
    assert len(stream.result.tokens) < 3000
    assert list(stream) == []


def test_a_with_block_and_a_dropped_stream_end_it_too(model):
    with turboquant.stream(model, PROMPT, max_tokens=4000, temperature=0) as stream:
        next(stream)
    assert not writers()
    for piece in turboquant.stream(model, PROMPT, max_tokens=4000, temperature=0):
        assert piece
        break
    gc.collect()
    assert not writers()


def test_closing_while_the_prompt_is_read(model):
    stream = turboquant.stream(model, [5] * 4000, max_tokens=50, temperature=0)
    stream.close()
    assert not writers()
    assert stream.result is None or stream.result.finish_reason == "cancelled"


def test_errors_come_where_the_text_is_read(model):
    stream = turboquant.stream(model, "")
    with pytest.raises(turboquant.UsageError, match="the prompt is empty"):
        next(stream)
    assert list(stream) == [] and not writers()
    with pytest.raises(TypeError):
        list(turboquant.stream(model, PROMPT, no_such_option=1))


def test_a_stream_in_a_stream_waits(model):
    whole = model.generate(PROMPT, max_tokens=20, temperature=0).text
    outer = turboquant.stream(model, PROMPT, max_tokens=20, temperature=0)
    text = next(outer)
    assert "".join(turboquant.stream(model, PROMPT, max_tokens=20, temperature=0)) == whole
    assert text + "".join(outer) == whole


def test_stream_generate_for_those_from_mlx_lm(model):
    responses = list(turboquant.stream_generate(model, PROMPT, max_tokens=10, temperature=0))
    result = model.generate(PROMPT, max_tokens=10, temperature=0)
    assert "".join(response.text for response in responses) == result.text
    assert responses[-1].finish_reason == "length" and responses[-1].result.tokens == result.tokens
    assert all(response.finish_reason is None for response in responses[:-1])


def test_python_exits_while_a_stream_is_open():
    program = (
        "import turboquant\n"
        f"model = turboquant.load({str(MICRO)!r}, threads=1, exact=True)\n"
        f"stream = turboquant.stream(model, {PROMPT!r}, max_tokens=4000, temperature=0)\n"
        "next(stream)\n"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert time.monotonic() - start < 30
