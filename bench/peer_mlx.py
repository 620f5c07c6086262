"""MLX's speed on a Llama shape with random weights in its affine quantization, groups of 64, measured as
`turboquant bench` measures: bench/peers.py runs it once a round, as a process of its own, and reads the line of JSON
that it prints.

MLX runs here on the CPU, as everything beside it does; how many threads it takes it decides itself."""

import argparse
import json
import statistics
import time
from importlib.metadata import version

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models import llama
from mlx_lm.models.cache import make_prompt_cache


def make_model(config, bits, head_bits):
    model = llama.Model(llama.ModelArgs.from_dict(config))
    model.set_dtype(mx.float16)

    def bits_of(path, module):
        its_bits = head_bits if path.endswith(("embed_tokens", "lm_head")) else bits
        return hasattr(module, "to_quantized") and its_bits < 16 and {"group_size": 64, "bits": its_bits}

    nn.quantize(model, class_predicate=bits_of)
    for _, weight in tree_flatten(model.parameters()):  # one at a time: the floats that it is made of are let go
        mx.eval(weight)
    return model


def seconds(model, cache, tokens):
    start = time.perf_counter()
    logits = model(mx.array([tokens]), cache=cache)[:, -1]
    mx.eval(logits, [layer.state for layer in cache])
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="JSON: what config.json would say")
    parser.add_argument("--bits", type=int, required=True)
    parser.add_argument("--head-bits", type=int, required=True)
    parser.add_argument("--prompt-tokens", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--repeats", type=int, required=True)
    options = parser.parse_args()
    mx.set_default_device(mx.cpu)
    config = json.loads(options.config)
    model = make_model(config, options.bits, options.head_bits)
    ids = mx.random.randint(0, config["vocab_size"], (max(options.prompt_tokens, options.tokens),)).tolist()
    prefill = [
        seconds(model, make_prompt_cache(model), ids[: options.prompt_tokens]) for _ in range(options.repeats)
    ]
    cache = make_prompt_cache(model)
    seconds(model, cache, ids[:1])
    decode = [sum(seconds(model, cache, [token]) for token in ids[: options.tokens]) for _ in range(options.repeats)]
    row = {
        "decode_tok_s": options.tokens / statistics.median(decode),
        "prefill_tok_s": options.prompt_tokens / statistics.median(prefill),
        "bytes": sum(weight.nbytes for _, weight in tree_flatten(model.parameters())),
        "version": f"mlx {version('mlx')}, mlx-lm {version('mlx-lm')}",
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
