"""What the command's tests stand on: runs of the command, edits of model folders, a GGUF writer. Needs no more
than Python's standard library."""

import dataclasses
import json
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time

TIMEOUT_S = 120
# No run may need more, however much a damaged header asks for (the models here are of a few MB).
MEMORY_LIMIT_BYTES = 1 << 30
CRASH = re.compile(
    r"terminate called|what\(\):|Sanitizer|runtime error:|Assertion|panicked|stack backtrace|Traceback|core dumped"
)


# ---------------------------------------------------------------- runs
@dataclasses.dataclass
class Result:
    code: int
    stdout: str
    stderr: str
    seconds: float
    stopped_by_us: bool = False
    seconds_after_interrupt: float = 0.0


def run(argv, cwd, env=None, file_limit=None, interrupt_when=None):
    """Runs a command. `file_limit`: no file may grow beyond that many bytes, as on a full disk. `interrupt_when`:
    called again and again while the command runs; sends it Ctrl-C once it returns true."""
    environment = {**os.environ, "TMPDIR": str(cwd / "tmp"), **(env or {})}
    (cwd / "tmp").mkdir(exist_ok=True)

    def limit():
        if file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

    start = time.monotonic()
    # restore_signals=False: SIGXFSZ stays ignored, so that a write over the limit fails instead of killing the command.
    process = subprocess.Popen(
        [str(a) for a in argv],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=limit,
        restore_signals=False,
        start_new_session=True,
    )
    stopped, interrupted_at = False, start
    if interrupt_when is not None:
        while process.poll() is None and not interrupt_when():
            time.sleep(0.005)
        if process.poll() is None:
            interrupted_at = time.monotonic()
            process.send_signal(signal.SIGINT)
            stopped = True
    try:
        out, err = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        err += b"\n(killed by the test after %d s)" % TIMEOUT_S
    end = time.monotonic()
    return Result(
        process.returncode,
        out.decode("utf-8", "replace"),
        err.decode("utf-8", "replace"),
        end - start,
        stopped,
        end - interrupted_at,
    )


def complaints(result, codes, says=None):
    """What is wrong with the way a run failed; an empty list if nothing is."""
    wrong = []
    if result.code not in codes:
        ended = f"signal {signal.Signals(-result.code).name}" if result.code < 0 else f"exit code {result.code}"
        wrong.append(f"{ended}, expected {' or '.join(map(str, codes))}")
    lines = result.stderr.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if len(errors) != 1:
        wrong.append(f"{len(errors)} lines begin with 'error: ', expected 1")
    elif lines[-1] != errors[0]:
        wrong.append("the error is not the last line")
    elif len(errors[0]) > 400:
        wrong.append(f"the error is {len(errors[0])} characters long")
    if CRASH.search(result.stderr):
        wrong.append("the messages look like a crash")
    if says and not re.search(says, "\n".join(errors), re.IGNORECASE):
        wrong.append(f"the error does not say {says!r}")
    return wrong


def peak_memory_of_children():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit


def snapshot(folder):
    """Every path below a folder, files with size and time of change."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        found[str(path.relative_to(folder))] = (status.st_size, status.st_mtime_ns) if path.is_file() else None
    return found


# ---------------------------------------------------------------- edits of a model folder: functions of the folder
def remove(name):
    return lambda folder: (folder / name).unlink()


def write(name, content):
    data = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / name).write_bytes(data)


def write_json(name, value):
    return write(name, json.dumps(value))


def rename(old, new):
    return lambda folder: (folder / old).rename(folder / new)


def as_folder(name):
    """The file becomes a folder of that name."""

    def edit(folder):
        (folder / name).unlink()
        (folder / name).mkdir()

    return edit


def truncate(name, size):
    """To `size` bytes; a negative size is that many bytes less than now."""

    def edit(folder):
        path = folder / name
        os.truncate(path, size if size >= 0 else path.stat().st_size + size)

    return edit


def overwrite(name, offset, data):
    def edit(folder):
        with open(folder / name, "r+b") as file:
            file.seek(offset)
            file.write(data)

    return edit


def flip_bit(name, position):
    """`position` in bits from the start of the file."""

    def edit(folder):
        with open(folder / name, "r+b") as file:
            file.seek(position // 8)
            byte = file.read(1)[0]
            file.seek(position // 8)
            file.write(bytes([byte ^ 1 << position % 8]))

    return edit


def config(**fields):
    """Sets fields of config.json; None removes one."""

    def edit(folder):
        path = folder / "config.json"
        value = json.loads(path.read_text())
        for key, field in fields.items():
            if field is None:
                value.pop(key, None)
            else:
                value[key] = field
        path.write_text(json.dumps(value))

    return edit


def read_safetensors(path):
    data = path.read_bytes()
    length = struct.unpack_from("<Q", data)[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write_safetensors(path, header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def header(change, name="model.safetensors"):
    """`change` edits the header's dictionary in place, or returns what is written in its stead (dictionary, bytes)."""

    def edit(folder):
        old, data = read_safetensors(folder / name)
        new = change(old)
        write_safetensors(folder / name, old if new is None else new, data)

    return edit


def tensor(tensor_name, **fields):
    """Sets fields of one tensor in the header of model.safetensors."""
    return header(lambda h: h[tensor_name].update(fields))


def drop_tensor(tensor_name):
    """Takes a tensor out, header and bytes."""

    def edit(folder):
        path = folder / "model.safetensors"
        old, data = read_safetensors(path)
        begin, end = old.pop(tensor_name)["data_offsets"]
        for name, entry in old.items():
            if name != "__metadata__" and entry["data_offsets"][0] >= end:
                entry["data_offsets"] = [o - (end - begin) for o in entry["data_offsets"]]
        write_safetensors(path, old, data[:begin] + data[end:])

    return edit


def poke_bf16(tensor_name, index, bits):
    """Sets one BF16 element of a tensor in model.safetensors."""

    def edit(folder):
        path = folder / "model.safetensors"
        old, data = read_safetensors(path)
        changed = bytearray(data)
        struct.pack_into("<H", changed, old[tensor_name]["data_offsets"][0] + 2 * index, bits)
        write_safetensors(path, old, bytes(changed))

    return edit


def shard(folder):
    """Splits model.safetensors in two shards with an index."""
    old, data = read_safetensors(folder / "model.safetensors")
    names = sorted(name for name in old if name != "__metadata__")
    weight_map = {}
    for number, part in enumerate((names[:10], names[10:]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        new, chunks, offset = {}, [], 0
        for name in part:
            begin, end = old[name]["data_offsets"]
            new[name] = {**old[name], "data_offsets": [offset, offset + end - begin]}
            offset += end - begin
            chunks.append(data[begin:end])
            weight_map[name] = file
        write_safetensors(folder / file, new, b"".join(chunks))
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": len(data)}, "weight_map": weight_map})
    )


def index(change):
    """`change` edits the dictionary of model.safetensors.index.json."""

    def edit(folder):
        path = folder / "model.safetensors.index.json"
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))

    return edit


def input_ids(dtype, shape, data):
    """The input of `logits` as input.safetensors."""

    def edit(folder):
        write_safetensors(
            folder / "input.safetensors",
            {"input_ids": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}},
            data,
        )

    return edit


def long_job_model(micro, folder, layers):
    """A model that takes long: the micro model's values repeated in `layers` layers of width 512, no end token."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(micro / name, folder / name)
    settings = json.loads((micro / "config.json").read_text())
    settings.update(
        hidden_size=512,
        intermediate_size=2048,
        num_attention_heads=8,
        num_key_value_heads=8,
        head_dim=64,
        num_hidden_layers=layers,
        max_position_embeddings=1 << 20,
        eos_token_id=None,
    )
    (folder / "config.json").write_text(json.dumps(settings))
    old, data = read_safetensors(micro / "model.safetensors")
    begin, end = old["model.layers.0.self_attn.q_proj.weight"]["data_offsets"]
    pattern = data[begin:end]
    shapes = {"model.embed_tokens.weight": [512, 512], "model.norm.weight": [512]}
    for i in range(layers):
        layer = f"model.layers.{i}."
        shapes |= {layer + f"self_attn.{p}_proj.weight": [512, 512] for p in "qkvo"}
        shapes |= {layer + f"mlp.{p}_proj.weight": [2048, 512] for p in ("gate", "up")}
        shapes |= {layer + "mlp.down_proj.weight": [512, 2048]}
        shapes |= {layer + f"{p}_layernorm.weight": [512] for p in ("input", "post_attention")}
    new, chunks, offset = {}, [], 0
    for name, shape in shapes.items():
        size = 2 * (shape[0] * shape[1] if len(shape) == 2 else shape[0])
        new[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
        chunks.append((pattern * (size // len(pattern) + 1))[:size] if len(shape) == 2 else b"\x80\x3f" * shape[0])
    write_safetensors(folder / "model.safetensors", new, b"".join(chunks))


# ---------------------------------------------------------------- GGUF
@dataclasses.dataclass
class Raw:
    """A metadata value written as it stands: type number and bytes."""

    type: int
    data: bytes


def _gguf_string(text):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def _gguf_value(value):
    """Type number and bytes."""
    if isinstance(value, Raw):
        return value.type, value.data
    if isinstance(value, bool):
        return 7, struct.pack("<?", value)
    if isinstance(value, int):
        return 4, struct.pack("<I", value)
    if isinstance(value, float):
        return 6, struct.pack("<f", value)
    if isinstance(value, str):
        return 8, _gguf_string(value)
    if isinstance(value[0], str):
        return 9, struct.pack("<IQ", 8, len(value)) + b"".join(map(_gguf_string, value))
    return 9, struct.pack("<IQ", 5, len(value)) + struct.pack(f"<{len(value)}i", *value)


GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def _gguf_name(name):
    fixed = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if name in fixed:
        return fixed[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{GGUF_NAMES[rest.removesuffix('.weight')]}.weight"


def gguf(
    *, magic=b"GGUF", version=3, entry_count=None, tensor_count=None, metadata=None, tensors=None, cut=None, flip=None
):
    """Writes model.gguf from the folder's safetensors model.

    metadata: entries to set, None removes one. tensors: by name, fields (type, dims, offset, name) to set, None removes
    one. cut: bytes of the file to keep; as a float, that share of the header. flip: the bit of the header to flip, as a
    share of the header."""

    def edit(folder):
        settings = json.loads((folder / "config.json").read_text())
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        vocabulary = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
        special = {token["content"] for token in tokenizer["added_tokens"]}
        merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
        entries = {
            "general.architecture": "llama",
            "llama.block_count": settings["num_hidden_layers"],
            "llama.context_length": settings["max_position_embeddings"],
            "llama.embedding_length": settings["hidden_size"],
            "llama.feed_forward_length": settings["intermediate_size"],
            "llama.attention.head_count": settings["num_attention_heads"],
            "llama.attention.head_count_kv": settings["num_key_value_heads"],
            "llama.rope.freq_base": 500000.0,
            "llama.attention.key_length": settings["head_dim"],
            "llama.attention.value_length": settings["head_dim"],
            "llama.rope.dimension_count": settings["head_dim"],
            "llama.attention.layer_norm_rms_epsilon": 1e-5,
            "llama.vocab_size": len(vocabulary),
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "smollm",
            "tokenizer.ggml.tokens": vocabulary,
            "tokenizer.ggml.token_type": [3 if token in special else 1 for token in vocabulary],
            "tokenizer.ggml.merges": merges,
            "tokenizer.ggml.bos_token_id": 0,
            "tokenizer.ggml.eos_token_id": 0,
        }
        entries.update(metadata or {})
        entries = {key: value for key, value in entries.items() if value is not None}

        source, data = read_safetensors(folder / "model.safetensors")
        infos, chunks, offset = [], [], 0
        for name, entry in source.items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            chunk = data[begin:end]
            kind = 30  # BF16
            if len(entry["shape"]) == 1:  # norms are F32
                chunk, kind = b"".join(b"\0\0" + chunk[i : i + 2] for i in range(0, len(chunk), 2)), 0
            info = {"name": _gguf_name(name), "type": kind, "dims": entry["shape"][::-1], "offset": offset}
            change = (tensors or {}).get(info["name"], {})
            chunk += b"\0" * (-len(chunk) % 32)
            chunks.append(chunk)
            offset += len(chunk)
            if change is not None:
                infos.append({**info, **change})

        out = magic + struct.pack(
            "<IQQ",
            version,
            len(infos) if tensor_count is None else tensor_count,
            len(entries) if entry_count is None else entry_count,
        )
        for key, value in entries.items():
            kind, content = _gguf_value(value)
            out += _gguf_string(key) + struct.pack("<I", kind) + content
        for info in infos:
            dims = info["dims"]
            out += _gguf_string(info["name"]) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
            out += struct.pack("<IQ", info["type"], info["offset"])
        out += b"\0" * (-len(out) % 32)
        header_size = len(out)
        out += b"".join(chunks)
        if cut is not None:
            out = out[: int(cut * header_size) if isinstance(cut, float) else cut]
        if flip is not None:
            position = int(flip * 8 * header_size)
            out = out[: position // 8] + bytes([out[position // 8] ^ 1 << position % 8]) + out[position // 8 + 1 :]
        (folder / "model.gguf").write_bytes(out)

    return edit
