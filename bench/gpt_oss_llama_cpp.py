#!/usr/bin/env python3
"""llama.cpp on a model of gpt-oss-20b's shape, to compare with `turboquant bench`: writes a GGUF file with random weights
(experts MXFP4, attention, embedding and head Q8_0, as the published file has them; 12 GB) and measures it.

Needs numpy, gguf and llama-cpp-python (0.3.36 was measured). Run it and `turboquant bench` in turn, nothing else beside.

    bench/gpt_oss_llama_cpp.py write models/gpt-oss-20b-random.gguf
    bench/gpt_oss_llama_cpp.py run models/gpt-oss-20b-random.gguf
"""

import statistics
import sys
import time

import numpy as np

LAYERS, EXPERTS, HIDDEN, VOCABULARY, HEADS, KV_HEADS, HEAD_DIM = 24, 32, 2880, 201088, 64, 8, 64
BLOCK = 32
# Bytes of a block, its scale included.
BLOCK_BYTES = {"Q8_0": 34, "MXFP4": 17}


def tensors():
    """Names, kinds and shapes."""
    yield "token_embd.weight", "Q8_0", (VOCABULARY, HIDDEN)
    yield "output_norm.weight", "ones", (HIDDEN,)
    yield "output.weight", "Q8_0", (VOCABULARY, HIDDEN)
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", "ones", (HIDDEN,)
        yield block + "post_attention_norm.weight", "ones", (HIDDEN,)
        for name, rows, cols in (
            ("attn_q", HEADS * HEAD_DIM, HIDDEN),
            ("attn_k", KV_HEADS * HEAD_DIM, HIDDEN),
            ("attn_v", KV_HEADS * HEAD_DIM, HIDDEN),
            ("attn_output", HIDDEN, HEADS * HEAD_DIM),
        ):
            yield f"{block}{name}.weight", "Q8_0", (rows, cols)
            yield f"{block}{name}.bias", "F32", (rows,)
        yield block + "attn_sinks.weight", "F32", (HEADS,)
        yield block + "ffn_gate_inp.weight", "F32", (EXPERTS, HIDDEN)
        yield block + "ffn_gate_inp.bias", "F32", (EXPERTS,)
        for name in ("gate", "up", "down"):
            yield f"{block}ffn_{name}_exps.weight", "MXFP4", (EXPERTS, HIDDEN, HIDDEN)
            yield f"{block}ffn_{name}_exps.bias", "F32", (EXPERTS, HIDDEN)


def stored_shape(kind, shape):
    if kind not in BLOCK_BYTES:
        return shape
    return (*shape[:-1], shape[-1] // BLOCK * BLOCK_BYTES[kind])


def values(kind, shape, source):
    if kind == "ones":
        return np.ones(shape, np.float32)
    if kind == "F32":
        return source.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
    size = BLOCK_BYTES[kind]
    blocks = source.integers(0, 256, (int(np.prod(shape)) // BLOCK, size), dtype=np.uint8)
    if kind == "Q8_0":
        blocks[:, :2] = np.array([2.7e-4], np.float16).view(np.uint8)
    else:
        blocks[:, 0] = 119 + blocks[:, 0] % 3
    return blocks.reshape(stored_shape(kind, shape))


def write(path):
    import gguf

    writer = gguf.GGUFWriter(path, "gpt-oss")
    writer.add_block_count(LAYERS)
    writer.add_context_length(131072)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_expert_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_rope_freq_base(150000.0)
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(32.0)
    writer.add_rope_scaling_orig_ctx_len(4096)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(4)
    writer.add_sliding_window(128)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-4o")
    writer.add_token_list([f"t{i}" for i in range(VOCABULARY)])
    writer.add_token_types([1] * VOCABULARY)
    writer.add_token_merges(["t 1"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, kind, shape in tensors():
        stored = stored_shape(kind, shape)
        packed = kind in BLOCK_BYTES
        dtype = np.dtype(np.uint8 if packed else np.float32)
        raw = gguf.GGMLQuantizationType[kind] if packed else None
        writer.add_tensor_info(name, stored, dtype, int(np.prod(stored)) * dtype.itemsize, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    source = np.random.default_rng(1)
    for _, kind, shape in tensors():
        writer.write_tensor_data(values(kind, shape, source))
    writer.close()


def run(path, threads=2, prompt=128, tokens=16, repeats=5):
    import llama_cpp

    with open(path, "rb") as file:  # into the page cache, as turboquant's file is
        while file.read(1 << 24):
            pass
    model = llama_cpp.Llama(path, n_ctx=1024, n_threads=threads, n_threads_batch=threads, n_batch=512, verbose=False)
    ids = np.random.default_rng(2).integers(0, 200000, prompt + tokens).tolist()
    start = time.perf_counter()
    model.eval(ids[:prompt])
    prefill = prompt / (time.perf_counter() - start)
    decode = []
    for _ in range(repeats):
        start = time.perf_counter()
        for token in ids[prompt:]:
            model.eval([token])
        decode.append(tokens / (time.perf_counter() - start))
    print(
        f"llama.cpp (llama-cpp-python {llama_cpp.__version__}), {threads} threads: decode {statistics.median(decode):.2f} "
        f"tok/s, prefill {prompt}: {prefill:.1f} tok/s"
    )


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("write", "run"):
        sys.exit(__doc__)
    {"write": write, "run": run}[sys.argv[1]](sys.argv[2])
