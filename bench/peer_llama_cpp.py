"""llama.cpp's speed on a GGUF file, measured as `turboquant bench` measures: bench/peers.py runs it once a round, as a
process of its own, and reads the line of JSON that it prints."""

import argparse
import json
import os
import statistics
import time

import llama_cpp
import numpy as np


def seconds(model, tokens):
    start = time.perf_counter()
    model.eval(tokens)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--prompt-tokens", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--repeats", type=int, required=True)
    options = parser.parse_args()
    with open(options.model, "rb", buffering=0) as file:  # into the page cache: ours is in memory, too
        buffer = bytearray(1 << 24)
        while file.readinto(buffer):
            pass
    context = max(options.prompt_tokens, options.repeats * options.tokens) + 1
    model = llama_cpp.Llama(
        options.model, n_ctx=-(-context // 256) * 256, n_threads=options.threads, n_threads_batch=options.threads,
        n_batch=512, n_gpu_layers=0, swa_full=False, verbose=False,
    )  # fmt: skip
    ids = np.random.default_rng(2).integers(0, model.n_vocab(), context).tolist()
    model.eval(ids[:1])  # maps the file
    prefill = []
    for _ in range(options.repeats):
        model.reset()
        prefill.append(seconds(model, ids[: options.prompt_tokens]))
    model.reset()
    model.eval(ids[:1])
    # Another token each time, so that another choice of experts is read.
    decode = [sum(seconds(model, [token]) for token in ids[: options.tokens]) for _ in range(options.repeats)]
    row = {
        "decode_tok_s": options.tokens / statistics.median(decode),
        "prefill_tok_s": options.prompt_tokens / statistics.median(prefill),
        "bytes": os.path.getsize(options.model),
        "version": f"llama-cpp-python {llama_cpp.__version__}",
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
