#!/usr/bin/env python3
"""Writes a gpt-oss checkpoint with random weights in the layout in which the model was released: experts as MXFP4
blocks and scales, everything else as BF16, in shards. Its shapes are those of gpt-oss-20b (13.8 GB) or gpt-oss-120b
(65 GB); --layers makes it smaller. For measurements of time and memory: what such a model writes means nothing.

Needs no packages beside Python's standard library.

    scripts/make_gpt_oss.py models/gpt-oss-20b-random
    scripts/make_gpt_oss.py models/small --layers 2
"""

import argparse
import json
import os
import random
import struct
import sys

SHAPES = {"20b": (24, 32), "120b": (36, 128)}  # layers, experts
HIDDEN, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 2880, 64, 8, 64, 201088
BLOCK = 32  # values of an MXFP4 block: 16 bytes and a scale
CHUNK = 1 << 24
SHARD_BYTES = 4_800_000_000
# bfloat16 values of either sign between 2^-7 and 2^-5: the upper byte keeps of a random byte only the sign.
SIGN_AND_EXPONENT = bytes(0x3C | (b & 0x80) for b in range(256))
# Scales of 2^-8 to 2^-6: with the sixteen values of MXFP4, weights of about 0.02.
SCALES = bytes(119 + b % 3 for b in range(256))


def config(layers, experts):
    kinds = ["sliding_attention" if i % 2 == 0 else "full_attention" for i in range(layers)]
    return {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "eos_token_id": 200002,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": HIDDEN,
        "layer_types": kinds,
        "max_position_embeddings": 131072,
        "model_type": "gpt_oss",
        "num_attention_heads": HEADS,
        "num_experts_per_tok": 4,
        "num_hidden_layers": layers,
        "num_key_value_heads": KV_HEADS,
        "num_local_experts": experts,
        "quantization_config": {
            "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"],
            "quant_method": "mxfp4",
        },
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": 150000,
        "sliding_window": 128,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
        "vocab_size": VOCABULARY,
    }


def tensors(layers, experts):
    """Names, types and shapes, in the order of the layers."""
    yield "model.embed_tokens.weight", "BF16", (VOCABULARY, HIDDEN)
    for i in range(layers):
        layer = f"model.layers.{i}."
        yield layer + "input_layernorm.weight", "norm", (HIDDEN,)
        for name, rows, cols in (
            ("q_proj", HEADS * HEAD_DIM, HIDDEN),
            ("k_proj", KV_HEADS * HEAD_DIM, HIDDEN),
            ("v_proj", KV_HEADS * HEAD_DIM, HIDDEN),
            ("o_proj", HIDDEN, HEADS * HEAD_DIM),
        ):
            yield f"{layer}self_attn.{name}.weight", "BF16", (rows, cols)
            yield f"{layer}self_attn.{name}.bias", "BF16", (rows,)
        yield layer + "self_attn.sinks", "BF16", (HEADS,)
        yield layer + "post_attention_layernorm.weight", "norm", (HIDDEN,)
        yield layer + "mlp.router.weight", "BF16", (experts, HIDDEN)
        yield layer + "mlp.router.bias", "BF16", (experts,)
        for name, rows in (("gate_up_proj", 2 * HIDDEN), ("down_proj", HIDDEN)):
            yield f"{layer}mlp.experts.{name}_blocks", "blocks", (experts, rows, HIDDEN // BLOCK, BLOCK // 2)
            yield f"{layer}mlp.experts.{name}_scales", "scales", (experts, rows, HIDDEN // BLOCK)
            yield f"{layer}mlp.experts.{name}_bias", "BF16", (experts, rows)
    yield "model.norm.weight", "norm", (HIDDEN,)
    yield "lm_head.weight", "BF16", (VOCABULARY, HIDDEN)


def item_bytes(kind):
    return 2 if kind in ("BF16", "norm") else 1


def size_of(kind, shape):
    size = item_bytes(kind)
    for n in shape:
        size *= n
    return size


def values(kind, size, source):
    """`size` bytes in pieces."""
    while size > 0:
        count = min(size, CHUNK)
        size -= count
        data = source.randbytes(count)
        if kind == "norm":
            data = b"\x80\x3f" * (count // 2)  # ones
        elif kind == "BF16":
            piece = bytearray(data)
            piece[1::2] = data[1::2].translate(SIGN_AND_EXPONENT)
            data = piece
        elif kind == "scales":
            data = data.translate(SCALES)
        yield data


def shards(plan):
    parts, used = [[]], 0
    for tensor in plan:
        size = size_of(tensor[1], tensor[2])
        if parts[-1] and used + size > SHARD_BYTES:
            parts.append([])
            used = 0
        parts[-1].append(tensor)
        used += size
    return parts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="folder to make; must not exist")
    parser.add_argument("--size", choices=SHAPES, default="20b", help="shapes of which model (default: 20b)")
    parser.add_argument("--layers", type=int, help="fewer layers than the model has")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    layers, experts = SHAPES[arguments.size]
    layers = arguments.layers or layers
    try:
        os.makedirs(arguments.folder)
    except OSError as error:
        sys.exit(f"error: {arguments.folder}: cannot make the folder: {error.strerror}")

    source = random.Random(arguments.seed)
    parts = shards(tensors(layers, experts))
    weight_map, total = {}, 0
    for number, part in enumerate(parts, start=1):
        name = f"model-{number:05}-of-{len(parts):05}.safetensors"
        header, offset = {}, 0
        for tensor, kind, shape in part:
            size = size_of(kind, shape)
            dtype = "BF16" if item_bytes(kind) == 2 else "U8"
            header[tensor] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
            offset += size
            weight_map[tensor] = name
        total += offset
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(os.path.join(arguments.folder, name), "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for tensor, kind, shape in part:
                for piece in values(kind, size_of(kind, shape), source):
                    file.write(piece)
        print(f"{name}: {offset / 1e9:.2f} GB", flush=True)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    for name, value in (("model.safetensors.index.json", index), ("config.json", config(layers, experts))):
        with open(os.path.join(arguments.folder, name), "w", encoding="utf-8") as file:
            json.dump(value, file, indent=2)
            file.write("\n")


if __name__ == "__main__":
    main()
