#!/usr/bin/env python3
"""Loads a folder that `turboquant convert --format mlx` wrote with the original's own reader, and compares logits.

Needs: turboquant-mlx-full 0.1.1, which brings mlx and mlx-lm (on a Mac: pip install turboquant-mlx-full==0.1.1; on Linux:
pip install "mlx[cpu]" turboquant-mlx-full==0.1.1).
Run: python3 scripts/check_with_mlx.py FOLDER [FOLDER ...] [--turboquant build/release/turboquant]

It says how many layers the reader took for its own, whether it has a place for every tensor of the folder and a tensor
for every place (the reader itself is silent about either), and how far its logits are from those of our command with
--exact, both in float32. (QJL residuals the reader computes in half precision: those models differ by some 1e-4.) The exit
status is 0 if every folder is read completely and differs by less than 2e-3.

What mlx-lm 0.32 itself does not know makes a difference, whoever wrote the folder: qwen2_moe's mlp_only_layers, and YaRN
with "truncate": false (gpt_oss).
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from turboquant_mlx.generate import load_turboquant


def relative_rms(a, b):
    return float(np.sqrt(np.sum((a - b) ** 2) / np.sum(b**2)))


def in_float32(model):
    values = tree_flatten(model.parameters())
    floats = [(name, value.astype(mx.float32)) for name, value in values if mx.issubdtype(value.dtype, mx.floating)]
    model.load_weights(floats, strict=False)


def our_logits(turboquant, folder, ids):
    with tempfile.TemporaryDirectory() as work:
        given, made = Path(work) / "ids.safetensors", Path(work) / "logits.safetensors"
        mx.save_safetensors(str(given), {"input_ids": mx.array(ids)})
        command = [turboquant, "--quiet", "logits", "--model", folder, "--input", given, "--output", made, "--exact"]
        subprocess.run([str(part) for part in command], check=True)
        return np.array(mx.load(str(made))["logits"])


def check(turboquant, folder):
    stored = {}
    for file in sorted(folder.glob("model*.safetensors")):
        stored.update((name, value.shape) for name, value in mx.load(str(file)).items() if "padding" not in name)
    model, _ = load_turboquant(folder)
    wanted = {name: value.shape for name, value in tree_flatten(model.parameters())}
    homeless = sorted(name for name, shape in stored.items() if wanted.get(name) != shape)
    missing = sorted(name for name, shape in wanted.items() if stored.get(name) != shape)
    for title, names in (("the reader has no place for", homeless), ("the reader finds no", missing)):
        if names:
            print(f"{folder}: {title} {len(names)} tensors: {', '.join(names[:5])}")
    vocabulary = next(shape[0] for name, shape in stored.items() if name.endswith("embed_tokens.weight"))
    # Short sequences one by one: the reader's experts take a Metal kernel for one token and for 64 routes or more.
    ids = np.random.default_rng(1).integers(0, vocabulary, (8, 7)).astype(np.int32)
    in_float32(model)
    theirs = np.concatenate([np.array(model(mx.array(row[None])).astype(mx.float32)) for row in ids])
    difference = relative_rms(our_logits(turboquant, folder, ids), theirs)
    print(f"{folder}: {len(stored)} tensors read, {len(missing)} missing; logits differ by {difference:.2e}", flush=True)
    return not homeless and not missing and difference < 2e-3


def main():
    parser = argparse.ArgumentParser(description="Loads folders of --format mlx with turboquant-mlx's own reader.")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--turboquant", default="build/release/turboquant", help="our command")
    args = parser.parse_args()
    results = [check(args.turboquant, folder) for folder in args.folders]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
