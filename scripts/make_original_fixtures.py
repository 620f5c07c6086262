#!/usr/bin/env python3
"""Copies models that the original wrote into tests/data/tq.

Needs: numpy, safetensors, ml_dtypes.  Run from the repository's root: python3 scripts/make_original_fixtures.py FOLDER

FOLDER holds one folder a conversion of a model in tests/data/micro, named {model}-{bits}b-g{group size}, as turboquant-mlx 0.1.1
writes it with PYTHONHASHSEED=0 and --rotation-seed 42 (its signs depend on Python's string hash), and in each a
golden.safetensors with input_ids [B, T] and the logits [B, T, V] that the original computes in float32.

One model of each architecture goes into the repository whole. Of all of llama, hashes.json keeps a checksum of every tensor's bytes (64-bit FNV-1a, in
hexadecimal): enough to show that our own conversion writes the same bytes.
"""

import json
import shutil
import sys
from pathlib import Path

import ml_dtypes  # noqa: F401  (gives numpy its bfloat16)
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

WHOLE = ["llama-3b-g64", "qwen3_5_hub-3b-g64"]
HASHED = ["llama-2b-g64", "llama-3b-g64", "llama-3b-g32", "llama-4b-g64"]


def fnv1a(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def hashes(path):
    with safe_open(path, "np") as file:
        return {name: fnv1a(file.get_tensor(name).tobytes()) for name in sorted(file.keys())}


def main():
    source, target = Path(sys.argv[1]), Path("tests/data/tq")
    for model in WHOLE:
        (target / model).mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(source / model / name, target / model / name)
        golden = load_file(source / model / "golden.safetensors")
        save_file({name: golden[name] for name in ("input_ids", "logits")}, target / model / "golden.safetensors")
    table = {name: hashes(source / name / "model.safetensors") for name in HASHED}
    (target / "hashes.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
