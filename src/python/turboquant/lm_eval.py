"""The model "turboquant" of lm-eval (EleutherAI's lm-evaluation-harness; pip install "turboquant[lm-eval]"):

    python -m turboquant.lm_eval run --model turboquant --model_args pretrained=model-4bit --tasks arc_easy

or in a program, where importing this module registers the model:

    lm_eval.simple_evaluate(model="turboquant", model_args={"pretrained": "model-4bit"}, tasks=["arc_easy"])

Requests are sorted by their tokens, and what a context shares with the one before it (the examples of a few-shot task)
is read once; the answers of a question go on from forks of one cache.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import has_bos_prefix, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from turboquant._chat import apply_chat_template
from turboquant._native import Error, KvCache, LanguageModel, UsageError, load

_ROWS = 256  # of logits at once: 150 MB with a vocabulary of 150,000


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


@register_model("turboquant")
class TurboQuantLM(TemplateLM):
    """`pretrained` is what turboquant.load() takes, or a loaded model; kv, threads, exact and revision are load()'s.
    max_length: tokens of context and continuation at most; by default the model's context. add_bos_token: whether
    texts begin with the begin token; by default as the tokenizer does it. Batch size and device have no meaning here."""

    def __init__(
        self,
        pretrained: str | LanguageModel,
        *,
        kv: str = "fp16",
        threads: int = 0,
        exact: bool = False,
        revision: str = "",
        max_length: int | None = None,
        max_gen_toks: int = 256,
        add_bos_token: bool | None = None,
        batch_size: Any = None,
        max_batch_size: Any = None,
        device: Any = None,
    ) -> None:
        super().__init__()
        self.name = "model" if isinstance(pretrained, LanguageModel) else str(pretrained)
        self.model = (
            pretrained
            if isinstance(pretrained, LanguageModel)
            else load(pretrained, kv=kv, threads=threads, exact=exact, revision=str(revision))
        )
        self.max_length = min(max_length or self.model.max_context, self.model.max_context)
        self.max_gen_toks = max_gen_toks
        self.add_bos_token = add_bos_token
        if self.max_length < 2:
            raise UsageError(f"max_length {self.max_length}: must be 2 or more")

    @property
    def eot_token_id(self) -> int:
        if not self.model.end_tokens:
            raise Error(f"{self.name}: config.json names no eos_token_id, which lm-eval needs")
        return self.model.end_tokens[0]

    @property
    def prefix_token_id(self) -> int:
        begin = self.model.begin_token
        return self.eot_token_id if begin is None else begin

    @property
    def tokenizer_name(self) -> str:
        return self.name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self.model.chat_template if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        prompt = apply_chat_template(self.model, chat_history, add_generation_prompt)
        if add_generation_prompt:
            return prompt
        # The last message is to be continued: what the template puts behind it does not belong there.
        last = chat_history[-1]["content"].strip()
        return prompt[: prompt.rindex(last) + len(last)]

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        if add_special_tokens is None:
            begins = has_bos_prefix(string, self.model.decode([self.prefix_token_id], skip_special=False) or None)
            add_special_tokens = False if begins else self.add_bos_token
        tokens = self.model.encode(string, add_special=add_special_tokens is not False)
        if add_special_tokens and self.model.begin_token is not None and tokens[:1] != [self.model.begin_token]:
            tokens.insert(0, self.model.begin_token)
        return tokens

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        # Of each: tokens that are only read, then those with logits that matter, and what these are to predict.
        parts = []
        for _, context, continuation in requests:
            read = (context + continuation)[-(self.max_length + 1) : -1]
            wanted = continuation[-len(read) :] if continuation else []
            parts.append((read[: len(read) - len(wanted)], read[len(read) - len(wanted) :], wanted))
        results: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        order = sorted(range(len(parts)), key=lambda index: parts[index][0])
        cache = self.model.make_cache()
        progress = tqdm(total=len(requests), desc="Running loglikelihood requests", disable=disable_tqdm)
        for shared, group in itertools.groupby(order, key=lambda index: parts[index][0]):
            self._read(cache, shared)
            for index in group:
                _, tokens, wanted = parts[index]
                results[index] = self._score(cache.fork(), tokens, wanted)
                if requests[index][0] is not None:
                    self.cache_hook.add_partial("loglikelihood", requests[index][0], results[index])
                progress.update()
        progress.close()
        return results

    def _read(self, cache: KvCache, tokens: list[int]) -> None:
        """Makes the cache remember these tokens, and reads only what is new of them."""
        cache.trim(_common(cache.tokens, tokens))
        new = tokens[len(cache) :]
        if new:
            self.model.forward(cache, new)

    def _score(self, cache: KvCache, tokens: list[int], wanted: list[int]) -> tuple[float, bool]:
        """Log-likelihood of `wanted` behind each of `tokens`, and whether each is the most likely one."""
        total, greedy = 0.0, True
        for begin in range(0, len(tokens), _ROWS):
            piece = np.array(tokens[begin : begin + _ROWS], dtype=np.int32)
            target = np.array(wanted[begin : begin + _ROWS])
            logits = self.model.forward(cache, piece, rows=len(piece))  # [rows, vocab]
            best = logits.argmax(axis=1)
            at = np.arange(len(piece))
            top = logits[at, best]
            chosen = logits[at, target] - top
            logits -= top[:, None]
            np.exp(logits, out=logits)
            total += float((chosen - np.log(logits.sum(axis=1, dtype=np.float64))).sum())
            greedy = greedy and bool((best == target).all())
        return total, greedy

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        results = []
        for request in tqdm(requests, desc="Running loglikelihood_rolling requests", disable=disable_tqdm):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            pairs = [(None, *make_disjoint_window(window)) for window in windows]
            total = sum(score for score, _ in self._loglikelihood_tokens(pairs, disable_tqdm=True))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
            results.append(total)
        return results

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        results = [""] * len(requests)
        prompts = [self.tok_encode(request.args[0]) or [self.prefix_token_id] for request in requests]
        cache = self.model.make_cache()
        for index in tqdm(
            sorted(range(len(requests)), key=lambda i: prompts[i]),
            desc="Running generate_until requests",
            disable=disable_tqdm,
        ):
            options = normalize_gen_kwargs(requests[index].args[1], self.max_gen_toks)
            length = min(int(options["max_gen_toks"]), self.max_length - 1)
            sampling = {name: options[name] for name in ("top_k", "top_p", "min_p") if name in options}
            if "seed" in options:
                sampling["seed"] = int(options["seed"])
            result = self.model.generate(
                prompts[index][-(self.max_length - length) :],
                max_tokens=length,
                temperature=options["temperature"] if options["do_sample"] else 0.0,
                repetition_penalty=float(options.get("repetition_penalty", 1.0)),
                stop=[text for text in options["until"] if text],
                cache=cache,
                **sampling,
            )
            results[index] = result.text
            self.cache_hook.add_partial("generate_until", requests[index].args, result.text)
        return results


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
