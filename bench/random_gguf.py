"""GGUF files of a real model's shape with random weights, for speed alone: the types of tensors are those that
llama.cpp's quantizer chooses, codes are random bytes, and scales are such that values stay finite and of a sane size.

Needs numpy and gguf.
"""

import math

import gguf
import numpy as np

Kind = gguf.GGMLQuantizationType


class Shape:
    def __init__(self, name, *, layers, hidden, heads, kv_heads, head_dim, ffn, vocabulary, rope_base, tied, experts=0):
        self.name, self.layers, self.hidden, self.heads, self.kv_heads = name, layers, hidden, heads, kv_heads
        self.head_dim, self.ffn, self.vocabulary, self.rope_base = head_dim, ffn, vocabulary, rope_base
        self.tied, self.experts = tied, experts


SHAPES = {
    shape.name: shape
    for shape in (
        Shape(
            "llama-3.2-1b", layers=16, hidden=2048, heads=32, kv_heads=8, head_dim=64, ffn=8192, vocabulary=128256,
            rope_base=500000.0, tied=True,
        ),
        Shape(
            "llama-3.1-8b", layers=32, hidden=4096, heads=32, kv_heads=8, head_dim=128, ffn=14336, vocabulary=128256,
            rope_base=500000.0, tied=False,
        ),
        Shape(
            "gpt-oss-20b", layers=24, hidden=2880, heads=64, kv_heads=8, head_dim=64, ffn=2880, vocabulary=201088,
            rope_base=150000.0, tied=False, experts=32,
        ),
    )
}  # fmt: skip

# File types, and the bits of ours that are their class.
TYPES = {"Q4_0": 4, "Q4_K_M": 4, "Q3_K_M": 3, "Q2_K": 2, "MXFP4": 4}


def file_types(shape):
    """Those that a shape can have: K-quants need rows of 256, which gpt-oss has not; MXFP4 is for its experts."""
    return ["MXFP4"] if shape.experts else [name for name in TYPES if name != "MXFP4"]


def more_bits(layer, layers):
    """Layers to which the _M types give more: the first and last eighth, and every third between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def linear_kind(name, layer, shape, file_type):
    """The type of a linear layer of a Llama, as llama.cpp's quantizer chooses it."""
    if file_type == "Q4_0":
        return Kind.Q4_0
    if file_type == "Q4_K_M":
        more = name in ("attn_v", "ffn_down") and more_bits(layer, shape.layers)
        return Kind.Q6_K if more else Kind.Q4_K
    if file_type == "Q3_K_M":
        if name == "attn_v":
            return Kind.Q5_K if layer < 2 else Kind.Q4_K
        if name == "ffn_down":
            return Kind.Q5_K if layer < shape.layers // 16 else Kind.Q4_K
        return Kind.Q4_K if name == "attn_output" else Kind.Q3_K
    if name == "attn_v":  # Q2_K
        return Kind.Q4_K if shape.heads >= 4 * shape.kv_heads else Kind.Q3_K
    return Kind.Q3_K if name in ("attn_output", "ffn_down") else Kind.Q2_K


def attention(shape):
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return (
        ("attn_q", (queries, shape.hidden)),
        ("attn_k", (keys, shape.hidden)),
        ("attn_v", (keys, shape.hidden)),
        ("attn_output", (shape.hidden, queries)),
    )


def llama_tensors(shape, file_type):
    """Names, kinds and shapes; the kind None is a norm, of ones."""
    head = Kind.Q6_K
    embedding = {"Q4_0": Kind.Q4_0, "Q4_K_M": Kind.Q4_K, "Q3_K_M": Kind.Q3_K, "Q2_K": Kind.Q2_K}[file_type]
    yield "token_embd.weight", head if shape.tied else embedding, (shape.vocabulary, shape.hidden)
    yield "output_norm.weight", None, (shape.hidden,)
    if not shape.tied:
        yield "output.weight", head, (shape.vocabulary, shape.hidden)
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", None, (shape.hidden,)
        yield block + "ffn_norm.weight", None, (shape.hidden,)
        feed_forward = (
            ("ffn_gate", (shape.ffn, shape.hidden)),
            ("ffn_up", (shape.ffn, shape.hidden)),
            ("ffn_down", (shape.hidden, shape.ffn)),
        )
        for name, sizes in (*attention(shape), *feed_forward):
            yield f"{block}{name}.weight", linear_kind(name, layer, shape, file_type), sizes


def gpt_oss_tensors(shape, _):
    """The types of the published file: experts MXFP4, attention, embedding and head Q8_0."""
    yield "token_embd.weight", Kind.Q8_0, (shape.vocabulary, shape.hidden)
    yield "output_norm.weight", None, (shape.hidden,)
    yield "output.weight", Kind.Q8_0, (shape.vocabulary, shape.hidden)
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", None, (shape.hidden,)
        yield block + "post_attention_norm.weight", None, (shape.hidden,)
        for name, sizes in attention(shape):
            yield f"{block}{name}.weight", Kind.Q8_0, sizes
            yield f"{block}{name}.bias", Kind.F32, sizes[:1]
        yield block + "attn_sinks.weight", Kind.F32, (shape.heads,)
        yield block + "ffn_gate_inp.weight", Kind.F32, (shape.experts, shape.hidden)
        yield block + "ffn_gate_inp.bias", Kind.F32, (shape.experts,)
        for name, rows, cols in (
            ("gate", shape.ffn, shape.hidden), ("up", shape.ffn, shape.hidden), ("down", shape.hidden, shape.ffn),
        ):  # fmt: skip
            yield f"{block}ffn_{name}_exps.weight", Kind.MXFP4, (shape.experts, rows, cols)
            yield f"{block}ffn_{name}_exps.bias", Kind.F32, (shape.experts, rows)


# Of a block with an fp16 scale: where it lies, the root mean square of what it multiplies if all other bytes are
# random; of a type with an offset, where the offset's scale lies and how many times the other it is (mean of zero).
SCALES = {
    Kind.Q4_0: (0, 4.6, None, 0),
    Kind.Q8_0: (0, 74.0, None, 0),
    Kind.Q2_K: (80, 13.0, 82, 1.5),
    Kind.Q3_K: (108, 42.0, None, 0),
    Kind.Q4_K: (0, 231.0, 2, 7.5),
    Kind.Q5_K: (0, 462.0, 2, 15.5),
    Kind.Q6_K: (208, 1370.0, None, 0),
}


def values(kind, shape, source):
    """What is stored of a tensor."""
    if kind is None:
        return np.ones(shape, np.float32)
    if kind == Kind.F32:
        return source.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.frombuffer(source.bytes(math.prod(shape) // elements * size), np.uint8).reshape(-1, size).copy()
    if kind == Kind.MXFP4:
        blocks[:, 0] = 119 + blocks[:, 0] % 3  # the exponent of a power of two
    else:
        at, rms, offset_at, offset = SCALES[kind]
        scale = 1 / (rms * math.sqrt(shape[-1]))  # rows of about unit gain
        blocks[:, at : at + 2] = np.array([scale], np.float16).view(np.uint8)
        if offset_at is not None:
            blocks[:, offset_at : offset_at + 2] = np.array([scale * offset], np.float16).view(np.uint8)
    return blocks.reshape(*shape[:-1], shape[-1] // elements * size)


def write(path, shape, file_type):
    if file_type not in file_types(shape):
        raise SystemExit(f"error: {shape.name} as {file_type}: use {' or '.join(file_types(shape))}")
    writer = gguf.GGUFWriter(path, "gpt-oss" if shape.experts else "llama")
    writer.add_block_count(shape.layers)
    writer.add_context_length(131072)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(1e-5)
    if shape.experts:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(32.0)
        writer.add_rope_scaling_orig_ctx_len(4096)
        writer.add_expert_feed_forward_length(shape.ffn)
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(4)
        writer.add_sliding_window(128)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-4o" if shape.experts else "llama-bpe")
    writer.add_token_list([f"t{i}" for i in range(shape.vocabulary)])
    writer.add_token_types([gguf.TokenType.NORMAL] * shape.vocabulary)
    writer.add_token_merges(["t 1"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    tensors = list((gpt_oss_tensors if shape.experts else llama_tensors)(shape, file_type))
    for name, kind, sizes in tensors:
        if kind in (None, Kind.F32):
            writer.add_tensor_info(name, sizes, np.dtype(np.float32), 4 * math.prod(sizes))
        else:
            elements, size = gguf.GGML_QUANT_SIZES[kind]
            stored = (*sizes[:-1], sizes[-1] // elements * size)
            writer.add_tensor_info(name, stored, np.dtype(np.uint8), math.prod(stored), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    source = np.random.default_rng(1)
    for _, kind, sizes in tensors:
        writer.write_tensor_data(values(kind, sizes, source))
    writer.close()
