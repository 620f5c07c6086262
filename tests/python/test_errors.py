"""What is refused, and how."""

import pytest
from conftest import PROMPT

import turboquant


def test_classes():
    assert issubclass(turboquant.Error, RuntimeError)
    assert issubclass(turboquant.UsageError, turboquant.Error) and issubclass(turboquant.UsageError, ValueError)
    assert issubclass(turboquant.Interrupted, turboquant.Error)
    assert not issubclass(turboquant.Error, ValueError)


def test_no_model(tmp_path):
    with pytest.raises(turboquant.Error, match="no_such_folder"):
        turboquant.load(tmp_path / "no_such_folder")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(turboquant.Error, match="config.json") as raised:
        turboquant.load(tmp_path)
    assert "\n" not in str(raised.value) and type(raised.value) is turboquant.Error


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_tokens": 0}, "--max-tokens 0: must be 1 or more"),
        ({"temperature": -1}, "--temp"),
        ({"top_p": 2}, "--top-p"),
        ({"draft": "oracle"}, "--draft oracle: use ngram"),
        ({"draft_max": 65}, "--draft-max 65"),
    ],
)
def test_wrong_options(model, options, said):
    with pytest.raises(turboquant.UsageError, match=said):
        model.generate(PROMPT, **options)


def test_wrong_prompts(model):
    with pytest.raises(turboquant.UsageError, match="the prompt is empty"):
        model.generate("")
    with pytest.raises(turboquant.UsageError, match="no tokens"):
        model.generate([])
    with pytest.raises(turboquant.Error, match="4096"):
        model.generate([5] * 5000)
    with pytest.raises(turboquant.Error, match="512"):
        model.generate([512])
    with pytest.raises(TypeError):
        model.generate(5)
    with pytest.raises(TypeError):
        model.generate([2**40])


def test_wrong_tokens(model):
    for tokens in ([-1], [512]):
        with pytest.raises(turboquant.Error):
            model.forward(model.make_cache(), tokens)
    with pytest.raises(turboquant.UsageError, match="no tokens"):
        model.forward(model.make_cache(), [])
    with pytest.raises(turboquant.Error):
        model.decode([-1])


def test_no_chat_template(model):
    with pytest.raises(turboquant.Error, match="no chat template"):
        turboquant.apply_chat_template(model, [{"role": "user", "content": "hi"}])


def test_convert_and_evaluate(tmp_path):
    with pytest.raises(turboquant.UsageError):
        turboquant.convert(tmp_path, tmp_path / "out", bits=9)
    with pytest.raises(turboquant.Error):
        turboquant.convert(tmp_path / "none", tmp_path / "out")
    with pytest.raises(turboquant.UsageError, match="--text"):
        turboquant.evaluate(tmp_path, [])
    assert not (tmp_path / "out").exists()
