"""What bench/k_quants.py quantizes: F16 files of a Llama GGUF, dithered and padded; the importance of their columns.

Needs numpy and gguf.
"""

import gguf
import numpy as np
from gguf.quants import dequantize

SUPER_BLOCK = 256  # weights that share the scales of a K-quant; a row of another width falls back to another type


def wider(width):
    return -(-width // SUPER_BLOCK) * SUPER_BLOCK


class Shape:
    """Sizes of a Llama GGUF, and the same padded to whole super-blocks."""

    def __init__(self, reader):
        def number(key):
            return reader.fields["llama." + key].contents()

        self.width = number("embedding_length")
        self.heads, self.kv_heads = number("attention.head_count"), number("attention.head_count_kv")
        self.head_dim = self.width // self.heads
        self.eps = number("attention.layer_norm_rms_epsilon")
        self.padded_width = wider(self.width)
        self.padded_heads = self.padded_width // self.head_dim
        group = self.heads // self.kv_heads
        if self.padded_heads % group:
            raise SystemExit(f"{self.padded_heads} padded heads are no multiple of {group} heads a key")
        self.padded_kv_heads = self.padded_heads // group

    def padded(self, name, shape):
        """Shape of a padded tensor: the width, and the rows or columns of heads that read and write nothing."""
        kind = name.split(".")[-2]
        rows = {
            "attn_q": self.padded_heads * self.head_dim,
            "attn_k": self.padded_kv_heads * self.head_dim,
            "attn_v": self.padded_kv_heads * self.head_dim,
            "attn_output": self.padded_width,
            "ffn_down": self.padded_width,
        }
        columns = {"ffn_down": shape[-1], "attn_output": self.padded_heads * self.head_dim}
        if len(shape) == 1:
            return (self.padded_width,)
        return (rows.get(kind, shape[0]), columns.get(kind, self.padded_width))


def steps(tensor):
    """The distance of neighbouring values on the grid of each weight: the scale of its block."""
    blocks = tensor.data.reshape(-1, gguf.GGML_QUANT_SIZES[tensor.tensor_type][1])
    if tensor.tensor_type.name not in ("Q4_0", "Q4_1", "Q8_0"):  # their first two bytes are the scale
        raise SystemExit(f"{tensor.name} is {tensor.tensor_type.name}: no step known to dither by")
    scales = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
    return np.repeat(np.abs(scales), 32, axis=1).reshape(tensor.shape[::-1])


def weights(reader, dither, seed):
    """Names and float32 values that F16 holds exactly. Dithered: what rounding to the file's grid could have started
    from, each weight moved by up to half a step either way."""
    source = np.random.default_rng(seed)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1])
        if dither and values.ndim == 2:
            values = values + steps(tensor) * (source.random(values.shape, np.float32) - np.float32(0.5))
        yield tensor.name, values.astype(np.float16).astype(np.float32)


def write_reference(source, plain, padded, dither, seed):
    """Writes a Llama GGUF as F16 twice: as it is, and padded so that the function stays the same: columns and heads of
    zeros; norms, whose mean of squares now counts zeros, smaller by the root of what it shrinks by, epsilon by that."""
    reader = gguf.GGUFReader(source)
    shape = Shape(reader)
    share = shape.width / shape.padded_width
    replaced = {
        "llama.embedding_length": shape.padded_width,
        "llama.attention.head_count": shape.padded_heads,
        "llama.attention.head_count_kv": shape.padded_kv_heads,
        "llama.attention.layer_norm_rms_epsilon": shape.eps * share,
    }
    writers = []
    for path, changes in ((plain, {}), (padded, replaced)):
        writer = gguf.GGUFWriter(path, reader.fields["general.architecture"].contents())
        for name, field in reader.fields.items():
            if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
                continue
            inner = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(name, changes.get(name, field.contents()), field.types[0], inner)
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
        writers.append(writer)
    for name, values in weights(reader, dither, seed):
        large = np.zeros(shape.padded(name, values.shape), np.float32)
        if values.ndim == 1:
            large[: values.size] = values * np.float32(share**0.5)
        else:
            large[: values.shape[0], : values.shape[1]] = values
        kind = np.float32 if values.ndim == 1 else np.float16
        for writer, data in zip(writers, (values, large)):
            writer.add_tensor(name, data.astype(kind))
    for writer in writers:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


class Importance:
    """The mean square of each input of each linear layer, over windows of tokens, as llama.cpp's importance matrix has
    it: a forward pass of the padded F16 file."""

    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        self.tensors = {t.name: t.data.reshape(t.shape[::-1]).astype(np.float32) for t in reader.tensors}
        self.layers = reader.fields["llama.block_count"].contents()
        self.shape = Shape(reader)
        self.base = reader.fields["llama.rope.freq_base"].contents()
        self.sums, self.tokens = {}, 0

    def linear(self, x, name):
        self.sums[name] = self.sums.get(name, 0) + np.square(x, dtype=np.float64).sum(0)
        return x @ self.tensors[name].T

    def norm(self, x, name):
        return x / np.sqrt(np.square(x).mean(1, keepdims=True) + self.shape.eps) * self.tensors[name]

    def rope(self, x):  # [tokens, heads, head_dim]; neighbours are a pair, as llama.cpp orders rows of q and k
        half = self.shape.head_dim // 2
        angles = np.arange(len(x))[:, None] * self.base ** -(np.arange(half) / half)
        turned = x.reshape(*x.shape[:2], half, 2).view(np.complex64)[..., 0] * np.exp(1j * angles)[:, None]
        return turned.astype(np.complex64).view(np.float32).reshape(x.shape)

    def attention(self, x, block):
        heads, kv_heads, dim = self.shape.heads, self.shape.kv_heads, self.shape.head_dim
        q = self.rope(self.linear(x, block + "attn_q.weight").reshape(-1, heads, dim))
        k = self.rope(self.linear(x, block + "attn_k.weight").reshape(-1, kv_heads, dim))
        v = self.linear(x, block + "attn_v.weight").reshape(-1, kv_heads, dim)
        k, v = (np.repeat(part, heads // kv_heads, axis=1).swapaxes(0, 1) for part in (k, v))
        scores = q.swapaxes(0, 1) @ k.swapaxes(1, 2) / np.float32(dim**0.5)
        scores += np.triu(np.full((len(x), len(x)), -np.inf, np.float32), 1)
        p = np.exp(scores - scores.max(2, keepdims=True))
        mixed = (p / p.sum(2, keepdims=True)) @ v
        return self.linear(mixed.swapaxes(0, 1).reshape(len(x), -1), block + "attn_output.weight")

    def add(self, ids):
        """One window. Returns the logits of its last token."""
        x = self.tensors["token_embd.weight"][ids]
        for layer in range(self.layers):
            block = f"blk.{layer}."
            x = x + self.attention(self.norm(x, block + "attn_norm.weight"), block)
            h = self.norm(x, block + "ffn_norm.weight")
            gate, up = self.linear(h, block + "ffn_gate.weight"), self.linear(h, block + "ffn_up.weight")
            x = x + self.linear(gate / (1 + np.exp(-gate)) * up, block + "ffn_down.weight")
        self.tokens += len(ids)
        head = self.tensors.get("output.weight", self.tensors["token_embd.weight"])
        return self.norm(x[-1:], "output_norm.weight")[0] @ head.T

    def means(self):
        """By tensor. Columns of the padding, always zero, get the mean of the others: weights must be positive."""
        result = {}
        for name, total in self.sums.items():
            mean = (total / self.tokens).astype(np.float32)
            mean[mean == 0] = mean[mean > 0].mean()
            result[name] = mean
        return result
