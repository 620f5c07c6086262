#!/usr/bin/env python3
"""Reads a prompt with a full-precision KV cache, compresses the cache, and goes on with it: the three steps of
turboquant-mlx.

    compress_kv_cache.py MODEL [PROMPT]

MODEL is a Hugging Face folder, a folder that turboquant.convert() wrote, or a .gguf file.
"""

import sys

import numpy as np

import turboquant


def main():
    if len(sys.argv) < 2:
        sys.exit("usage: compress_kv_cache.py MODEL [PROMPT]")
    lines = (f"Line {i}: the brown fox jumps over the lazy dog.\n" for i in range(1, 61))
    prompt = sys.argv[2] if len(sys.argv) > 2 else "".join(lines)
    model = turboquant.load(sys.argv[1])

    # 1. The prompt, in fp16.
    cache = model.make_cache()
    logits = model.forward(cache, np.array(model.encode(prompt), dtype=np.int32))  # [vocab_size]
    before = cache.bytes

    # 2. Keys and values to 3 bits.
    turboquant.convert_cache_to_turboquant(cache, tq_bits=3)
    after = cache.bytes

    # 3. Go on.
    answer = []
    for _ in range(20):
        answer.append(int(logits.argmax()))
        logits = model.forward(cache, answer[-1:])
    print(model.decode(answer))
    print(f"{len(cache)} tokens remembered; the prompt's in {before / 1e6:.2f} MB, compressed {after / 1e6:.2f} MB: "
          f"{before / after:.2f} times smaller")  # fmt: skip


if __name__ == "__main__":
    try:
        main()
    except turboquant.Error as error:
        sys.exit(f"error: {error}")
