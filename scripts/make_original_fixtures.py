#!/usr/bin/env python3
"""Copies models that the original wrote into tests/data/tq.

Needs: numpy, safetensors, ml_dtypes.  Run from the repository's root: python3 scripts/make_original_fixtures.py FOLDER

FOLDER holds one folder a conversion of a model in tests/data/micro, named {model}-{bits}b-g{group size}, with -qjl behind it
if --use-qjl was given, as turboquant-mlx 0.1.1 writes it with PYTHONHASHSEED=0 and --rotation-seed 42 (its signs depend on
Python's string hash), and in each a golden.safetensors with input_ids [B, T] and the logits [B, T, V] that the original
computes in float32.

One model of each architecture goes into the repository whole. Of all, hashes.json keeps a checksum of every tensor (64-bit
FNV-1a of type, shape and bytes, in hexadecimal): enough to show that our own conversion writes the same. Of the models with
QJL it keeps the logits of every eighth position, too.
"""

import json
import shutil
import sys
from pathlib import Path

import ml_dtypes  # noqa: F401  (gives numpy its bfloat16)
import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

WHOLE = ["llama-3b-g64", "qwen3_5_hub-3b-g64"]
EVERY = 8


def fnv1a(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def hashes(path):
    result = {}
    with safe_open(path, "np") as file:
        for name in sorted(file.keys()):
            part = file.get_slice(name)
            kind = f"{part.get_dtype()} {list(part.get_shape())}"
            result[name] = fnv1a(kind.encode() + file.get_tensor(name).tobytes())
    return result


def main():
    source, target = Path(sys.argv[1]), Path("tests/data/tq")
    table = {}
    for folder in sorted(path.parent for path in source.glob("*/model.safetensors")):
        table[folder.name] = hashes(folder / "model.safetensors")
        golden = load_file(folder / "golden.safetensors")
        made = target / folder.name
        if folder.name in WHOLE:
            made.mkdir(parents=True, exist_ok=True)
            for name in ("config.json", "model.safetensors"):
                shutil.copyfile(folder / name, made / name)
            save_file({name: golden[name] for name in ("input_ids", "logits")}, made / "golden.safetensors")
        elif folder.name.endswith("-qjl"):
            made.mkdir(parents=True, exist_ok=True)
            logits = np.ascontiguousarray(golden["logits"][:, EVERY - 1 :: EVERY])
            save_file({"input_ids": golden["input_ids"], "logits": logits}, made / "golden.safetensors")
    (target / "hashes.json").write_text(json.dumps(table, separators=(",\n", ":")) + "\n")


if __name__ == "__main__":
    main()
