#!/usr/bin/env python3
"""Which answer does a model believe in? Reads the question once; every answer goes on from a fork of its cache.

    score_answers.py MODEL [QUESTION ANSWER...]
"""

import sys

import numpy as np

import turboquant


def log_likelihood(model, cache, tokens, answer):
    """Of the answer's tokens; `tokens` is the question's last one."""
    logits = model.forward(cache, [*tokens, *answer[:-1]], rows=len(answer)).astype(np.float64)  # [answer, vocab_size]
    top = logits.max(axis=1, keepdims=True)
    log_sum = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
    return float((logits[np.arange(len(answer)), answer] - log_sum).sum())


def main():
    if len(sys.argv) < 2:
        sys.exit("usage: score_answers.py MODEL [QUESTION ANSWER...]")
    question, *answers = sys.argv[2:] or ["The capital of France is", " Paris", " London", " cheese"]
    model = turboquant.load(sys.argv[1])

    read = model.encode(question)
    cache = model.make_cache()
    if len(read) > 1:
        model.forward(cache, read[:-1])
    scores = {
        answer: log_likelihood(model, cache.fork(), read[-1:], model.encode(answer, add_special=False))
        for answer in answers
    }
    for answer, score in sorted(scores.items(), key=lambda item: -item[1]):
        print(f"{score:9.3f}  {question}{answer}")


if __name__ == "__main__":
    try:
        main()
    except turboquant.Error as error:
        sys.exit(f"error: {error}")
