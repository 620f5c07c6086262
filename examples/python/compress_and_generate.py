#!/usr/bin/env python3
"""Compresses a model to 4 bits and lets it answer a question, piece by piece.

    compress_and_generate.py MODEL OUTPUT [PROMPT]

MODEL is a Hugging Face folder, a .gguf file, or org/name on the hub; OUTPUT a folder that does not exist yet.
"""

import sys

import turboquant


def main():
    if len(sys.argv) < 3:
        sys.exit("usage: compress_and_generate.py MODEL OUTPUT [PROMPT]")
    source, output = sys.argv[1:3]
    prompt = sys.argv[3] if len(sys.argv) > 3 else "Why is the sky blue?"

    converted = turboquant.convert(source, output, bits=4)
    print(f"{converted.linear_layers} linear layers at {converted.bits_per_weight_linear:.3f} bits a weight, "
          f"{converted.bytes / 1e6:.1f} MB, {converted.seconds:.1f} s")  # fmt: skip

    model = turboquant.load(output)
    stream = turboquant.stream(model, prompt, max_tokens=60, temperature=0)
    for piece in stream:
        print(piece, end="", flush=True)
    result = stream.result
    speed = len(result.tokens) / (result.prefill_seconds + result.decode_seconds)
    print(f"\n{len(result.tokens)} tokens, {speed:.1f} tokens a second")


if __name__ == "__main__":
    try:
        main()
    except turboquant.Error as error:
        sys.exit(f"error: {error}")
