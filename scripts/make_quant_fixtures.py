"""Makes the fixtures of tests/quant: tests/data/quant/*.bin.

Needs numpy, and these as arguments:
  REFERENCE  a folder with format_reference.py (the weight format in numpy) and original_reference.py (the original's)
  GOLDEN     a folder of checkpoints converted by the original with PYTHONHASHSEED=0: llama-3b-g64 and so on
  SOURCE     the checkpoint that they were converted from (a small Llama)

  CACHE      a safetensors file of what the original's KV cache holds and gives back: dD.bB.keys_packed and so on

    python scripts/make_quant_fixtures.py REFERENCE GOLDEN SOURCE CACHE tests/data/quant

A fixture is a sequence of arrays, each a line "name dtype dim dim ..." and then its little-endian bytes.
"""
import os
import sys

import numpy as np

DTYPES = {"float32": "f32", "float16": "f16", "uint32": "u32", "uint8": "u8", "int8": "i8"}


def write(path, arrays):
    with open(path, "wb") as f:
        for name, a in arrays.items():
            a = np.ascontiguousarray(a)
            f.write(" ".join([name, DTYPES[a.dtype.name], *map(str, a.shape)]).encode() + b"\n")
            f.write(a.tobytes())


def tcq16(fr):
    """Random rows of different scales (one of them zero), their codes, packed tiles and decoded values."""
    rng = np.random.default_rng(16)
    w = (rng.standard_normal((32, 48)) * rng.uniform(0.01, 3, (32, 1))).astype(np.float32)
    w[5] = 0
    w[20] = np.float32(0.25) * rng.standard_t(2, 48)  # outliers
    arrays = {"w": w}
    for bits in (2, 3, 4):
        codes, index, scale = fr.encode(w, bits)
        arrays |= {f"codes{bits}": codes, f"index{bits}": index, f"scale{bits}": scale,
                   f"blocks{bits}": fr.pack(codes, index, bits), f"decoded{bits}": fr.decode(codes, index, scale, bits),
                   f"table{bits}": fr.TABLE[bits], f"shift{bits}": fr.SHIFT[bits]}
    return arrays


def hadamard(orig):
    rng = np.random.default_rng(28)
    arrays = {}
    for width in (12, 40, 64, 576, 640, 896, 2880):
        x = rng.standard_normal((1, width)).astype(np.float32)
        arrays |= {f"x{width}": x[0], f"y{width}": orig.hadamard(x, orig.block(width))[0],
                   f"block{width}": np.array([orig.block(width)], np.uint32)}
    return arrays


def original(orig, golden, source):
    """The first rows of two matrices (widths of 12 * 2^k and 20 * 2^k) as the original converted them."""
    weights = {}
    for name in sorted(os.listdir(source)):
        if name.startswith("model") and name.endswith(".safetensors"):
            weights |= orig.st_load(os.path.join(source, name))
    paths, rows = ["model.layers.1.self_attn.q_proj", "model.layers.2.mlp.down_proj"], 12
    arrays = {f"{path}.source": weights[path + ".weight"][:rows].astype(np.float32) for path in paths}
    for name in ("2b-g64", "3b-g64", "3b-g32", "4b-g64"):
        converted = orig.st_load(os.path.join(golden, "llama-" + name, "model.safetensors"))
        for path in paths:
            bits, group = int(name[0]), int(name[4:])
            if weights[path + ".weight"].shape[1] % group == 0 and path + ".codebook" in converted:
                for part in ("weight", "scales"):
                    arrays[f"{name}.{path}.{part}"] = converted[f"{path}.{part}"][:rows]
                arrays[f"{name}.codebook"] = converted[f"{path}.codebook"]
                arrays[f"{path}.signs"] = converted[f"{path}.signs"].astype(np.float32)
    return arrays


def kv(fr):
    """Random vectors and the relative error that the reference codes them with."""
    x = np.random.default_rng(64).standard_normal((64, 64)).astype(np.float32)
    arrays = {"x": x}
    for bits in (2, 3, 4):
        y = fr.kv_decode(*fr.kv_encode(x, bits), bits)
        arrays |= {f"table{bits}": fr.KV_TABLE[bits].astype(np.float32),
                   f"error{bits}": np.array([((x - y) ** 2).sum() / (x ** 2).sum()], np.float32)}
    return arrays


def kv_original(orig, cache):
    """Vectors of 5 tokens of 2 heads as the original's cache holds them (rows: head, token) and gives them back."""
    arrays = {}
    for name, a in orig.st_load(cache).items():
        if name.startswith("d256"):
            continue
        if name.endswith("signs"):
            arrays[name] = a.astype(np.float32)
        else:
            arrays[name] = a.reshape(-1, a.shape[-1])
    return arrays


def affine_encode(w, bits, group):
    """MLX's rule, one group at a time, in float32."""
    f32 = np.float32
    n = f32((1 << bits) - 1)
    codes = np.zeros(w.shape, np.uint32)
    scales = np.zeros((w.shape[0], w.shape[1] // group), f32)
    biases = np.zeros_like(scales)
    for r in range(w.shape[0]):
        for g in range(scales.shape[1]):
            x = w[r, g * group:(g + 1) * group]
            low, high = x.min(), x.max()
            scale = max(f32((high - low) / n), f32(1e-7))
            edge = high
            if abs(low) > abs(high):
                edge = low
            else:
                scale = -scale
            steps, bias = np.rint(f32(edge / scale)), f32(0)
            if steps != 0:
                scale, bias = f32(edge / steps), edge
            codes[r, g * group:(g + 1) * group] = np.clip(np.rint((x - bias) / scale), 0, n)
            scales[r, g], biases[r, g] = scale, bias
    bit = (codes[:, :, None] >> np.arange(bits, dtype=np.uint32)) & 1
    words = np.packbits(bit.reshape(len(w), -1).astype(np.uint8), axis=1, bitorder="little").view("<u4")
    s, b = scales.astype(np.float16), biases.astype(np.float16)
    decoded = codes * np.repeat(s.astype(f32), group, 1) + np.repeat(b.astype(f32), group, 1)
    return words, s, b, decoded.astype(f32)


def affine():
    rng = np.random.default_rng(4)
    w = (rng.standard_normal((6, 128)) * 0.1).astype(np.float32)
    w[1, :64] = 0
    w[2, 32:64] = 0.5  # a constant group
    w[3] = np.abs(w[3])
    w[4] = -np.abs(w[4])
    arrays = {"w": w}
    for bits in (2, 3, 4, 8):
        for group in (32, 64):
            words, s, b, decoded = affine_encode(w, bits, group)
            key = f"{bits}.{group}"
            arrays |= {f"words{key}": words, f"scales{key}": s, f"biases{key}": b, f"decoded{key}": decoded}
    return arrays


def main():
    reference, golden, source, cache, out = sys.argv[1:6]
    sys.path.insert(0, reference)
    import format_reference as fr
    import original_reference as orig

    os.makedirs(out, exist_ok=True)
    write(os.path.join(out, "tcq16.bin"), tcq16(fr))
    write(os.path.join(out, "hadamard.bin"), hadamard(orig))
    write(os.path.join(out, "original.bin"), original(orig, golden, source))
    write(os.path.join(out, "affine.bin"), affine())
    write(os.path.join(out, "kv.bin"), kv(fr))
    write(os.path.join(out, "kv_original.bin"), kv_original(orig, cache))


if __name__ == "__main__":
    main()
