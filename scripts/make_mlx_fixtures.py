#!/usr/bin/env python3
"""Makes tests/data/mlx: small checkpoints as mlx-lm writes quantized ones, and checksums of the weights they stand for.

Needs: numpy.  Run from the repository's root: python3 scripts/make_mlx_fixtures.py [--check-with-mlx]

The weights are random. Quantization, packing and decoding are written here from MLX's documentation of mx.quantize, in
float32 without fused operations; --check-with-mlx compares codes, scales and biases with those of the mlx package
(done with mlx 0.32, all equal). hashes.json holds, for every quantized tensor, the 64-bit FNV-1a checksum of its decoded
float32 values, by the name that the tensor has when experts are separate.
"""

import json
import struct
import sys
from pathlib import Path

import numpy as np

F = np.float32
CHECK = "--check-with-mlx" in sys.argv


def to_bf16(x):  # rounds to nearest even, back to float32
    bits = x.astype(F).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(F)


def pack(codes, bits):  # codes [rows, cols] -> little-endian stream of bits in uint32 words
    planes = codes[..., None] >> np.arange(bits) & 1
    return np.packbits(planes.reshape(len(codes), -1).astype(np.uint8), axis=1, bitorder="little").view("<u4")


def affine(w, bits, group):
    g = w.reshape(len(w), -1, group)
    low, high, top = g.min(-1), g.max(-1), F(2**bits - 1)
    scale = np.maximum((high - low) / top, F(1e-7))
    side = np.abs(low) > np.abs(high)
    scale = np.where(side, scale, -scale)
    edge = np.where(side, low, high)
    steps = np.rint(edge / scale)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale, bias = np.where(steps == 0, scale, edge / steps), np.where(steps == 0, F(0), edge)
    codes = np.clip(np.rint((g - bias[..., None]) / scale[..., None]), 0, top).astype(np.uint32)
    return codes.reshape(w.shape), scale.astype(F), bias.astype(F)


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], F)


def mxfp4(w):
    g = w.reshape(len(w), -1, 32)
    exponent = np.clip(np.rint(np.log2(np.maximum(np.abs(g).max(-1), 1e-30) / F(6))), -127, 127).astype(int)
    scaled = g / np.exp2(exponent)[..., None].astype(F)
    codes = np.abs(scaled[..., None] - E2M1).argmin(-1).astype(np.uint32)
    return codes.reshape(w.shape), (exponent + 127).astype(np.uint8)


def fnv1a(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


class Model:
    """Collects the tensors of one checkpoint. A layout is (mode, bits, group size, type of scales), None for dense."""

    def __init__(self, name, config, seed):
        self.name, self.config, self.random = name, config, np.random.default_rng(seed)
        self.tensors, self.hashes = {}, {}

    def dense(self, name, *shape, around=0.0, size=0.1):
        w = (around + size * self.random.standard_normal(shape)).astype(F)
        self.tensors[name] = (to_bf16(w), "BF16")

    def matrix(self, name, rows, cols, layout, experts=0, separate="{}"):
        """A matrix, or a stack of those of experts; `separate` names an expert's."""
        mode, bits, group, dtype = layout
        parts = []
        for expert in range(max(experts, 1)):
            w = to_bf16(self.random.standard_normal((rows, cols)).astype(F) / F(cols**0.5))
            if mode == "mxfp4":
                codes, scales = mxfp4(w)
                values = (E2M1[codes].reshape(rows, -1, 32) * np.exp2(scales.astype(F) - 127)[..., None]).astype(F)
                if CHECK:
                    check_decoding_with_mlx(pack(codes, 4), scales, values)
                part = {"weight": (pack(codes, 4), "U32"), "scales": (scales, "U8")}
            else:
                codes, scale, bias = affine(w, bits, group)
                if CHECK:
                    check_with_mlx(w, bits, group, pack(codes, bits), scale, bias)
                round_to = {"F16": lambda x: x.astype(np.float16).astype(F), "BF16": to_bf16, "F32": lambda x: x}[dtype]
                scale, bias = round_to(scale), round_to(bias)
                values = codes.astype(F).reshape(rows, -1, group) * scale[..., None] + bias[..., None]
                part = {"weight": (pack(codes, bits), "U32"), "scales": (scale, dtype), "biases": (bias, dtype)}
            assert values.dtype == F
            self.hashes[(separate.format(expert) if experts else name) + ".weight"] = fnv1a(values.tobytes())
            parts.append(part)
        for key in parts[0]:
            arrays = [p[key][0] for p in parts]
            self.tensors[f"{name}.{key}"] = (np.stack(arrays) if experts else arrays[0], parts[0][key][1])

    def save(self, hashes):
        folder = Path("tests/data/mlx") / self.name
        folder.mkdir(parents=True, exist_ok=True)
        self.config["quantization_config"] = self.config["quantization"]
        (folder / "config.json").write_text(json.dumps(self.config, indent=1) + "\n")
        write_safetensors(folder / "model.safetensors", self.tensors)
        hashes[self.name] = dict(sorted(self.hashes.items()))


def write_safetensors(path, tensors):  # numpy has no BF16: the file is written here
    encode = {
        "BF16": lambda x: (x.view(np.uint32) >> 16).astype("<u2"),
        "F16": lambda x: x.astype("<f2"),
        "F32": lambda x: x.astype("<f4"),
        "U32": lambda x: x.astype("<u4"),
        "U8": lambda x: x,
    }
    header, data = {"__metadata__": {"format": "mlx"}}, b""
    for name, (array, dtype) in sorted(tensors.items()):
        raw = encode[dtype](np.ascontiguousarray(array)).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def check_with_mlx(w, bits, group, words, scale, bias):
    import mlx.core as mx

    theirs = [np.array(x) for x in mx.quantize(mx.array(w), group, bits)]
    assert np.array_equal(theirs[0], words), (bits, group)
    assert np.array_equal(theirs[1], scale) and np.array_equal(theirs[2], bias), (bits, group)


def check_decoding_with_mlx(words, scales, values):
    import mlx.core as mx

    theirs = mx.dequantize(mx.array(words), mx.array(scales), None, 32, 4, "mxfp4", dtype=mx.float32)
    assert np.array_equal(np.array(theirs), values.reshape(len(words), -1))


def entry(layout):
    mode, bits, group, _ = layout
    return {"group_size": group, "bits": bits, **({"mode": mode} if mode != "affine" else {})}


def llama(name, hidden, base, others, dtype, seed):
    """One decoder layer. `others`: layouts of modules that differ, None for a dense one."""
    inner, heads, vocab = hidden, 2, 96
    config = {
        "model_type": "llama", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": 1,
        "num_attention_heads": heads, "num_key_value_heads": heads, "head_dim": hidden // heads, "vocab_size": vocab,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True, "max_position_embeddings": 512,
    }  # fmt: skip
    base, others = (*base, dtype), {k: v and (*v, dtype) for k, v in others.items()}
    config["quantization"] = {**entry(base), **{k: entry(v) if v else False for k, v in others.items()}}
    model = Model(name, config, seed)
    shapes = {"self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (hidden, hidden),
              "self_attn.v_proj": (hidden, hidden), "self_attn.o_proj": (hidden, hidden),
              "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner)}  # fmt: skip
    matrices = {"model.embed_tokens": (vocab, hidden), **{"model.layers.0." + k: v for k, v in shapes.items()}}
    for module, (rows, cols) in matrices.items():
        layout = others.get(module, base)
        if layout:
            model.matrix(module, rows, cols, layout)
        else:
            model.dense(module + ".weight", rows, cols)
    for norm in ("model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm", "model.norm"):
        model.dense(norm + ".weight", hidden, around=1.0)
    return model


def gpt_oss():
    """As mlx-community's gpt-oss-20b-MXFP4-Q4: experts in MXFP4, all else affine, each module named."""
    hidden, inner, experts, heads, dim, vocab = 64, 64, 3, 2, 32, 64
    config = {
        "model_type": "gpt_oss", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": 1,
        "num_attention_heads": heads, "num_key_value_heads": heads, "head_dim": dim, "vocab_size": vocab,
        "num_local_experts": experts, "num_experts_per_tok": 2, "sliding_window": 16, "rms_norm_eps": 1e-5,
        "layer_types": ["sliding_attention"], "tie_word_embeddings": False, "max_position_embeddings": 512,
        "rope_theta": 150000.0, "swiglu_limit": 7.0,
    }  # fmt: skip
    quantization = {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    config["quantization"] = quantization
    model = Model("gpt_oss-mxfp4-q4", config, 5)
    four, eight = ("affine", 4, 64, "BF16"), ("affine", 8, 64, "BF16")
    layer = "model.layers.0."
    for module, rows, cols, layout in [
        ("model.embed_tokens", vocab, hidden, four), ("lm_head", vocab, hidden, four),
        (layer + "self_attn.q_proj", heads * dim, hidden, four), (layer + "self_attn.k_proj", heads * dim, hidden, four),
        (layer + "self_attn.v_proj", heads * dim, hidden, four), (layer + "self_attn.o_proj", hidden, heads * dim, four),
        (layer + "mlp.router", experts, hidden, eight),
    ]:  # fmt: skip
        model.matrix(module, rows, cols, layout)
        quantization[module] = entry(layout)
        if layer in module:
            model.dense(module + ".bias", rows)
    for name, rows, cols in (("gate_proj", inner, hidden), ("up_proj", inner, hidden), ("down_proj", hidden, inner)):
        block = layer + "mlp.experts."
        model.matrix(block + name, rows, cols, ("mxfp4", 4, 32, ""), experts, block + "{}." + name)
        model.dense(block + name + ".bias", experts, rows)
    model.dense(layer + "self_attn.sinks", heads)
    for norm in (layer + "input_layernorm", layer + "post_attention_layernorm", "model.norm"):
        model.dense(norm + ".weight", hidden, around=1.0)
    return model


def mixtral():
    """A stack of affine experts, under the name of the language model in a larger one."""
    hidden, inner, experts, vocab = 64, 64, 3, 64
    config = {
        "model_type": "mixtral", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": vocab,
        "num_local_experts": experts, "num_experts_per_tok": 2, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": True, "max_position_embeddings": 512,
    }  # fmt: skip
    base, eight = ("affine", 3, 64, "F16"), ("affine", 8, 32, "F16")
    block = "language_model.model.layers.0.block_sparse_moe."
    config["quantization"] = {**entry(base), block + "gate": entry(eight), block + "switch_mlp.down_proj": entry(eight)}
    model = Model("mixtral-3b", config, 6)
    plain = "model.layers.0.mlp.experts.{}."
    model.matrix("language_model.model.embed_tokens", vocab, hidden, base)
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        model.matrix("language_model.model.layers.0.self_attn." + name, hidden, hidden, base)
    model.matrix(block + "gate", experts, hidden, eight)
    for name, layout in (("gate_proj", base), ("up_proj", base), ("down_proj", eight)):
        model.matrix(block + "switch_mlp." + name, hidden, inner, layout, experts, plain + name)
    for norm in ("layers.0.input_layernorm", "layers.0.post_attention_layernorm", "norm"):
        model.dense(f"language_model.model.{norm}.weight", hidden, around=1.0)
    names = {k: k.removeprefix("language_model.").replace("block_sparse_moe", "mlp") for k in model.hashes}
    model.hashes = {names[k]: v for k, v in model.hashes.items()}
    return model


def main():
    layer = "model.layers.0."
    hashes = {}
    # Every number of bits, every group size, every type of scales.
    llama("llama-4b", 64, ("affine", 4, 64), {layer + "self_attn.v_proj": ("affine", 6, 64),
          layer + "mlp.down_proj": ("affine", 5, 32), layer + "self_attn.o_proj": None}, "BF16", 1).save(hashes)  # fmt: skip
    llama("llama-3b", 128, ("affine", 3, 64), {"model.embed_tokens": ("affine", 8, 128),
          layer + "mlp.up_proj": ("affine", 2, 32)}, "F16", 2).save(hashes)  # fmt: skip
    llama("llama-8b", 64, ("affine", 8, 64), {}, "F32", 3).save(hashes)
    gpt_oss().save(hashes)
    mixtral().save(hashes)
    Path("tests/data/mlx/hashes.json").write_text(json.dumps(hashes, indent=1) + "\n")


if __name__ == "__main__":
    main()
