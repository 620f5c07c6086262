"""The adapter for lm-eval: its numbers are those of the command, and of a model that reads every request by itself."""

import json
import math
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import DATA, MICRO, PROMPT

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TQDM_DISABLE": "1"}
lm_eval = pytest.importorskip("lm_eval", reason="lm_eval is not installed")

from lm_eval.tasks import TaskManager

import turboquant
from turboquant.lm_eval import TurboQuantLM

ROOT = Path(__file__).resolve().parents[2]
TASKS = Path(__file__).parent / "lm_eval_tasks"
LINES = [json.loads(line) for line in (TASKS / "questions.json").read_text().splitlines()]
EMPTY = "<|endoftext|>"


def request(*arguments):
    return SimpleNamespace(args=arguments)


@pytest.fixture(scope="module")
def lm(model):
    return TurboQuantLM(model)


def log_softmax(logits):
    top = logits.max()
    return logits.astype(np.float64) - top - math.log(np.exp(logits.astype(np.float64) - top).sum())


def score_alone(model, context, continuation):
    """Token by token, with a cache of its own."""
    cache, total, greedy = model.make_cache(), 0.0, True
    for token, target in zip((context + continuation)[:-1], [*context[1:], *continuation]):
        logits = model.forward(cache, [token])
        if len(cache) >= len(context):
            total += log_softmax(logits)[target]
            greedy = greedy and int(logits.argmax()) == target
    return total, greedy


def test_loglikelihood(model, lm):
    pairs = [(line["question"], choice) for line in LINES for choice in line["choices"]]
    greedy = model.generate(PROMPT, max_tokens=4, temperature=0).tokens
    pairs += [("", "Water is wet."), (PROMPT, ".")]
    answers = lm.loglikelihood([request(*pair) for pair in pairs], disable_tqdm=True)
    for pair, (answer, is_greedy) in zip(pairs, answers):
        tokens = lm._encode_pair(*pair) if pair[0] else ([0], model.encode(pair[1]))
        expected = score_alone(model, *tokens)
        assert answer == pytest.approx(expected[0], rel=1e-5) and is_greedy == expected[1]
    ((_, is_greedy),) = lm._loglikelihood_tokens([(None, model.encode(PROMPT), greedy)], disable_tqdm=True)
    assert is_greedy


@pytest.mark.parametrize(
    ("name", "kv"),
    [("llama", "fp16"), ("llama", "3"), ("qwen3_5_hub", "fp16"), ("mistral", "fp16"), ("mistral", "3")],
)
def test_sharing_changes_no_number(name, kv):
    # Long contexts with common beginnings, also where a cache cannot go back to any length.
    model = turboquant.load(DATA / "micro" / name, threads=2, kv=kv)
    tokens = [5 + i * i % 200 for i in range(300)]
    requests = [(None, tokens[:200], [7, 8]), (None, tokens[:300], [9]), (None, tokens[:200], [9, 8, 7])]
    requests += [(None, [*tokens[:190], 3, 3], [1]), (None, [4], tokens[:280])]
    together = TurboQuantLM(model)._loglikelihood_tokens(requests, disable_tqdm=True)
    for one, answer in zip(requests, together):
        assert TurboQuantLM(model)._loglikelihood_tokens([one], disable_tqdm=True) == [answer]


def test_contexts_that_are_too_long(model):
    lm = TurboQuantLM(model, max_length=16)
    tokens = model.encode(PROMPT * 3)
    ((answer, _),) = lm._loglikelihood_tokens([(None, tokens[:60], tokens[60:64])], disable_tqdm=True)
    assert answer == pytest.approx(score_alone(model, tokens[47:60], tokens[60:64])[0], rel=1e-5)
    ((answer, _),) = lm._loglikelihood_tokens([(None, tokens[:1], tokens[1:60])], disable_tqdm=True)
    assert answer == pytest.approx(score_alone(model, tokens[43:44], tokens[44:60])[0], rel=1e-5)


def test_perplexity_is_that_of_evaluate(model, command, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{i} {PROMPT} {i * i}. " for i in range(400)))
    command("evaluate", "--hf-path", MICRO, "--bits", 3, "--formats", "tcq16", "--num-samples", 6, "--seq-len", 300,
            "--text", text, "--json", tmp_path / "rows.json")  # fmt: skip
    expected = json.loads((tmp_path / "rows.json").read_text())[0]["perplexity"]
    tokens = model.encode(text.read_text())
    windows = [tokens[i * 300 : (i + 1) * 300] for i in range(6)]
    scores = TurboQuantLM(model)._loglikelihood_tokens([(None, w[:1], w[1:]) for w in windows], disable_tqdm=True)
    assert math.exp(-sum(score for score, _ in scores) / (6 * 299)) == pytest.approx(expected, rel=1e-5)


def test_rolling_counts_every_token_once(model):
    lm = TurboQuantLM(model, max_length=10)
    text = LINES[0]["text"]
    tokens = model.encode(text)
    expected, at = score_alone(model, [0], tokens[:10])[0], 10
    while at < len(tokens):
        end = min(at + 10, len(tokens))
        expected += score_alone(model, tokens[end - 11 : at], tokens[at:end])[0]
        at = end
    assert lm.loglikelihood_rolling([request(text)], disable_tqdm=True) == [pytest.approx(expected, rel=1e-5)]


def test_generate_until(model, lm):
    whole = model.generate(PROMPT, max_tokens=20, temperature=0).text
    stop = whole[6:9]
    options = [{"until": ["\0"], "max_gen_toks": 20}, {"until": [stop], "max_gen_toks": 20}, {"max_gen_toks": 3}]
    texts = lm.generate_until([request(PROMPT, option) for option in options], disable_tqdm=True)
    assert texts[0] == whole and texts[1] == whole[: whole.index(stop)] and whole.startswith(texts[2])
    sampled = {"do_sample": True, "temperature": 1.0, "seed": 5, "max_gen_toks": 20}
    expected = model.generate(PROMPT, max_tokens=20, temperature=1, seed=5).text
    assert lm.generate_until([request(PROMPT, sampled)], disable_tqdm=True) == [expected]


def test_chat_template(tmp_path):
    for file in MICRO.iterdir():
        shutil.copy(file, tmp_path)
    settings = json.loads((MICRO / "tokenizer_config.json").read_text())
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    template = "{{ bos_token }}" + template + "{% if add_generation_prompt %}<assistant>{% endif %}"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    lm = TurboQuantLM(str(tmp_path), threads=1)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is \"ä\" a letter?"}]
    prompt = lm.apply_chat_template(messages)
    assert prompt == f'{EMPTY}<system>Be brief.\n<user>Is "ä" a letter?\n<assistant>'
    assert lm.tok_encode(prompt).count(0) == 1
    begun = [*messages, {"role": "assistant", "content": "It "}]
    assert lm.apply_chat_template(begun, add_generation_prompt=False).endswith("<assistant>It")
    assert lm.chat_template(True) == template and lm.chat_template(False) is None
    assert lm.model.has_chat_template and lm.tokenizer_name


def test_begin_tokens(model):
    plain = model.encode(PROMPT)
    assert TurboQuantLM(model).tok_encode(PROMPT) == plain
    assert TurboQuantLM(model, add_bos_token=True).tok_encode(PROMPT) == [0, *plain]
    assert TurboQuantLM(model, add_bos_token=True).tok_encode(EMPTY + PROMPT) == [0, *plain]


def test_tasks(model, lm, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    names = ["micro_choice", "micro_generate", "micro_perplexity"]
    manager = TaskManager(include_path=str(TASKS), include_defaults=False)
    results = lm_eval.simple_evaluate(
        model="turboquant",
        model_args={"pretrained": str(MICRO), "threads": 2},
        tasks=names,
        task_manager=manager,
        bootstrap_iters=0,
        log_samples=True,
    )
    choices = [[score_alone(model, *lm._encode_pair(line["question"], c))[0] for c in line["choices"]] for line in LINES]
    right = [scores.index(max(scores)) == line["answer"] for scores, line in zip(choices, LINES)]
    assert results["results"]["micro_choice"]["acc,none"] == sum(right) / len(right)
    total = sum(score_alone(model, [0], model.encode(line["text"]))[0] for line in LINES)
    size = sum(len(line["text"].encode()) for line in LINES)
    perplexity = results["results"]["micro_perplexity"]["byte_perplexity,none"]
    assert perplexity == pytest.approx(math.exp(-total / size), rel=1e-5)
    sample = results["samples"]["micro_generate"][0]
    text = model.generate(LINES[0]["question"], max_tokens=12, temperature=0, stop=["\n"]).text
    assert sample["resps"][0][0] == text
