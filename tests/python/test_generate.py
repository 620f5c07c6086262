"""Loading and generating: the same as the command, to the last token."""

import pytest
from conftest import MICRO, PROMPT

import turboquant


def test_what_a_model_is(model):
    assert model.vocab_size == 512
    assert model.max_context == 4096
    assert model.begin_token == 0 and model.end_tokens == [0]
    assert not model.has_chat_template and model.chat_template == ""
    assert model.decode(model.encode(PROMPT)) == PROMPT


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({"temperature": 0}, ["--temp", "0"]),
        ({"temperature": 0.9, "seed": 3, "top_k": 40}, ["--temp", "0.9", "--seed", "3", "--top-k", "40"]),
        ({"temperature": 1.2, "seed": 7, "min_p": 0.01}, ["--temp", "1.2", "--seed", "7", "--min-p", "0.01"]),
    ],
)
def test_the_text_is_that_of_the_command(model, command, options, arguments):
    said = command("generate", "--model", MICRO, "--prompt", PROMPT, "--max-tokens", 40, *arguments)
    result = model.generate(PROMPT, max_tokens=40, **options)
    assert said == result.text + "\n"
    assert str(result) == result.text == model.decode(result.tokens)
    assert result.finish_reason == "length" and len(result.tokens) == 40
    assert turboquant.generate(model, PROMPT, max_tokens=40, **options).tokens == result.tokens


def test_a_prompt_of_tokens(model):
    by_text = model.generate(PROMPT, max_tokens=8, temperature=0)
    assert model.generate(model.encode(PROMPT), max_tokens=8, temperature=0).tokens == by_text.tokens
    assert model.generate(model.encode(PROMPT)[:3], max_tokens=8, temperature=0).prompt_tokens == 3


def test_seeds(model):
    texts = {model.generate(PROMPT, max_tokens=20, seed=seed, temperature=1).text for seed in (1, 1, 2)}
    assert len(texts) == 2
    assert len({model.generate(PROMPT, max_tokens=20, temperature=1.5).text for _ in range(3)}) > 1


def test_on_text_gets_everything_and_ends_the_text(model):
    pieces = []
    result = model.generate(PROMPT, max_tokens=30, temperature=0, on_text=pieces.append)
    assert "".join(pieces) == result.text and len(pieces) > 5
    ended = model.generate(PROMPT, max_tokens=30, temperature=0, on_text=lambda piece: False)
    assert ended.finish_reason == "cancelled"
    assert ended.text == pieces[0]


def test_stop_strings(model):
    whole = model.generate(PROMPT, max_tokens=30, temperature=0).text
    stop = whole[10:13]
    result = model.generate(PROMPT, max_tokens=30, temperature=0, stop=[stop])
    assert result.text == whole[: whole.index(stop)] and result.finish_reason == "stop"


def test_drafts_change_nothing(model):
    plain = model.generate(PROMPT, max_tokens=60, temperature=0)
    drafted = model.generate(PROMPT, max_tokens=60, temperature=0, draft="ngram")
    assert drafted.tokens == plain.tokens
    smaller = turboquant.load(MICRO, threads=1)
    by_model = model.generate(PROMPT, max_tokens=60, temperature=0, draft_model=smaller)
    assert by_model.tokens == plain.tokens and by_model.drafted_tokens > 0


def test_exceptions_of_callbacks_come_through(model):
    class Mine(Exception):
        pass

    def raises(piece):
        raise Mine(piece)

    with pytest.raises(Mine):
        model.generate(PROMPT, max_tokens=30, temperature=0, on_text=raises)
    assert model.generate(PROMPT, max_tokens=3, temperature=0).finish_reason == "length"


def test_a_callback_may_use_the_model(model):
    lengths = []
    model.generate(PROMPT, max_tokens=5, temperature=0, on_text=lambda piece: lengths.append(len(model.encode(piece))))
    assert len(lengths) > 0
