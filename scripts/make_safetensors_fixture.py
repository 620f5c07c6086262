#!/usr/bin/env python3
"""Writes tests/data/io/python.safetensors with the Python safetensors package: a file of another writer for the tests.

Needs: numpy, safetensors, ml_dtypes.  Run from the repository's root: python3 scripts/make_safetensors_fixture.py
Every tensor counts up from 0 (booleans: odd numbers are true), so that the test can check the values without a copy.
"""

from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

TYPES = {
    "bool": np.bool_,
    "uint8": np.uint8,
    "int8": np.int8,
    "uint16": np.uint16,
    "int16": np.int16,
    "uint32": np.uint32,
    "int32": np.int32,
    "uint64": np.uint64,
    "int64": np.int64,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float32": np.float32,
    "float64": np.float64,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
}


def counting(shape, dtype):
    values = np.arange(int(np.prod(shape)))
    if dtype is np.bool_:
        values %= 2
    return values.astype(np.float32).astype(dtype).reshape(shape)


def main():
    tensors = {f"types.{key}": counting((3, 5), dtype) for key, dtype in TYPES.items()}
    tensors["shapes.scalar"] = np.array(42.0, np.float32)
    tensors["shapes.empty"] = np.zeros((0, 4), np.float32)
    tensors["shapes.six"] = counting((1, 2, 1, 3, 1, 2), np.int32)
    tensors['names."quotes" and ünïcode \u6f22'] = counting((2,), np.int16)
    target = Path("tests/data/io/python.safetensors")
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target, {"format": "pt", "note": "two\nlines"})


if __name__ == "__main__":
    main()
