"""Makes tests/data/gguf: what the GGUF reader is checked against. Needs: numpy, gguf, transformers.

Usage: make_gguf_fixtures.py [OUT_DIR]

blocks.bin   for every block type a few random blocks, then the floats that the gguf package makes of them
blocks.json  where they lie: {"TYPE": {"blocks": [offset, bytes], "floats": [offset, count]}}
sentencepiece.json  a small SentencePiece vocabulary (tokens, scores, token_type) and the merges that transformers'
             converter derives from it
"""
import json
import sys
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize
from transformers.tokenization_utils_base import generate_merges

BLOCKS = 6
TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL",
         "MXFP4"]
# Where the half-precision scales of a block lie; the rest of a block may hold any bits.
HALVES = {"F16": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82],
          "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0]}


def random_blocks(name, rng):
    elements, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    n = BLOCKS if elements > 1 else 64
    blocks = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for at in HALVES.get(name, []):
        halves = rng.normal(0, 0.05, n).astype(np.float16)
        halves[0] = np.float16(3e-7)  # a subnormal
        halves[1] = np.float16(-1.5)
        blocks[:, at : at + 2] = halves.view(np.uint8).reshape(n, 2)
    if name == "F32":
        blocks = rng.normal(0, 1, n).astype(np.float32).view(np.uint8).reshape(n, size)
    if name == "BF16":
        blocks[:, 1] &= 0xBF  # no infinity or NaN
    if name == "MXFP4":
        blocks[:, 0] = [0, 1, 2, 120, 127, 130]  # exponents, two of them subnormal
    return blocks


def write_blocks(out):
    rng = np.random.default_rng(7)
    data, index = b"", {}
    for name in TYPES:
        blocks = random_blocks(name, rng)
        floats = dequantize(blocks, GGMLQuantizationType[name]).astype(np.float32).ravel()
        assert np.isfinite(floats).all(), name
        index[name] = {"blocks": [len(data), blocks.size], "floats": [len(data) + blocks.size, floats.size]}
        data += blocks.tobytes() + floats.tobytes()
    (out / "blocks.bin").write_bytes(data)
    (out / "blocks.json").write_text(json.dumps(index, indent=1) + "\n")


def write_sentencepiece(out):
    control = ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    letters = ["▁", "t", "h", "e", "a", "n", "o", "u", "l", "w", "r", "d", "é", "ß", "世", "界"]
    joined = ["th", "▁th", "▁the", "he", "▁t", "an", "▁an", "and", "▁and", "▁a", "ou", "ll", "lo", "wor", "ld", "or",
              "world", "▁world", "▁w", "hello", "▁hello", "▁he", "llo", "ell", "▁▁", "▁▁▁▁", "世界", "rd", "éß"]
    tokens = control + bytes_ + joined + letters
    # Two tokens share a score: their order must be the converter's, too.
    scores = [0.0] * (len(control) + 256) + [-float(i // 2) for i in range(len(joined))]
    scores += [-1000.0 - i for i in range(len(letters))]
    kinds = [2, 3, 3] + [6] * 256 + [1] * (len(joined) + len(letters))
    normal = {t: s for t, s, k in zip(tokens, scores, kinds) if k == 1}
    merges = generate_merges({t: i for i, t in enumerate(tokens)}, normal, control + bytes_)
    fixture = {"tokens": tokens, "scores": scores, "token_type": kinds, "merges": merges}
    (out / "sentencepiece.json").write_text(json.dumps(fixture, ensure_ascii=False) + "\n", encoding="utf-8")


out_dir = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "tests/data/gguf"
out_dir.mkdir(parents=True, exist_ok=True)
write_blocks(out_dir)
write_sentencepiece(out_dir)
