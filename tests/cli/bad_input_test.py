#!/usr/bin/env python3
"""Bad input on the built command: each case must end with the right exit code and one clear line, and leave nothing.

    bad_input_test.py PATH_OF_TURBOQUANT PATH_OF_TESTS_DATA [WORD]      WORD: only the cases whose name contains it

Exit codes: 2 for what the command line alone shows to be wrong, 1 for all else that fails, 130 after Ctrl-C. Messages
may come before the error; the error is the last line of standard error and the only one that begins with "error: ".
"""

from __future__ import annotations

import struct
import subprocess
import sys
import tempfile

from harness import (
    Raw,
    as_folder,
    config,
    drop_tensor,
    flip_bit,
    gguf,
    header,
    index,
    input_ids,
    overwrite,
    poke_bf16,
    remove,
    rename,
    shard,
    tensor,
    truncate,
    write,
    write_json,
)
from tester import Case, Tester

CONVERT = "convert --hf-path {hf} --mlx-path {out} --bits 3"
CONVERT_GGUF = "convert --hf-path {hf}/model.gguf --mlx-path {out} --bits 3"
GENERATE_GGUF = "generate --model {hf}/model.gguf --raw --prompt|Hello there --max-tokens 4 --temp 0"
SERVE = "serve --model {hf} --port 0"
GENERATE = "generate --model {hf} --raw --prompt|Hello there --max-tokens 4 --temp 0"
EVALUATE = "evaluate --hf-path {hf} --bits 3 --num-samples 1 --seq-len 16 --no-affine --text {hf}/text.txt --json {out}"
LOGITS = "logits --model {hf} --input {hf}/input.safetensors --output {out}"

Q = "model.layers.1.self_attn.q_proj.weight"
DOWN = "model.layers.2.mlp.down_proj.weight"
TEXT = write("text.txt", "The quick brown fox jumps over the lazy dog. " * 40)
IDS = input_ids("I32", [1, 3], struct.pack("<3i", 5, 6, 7))


CASES: list[Case] = []


def case(name, command, code, says, *edits, **more):
    CASES.append(Case(name, command, code, says, edits, **more))


def bad_model(name, says, *edits, command=CONVERT, **more):
    case(name, command, 1, says, *edits, **more)


def bad_gguf(name, says, command=CONVERT_GGUF, **how):
    case("gguf: " + name, command, 1, says, gguf(**how))


# ---------------------------------------------------------------- the command line
case("no command", "", 2, None)
case("unknown command", "compress {hf}", 2, "compress")
case("unknown option", CONVERT + " --bit-width 3", 2, "--bit-width")
case("convert without a model", "convert --mlx-path {out}", 2, "--hf-path|--model")
case("bits 9", "convert --hf-path {hf} --mlx-path {out} --bits 9", 2, r"--bits 9: use 2, 3, 4 or 8")
case("bits 1.9", "convert --hf-path {hf} --mlx-path {out} --bits 1.9", 2, r"--bits 1\.9.*average from 2 to 8")
case("bits nan", "convert --hf-path {hf} --mlx-path {out} --bits nan", 2, "--bits")
case("bits with a comma", "convert --hf-path {hf} --mlx-path {out} --bits 3,5", 2, "3,5")
case("average: original format", "convert --hf-path {hf} --mlx-path {out} --bits 3.5 --format mlx", 2, "--bits 3.5.*tcq16")
case("average: with a preset", "convert --hf-path {hf} --mlx-path {out} --bits 3.5 --preset dense", 2, "--preset dense")
case("average: too small beside rules", "convert --hf-path {hf} --mlx-path {out} --bits 2.5 --bits-for *.mlp.*=8", 1,
     r"--bits 2\.5 is too small beside what --bits-for fixes.*average is \d")
case("head bits 6", CONVERT + " --head-bits 6", 2, "--head-bits 6: use 4, 8, or 16")
CALIBRATE = "convert --hf-path {hf} --mlx-path {out} --calibrate"
case("calibrate: no such file", CALIBRATE + " no/such.txt", 1, "no/such.txt: no such file or folder.*self, FILE or DIR")
case("calibrate: too little text", CALIBRATE + " /dev/null", 1, r"/dev/null: 0 tokens of text; calibration needs at least")
case("calibrate: too few tokens", CALIBRATE + " --calibrate-tokens 5", 2, "--calibrate-tokens 5: must be from 512 to")
case("calibrate: tokens without it", "convert --hf-path {hf} --mlx-path {out} --calibrate-tokens 600", 2, "--calibrate")
case("calibrate: damping below 0", CALIBRATE + " --calibrate-damping -1", 2, "--calibrate-damping -1.*must be from 0 to")
case("calibrate: more drift than there is", CALIBRATE + " --calibrate-drift 2", 2, "--calibrate-drift 2.*must be from 0 to 1")
case("calibrate: another format", CALIBRATE + " --format mlx", 2, "--calibrate: of --format tcq16 only")
case("calibrate: rows of other formats", EVALUATE + " --formats original --calibrate", 2, "--calibrate need tcq16 among --formats", TEXT)
SIZE = "convert --hf-path {hf} --mlx-path {out} --target-size "
case("target size: no size", SIZE + "small", 2, "--target-size 'small'.*48GB")
case("target size: negative", SIZE + "-5MB", 2, "--target-size '-5MB'.*48GB")
case("target size: nothing", SIZE + "0", 2, "--target-size '0'.*48GB")
case("target size: no unit of sizes", SIZE + "5qb", 2, "--target-size '5qb'.*48GB")
case("target size: beyond all sizes", SIZE + "1e300GB", 2, "--target-size '1e300GB'.*48GB")
case("target size: a number alone is bytes", SIZE + "9", 1, r"--target-size of 9 bytes is too small.*take \d+ bytes")
case("target size: too small", SIZE + "300kB", 1, r"hf: --target-size of 300000 bytes is too small: the fewest bits take \d+ bytes")
case("target size: too small beside rules", SIZE + "500kB --bits-for *.mlp.*=16", 1, "fewest bits beside what --bits-for fixes")
case("target size: with bits", SIZE + "1MB --bits 3", 2, "--bits.*--target-size|--target-size.*--bits")
case("target size: with head bits", SIZE + "1MB --head-bits 8", 2, "--head-bits.*--target-size|--target-size.*--head-bits")
case("target size: with a preset", SIZE + "1MB --preset moe", 2, "--preset moe.*--target-size")
case("target size: original format", SIZE + "1MB --format mlx", 2, "--target-size.*--format tcq16")
case("bits are no number", "convert --hf-path {hf} --mlx-path {out} --bits three", 2, "three")
case("group size 48", CONVERT + " --format original --group-size 48", 2, "group-size.*48|48.*group-size")
case("unknown rotation", CONVERT + " --rotation dct", 2, "dct")
case("unknown format", CONVERT + " --format gptq", 2, "gptq")
case("bits-for without bits", CONVERT + " --bits-for *.down_proj", 2, r"bits-for.*GLOB=BITS")
case("bits-for: 5 bits", CONVERT + " --bits-for *.down_proj=5", 2, r"bits-for.*2, 3, 4, 8")
case("bits-for: no name", CONVERT + " --bits-for =4", 2, "bits-for")
case("bits-for matches nothing", CONVERT + " --bits-for *.o_proj=4 --bits-for *.w2=4", 1, r"'\*\.w2' matches no tensor")
case("bits-for matches norms alone", CONVERT + " --bits-for *norm*=4", 1, "never compressed")
case("bits-for: original format", CONVERT + " --format original --bits-for *.o_proj=4", 1, "one number of bits")
case("preset: unknown", CONVERT + " --preset best", 2, "best.*dense or moe")
case("preset: original format", CONVERT + " --format original --preset dense", 2, "preset")
case("evaluate: bits-for without tcq16", EVALUATE + " --formats original --bits-for *=4", 2, "tcq16", TEXT)
case("evaluate: bits-for matches nothing", EVALUATE + " --bits-for none=4", 1, "'none' matches no tensor", TEXT)
case("unknown dtype", CONVERT + " --dtype int8", 2, "int8")
case("QJL in tcq16", CONVERT + " --use-qjl", 2, "--use-qjl.*tcq16.*--format mlx")
case("hash seed in tcq16", CONVERT + " --python-hash-seed 3", 2, "--python-hash-seed.*--format mlx")
case("hash seed beyond 32 bits", CONVERT + " --format mlx --python-hash-seed 4294967296", 2, "python-hash-seed")
case("negative hash seed", CONVERT + " --format mlx --python-hash-seed -1", 2, "python-hash-seed")
case("seed is no number", CONVERT + " --rotation-seed x", 2, "rotation-seed")
case("generate: no model", "generate --prompt x", 2, "--model")
case("generate: negative temperature", GENERATE.replace("--temp 0", "--temp -1"), 2, "temp")
case("generate: negative number of tokens", GENERATE.replace("--max-tokens 4", "--max-tokens -5"), 2, "max-tokens")
case("generate: KV cache of 5 bits", GENERATE + " --kv-bits 5", 2, "kv-bits 5.*k4v3")
case("generate: KV cache of no known form", GENERATE + " --kv-bits v3k4", 2, "kv-bits v3k4")
case("generate: compressed KV cache of float32", GENERATE + " --kv-bits 4 --cache-dtype float32", 2, "cache-dtype")
case("generate: keep -1 layers", GENERATE + " --kv-bits 4 --kv-keep-layers -1", 2, "kv-keep-layers -1")
case("generate: no such KV format", GENERATE + " --kv-bits 3 --kv-format mlx", 2, "kv-format mlx.*tcq or original")
case("generate: 8 bits in the original's KV format", GENERATE + " --kv-bits 8 --kv-format original", 2, "2, 3 and 4 bits")
case("generate: KV group size 7", GENERATE + " --kv-bits 3 --kv-group-size 7", 2, "kv-group-size 7")
case("generate: KV start that is no number", GENERATE + " --kv-bits 3 --kv-start soon", 2, "kv-start 'soon'.*or prompt")
case("generate: KV start -5", GENERATE + " --kv-bits 3 --kv-start -5", 2, "kv-start")
case("serve: no model", "serve", 2, "--model")
case("serve: no such port", SERVE.replace("--port 0", "--port 70000"), 2, "port")
case("serve: an address of another machine", SERVE + " --host 192.0.2.1", 1, "cannot listen on 192.0.2.1.*--host")
case("serve: a file without keys", SERVE + " --api-key-file {hf}/keys", 1, "no keys.*one a line", write("keys", " \n\n"))
case("serve: no such file of keys", SERVE + " --api-key-file {hf}/none", 1, "none")
case("serve: memory that is no size", SERVE + " --kv-memory much", 2, "kv-memory 'much'.*48GB")
case("serve: nobody at once", SERVE + " --parallel 0", 2, "parallel")
case("serve: a template that is none", SERVE + " --chat-template-file {hf}/config.json.bad", 1, "template",
     write("config.json.bad", "{% for %}"))
case("generate: prompt cache that is a text", GENERATE + " --prompt-cache {hf}/config.json", 1, "config.json")
case("generate: prompt cache that is a model", GENERATE + " --prompt-cache {hf}/model.safetensors", 1,
     "not a KV cache")
case("generate: prompt cache in no folder", GENERATE + " --prompt-cache {hf}/none/cache", 1, "none/cache")
case("generate: prompt cache that is a folder", GENERATE + " --prompt-cache {hf}", 1, "folder")
case("demo-kv: 5 bits", "demo-kv --model {hf} --tq-bits 5", 2, "tq-bits")
case("demo-kv: no model", "demo-kv --compare", 2, "model")
case("demo-kv: empty prompt", "demo-kv --model {hf} --compare --prompt|", 2, "prompt is empty")
case("evaluate: KV start behind a prompt", "evaluate --model {hf} --kv-bits 3 --kv-start prompt --text {hf}/config.json",
     2, "kv-start 'prompt'")
case("evaluate: keys of 16 bits", "evaluate --model {hf} --kv-bits k4v3 k16v3 --text {hf}/config.json", 2, "kv-bits k16v3")
case("generate: top-p over 1", GENERATE + " --top-p 1.5", 2, "top-p")
case("generate: negative number of threads", GENERATE + " --threads -1", 2, "threads")
case("generate: empty prompt", GENERATE.replace("|Hello there", "|"), 2, "prompt.*empty|empty.*prompt")
NEEDLE = "evaluate --model {hf} --needle --needle-lengths 300 --needle-trials 1 --needle-positions 50"
case("needle: longer than the context", NEEDLE.replace("300", "300 9000"), 2, "needle-lengths 9000.*4096")
case("needle: too short for a question", NEEDLE.replace("300", "30"), 2, "needle-lengths 30.*short")
case("needle: position 101", NEEDLE.replace("positions 50", "positions 101"), 2, "needle-positions 101")
case("needle: no trials", NEEDLE.replace("trials 1", "trials 0"), 2, "needle-trials 0")
case("needle: with the options of a text", NEEDLE + " --seq-len 16", 2, "needle|seq-len")
case("needle: lengths without it", EVALUATE + " --needle-lengths 300", 2, "needle", TEXT)
case("plot: a pdf", NEEDLE + " --plot {w}/a.pdf", 2, "--plot.*svg or .png")
case("plot: no such folder", NEEDLE + " --plot {w}/none/a.svg", 2, "--plot.*folder")
case("plot points: without a plot", EVALUATE + " --plot-points {hf}/config.json", 2, "plot-points.*--plot", TEXT)
case("plot points: no CSV", EVALUATE + " --plot {w}/a.svg --plot-points {hf}/config.json", 1, "config.json: line 1.*name,bits,kl", TEXT)
case("plot points: none", EVALUATE + " --plot {w}/a.svg --plot-points {hf}/p.csv", 1, "p.csv: no line", lambda w: (TEXT(w), write("p.csv", "# none\n")(w)))
case("plot points: bits below 0", EVALUATE + " --plot {w}/a.svg --plot-points {hf}/p.csv", 1, "p.csv: line 2.*above 0", lambda w: (TEXT(w), write("p.csv", "name,bits,kl\nq,-3,0.1\n")(w)))
case("evaluate: two texts in --output", EVALUATE + " --text {hf}/config.json --output {w}/o.json", 2, "--output.*several texts", TEXT)
case("evaluate: the second text is missing", EVALUATE + " --text {w}/none.txt", 1, "none.txt", TEXT)
case("evaluate: bits 9", EVALUATE.replace("--bits 3", "--bits 9"), 2, "--bits 9: use 2, 3, 4 or 8", TEXT)
case("evaluate: an average without tcq16", EVALUATE.replace("--bits 3", "--bits 3.5 --formats original"), 2, "--bits 3.5: needs tcq16", TEXT)
case("evaluate: a size too small", EVALUATE + " --target-size 1MB 100kB", 1, "--target-size of 100000 bytes is too small", TEXT)
case("evaluate: head bits 5", EVALUATE + " --head-bits 5", 2, "--head-bits 5", TEXT)
case("evaluate: windows of one token", EVALUATE.replace("--seq-len 16", "--seq-len 1"), 2, "seq-len", TEXT)
case("evaluate: no windows", EVALUATE.replace("--num-samples 1", "--num-samples 0"), 2, "num-samples", TEXT)
case("evaluate: unknown protocol", EVALUATE + " --protocol mine", 2, "mine", TEXT)
case("bench: unknown synthetic model", "bench --synthetic gpt-17 --bits 3", 2, "gpt-17")
case(
    "unknown processor level",
    "generate --model {hf} --raw --prompt x --max-tokens 1",
    1,
    "TURBOQUANT_CPU",
    env={"TURBOQUANT_CPU": "mmx"},
)

# ---------------------------------------------------------------- what is there and what is not
case("convert: no such folder", "convert --hf-path {w}/nowhere --mlx-path {out}", 1, "nowhere")
case("convert: a folder without a model", "convert --hf-path {w}/empty --mlx-path {out}", 1, r"config\.json|empty")
case("convert: a text file as the model", "convert --hf-path {hf}/text.txt --mlx-path {out}", 1, r"text\.txt", TEXT)
case("info: no such folder", "info {w}/nowhere", 1, "nowhere")
case("generate: no such folder", "generate --model {w}/nowhere --prompt x", 1, "nowhere")
case("output exists", "convert --hf-path {hf} --mlx-path {w}/taken --bits 3", 1, "taken.*exist|exist.*taken")
case("output exists as a file", "convert --hf-path {hf} --mlx-path {w}/taken/file --bits 3", 1, "exist")
case("output below a file", "convert --hf-path {hf} --mlx-path {w}/taken/file/out --bits 3", 1, "taken/file")
case(
    "output in a folder that may not be written",
    "convert --hf-path {hf} --mlx-path {w}/locked/out --bits 3",
    1,
    "locked",
    not_as_root=True,
)
case(
    "a model that may not be read",
    CONVERT,
    1,
    r"model\.safetensors",
    lambda folder: (folder / "model.safetensors").chmod(0),
    not_as_root=True,
)
case("output disk full", CONVERT, 1, "space|large|write", file_limit=100_000)
case("results disk full: evaluate --json", EVALUATE, 1, "space|large|write", TEXT, file_limit=16)
case("results disk full: logits", LOGITS, 1, "space|large|write", IDS, file_limit=512)

# ---------------------------------------------------------------- plan
PLAN = "plan --model {hf}"
case("plan: no model", "plan --context 100", 2, "model")
case("plan: unknown model", "plan --model gpt-6", 1, "gpt-6.*gpt-oss-120b")
case("plan: kv bits 5", PLAN + " --kv-bits 5", 2, "kv-bits.*5")
case("plan: keep -1 layers", PLAN + " --kv-bits 3 --kv-keep-layers -1", 2, "kv-keep-layers -1")
case("plan: kv bits without values", PLAN + " --kv-bits k4", 2, "k4v3")
case("plan: ram is no size", PLAN + " --ram much", 2, "--ram.*48GB")
case("plan: ram of an unknown unit", PLAN + " --ram 5qb", 2, "--ram.*48GB")
case("plan: ram below nothing", PLAN + " --ram -5GB", 2, "--ram")
case("plan: context 0", PLAN + " --context 0", 2, "context")
case("plan: the second context 0", PLAN + " --context 1024 0", 2, "context")
case("plan: bits 9", PLAN + " --bits 9", 2, "--bits 9: use 2, 3, 4 or 8")
case("plan: bits 0", PLAN + " --bits 0", 2, "bits")
case("plan: head bits 2", PLAN + " --head-bits 2", 2, "--head-bits 2: use 4, 8")
case("plan: target size too small", PLAN + " --target-size 1kB", 1, "--target-size of 1000 bytes is too small")
case("plan: target size with bits", PLAN + " --target-size 1MB --bits 3", 2, "target-size")
case("plan: a folder without a model", "plan --model {w}/empty", 1, "empty")
bad_model("plan: config is a list", r"config\.json", write("config.json", "[1]"), command="plan --model {hf}/config.json")
bad_model("plan: no layers", "num_hidden_layers", config(num_hidden_layers=None), command="plan {hf}/config.json")
bad_model(
    "plan: sizes of no model",
    r"config\.json",
    config(hidden_size=1 << 31, intermediate_size=1 << 31, num_hidden_layers=9999),
    command="plan {hf}/config.json",
)
bad_model(
    "plan: more experts than any model",
    r"config\.json",
    config(model_type="mixtral", num_local_experts=1 << 31, num_experts_per_tok=2),
    command="plan {hf}/config.json",
)

# ---------------------------------------------------------------- config.json
bad_model("config: missing", r"config\.json", remove("config.json"))
bad_model("config: empty", r"config\.json", write("config.json", ""))
bad_model("config: not JSON", r"config\.json", write("config.json", "{model_type: llama"))
bad_model("config: cut off", r"config\.json", truncate("config.json", 200))
bad_model("config: a list", r"config\.json", write("config.json", "[1, 2]"))
bad_model("config: nested 100,000 deep", r"config\.json", write("config.json", "[" * 100_000))
bad_model("config: unknown architecture", "perceiver", config(model_type="perceiver", architectures=["PerceiverModel"]))
bad_model("config: no architecture", "model_type", config(model_type=None, architectures=None))
bad_model("config: no hidden_size", "hidden_size", config(hidden_size=None), command=GENERATE)
bad_model("config: hidden_size is text", "hidden_size", config(hidden_size="wide"), command=GENERATE)
bad_model("config: hidden_size 0", "hidden_size", config(hidden_size=0), command=GENERATE)
bad_model("config: hidden_size negative", "hidden_size", config(hidden_size=-192), command=GENERATE)
bad_model("config: hidden_size is not the weights'", r"hidden_size|weight", config(hidden_size=208), command=GENERATE)
bad_model(
    "config: too many layers",
    r"num_hidden_layers|layers\.4\.",
    config(num_hidden_layers=1_000_000_000),
    command=GENERATE,
)
bad_model(
    "config: heads do not share keys evenly",
    "num_key_value_heads|num_attention_heads",
    config(num_attention_heads=7),
    command=GENERATE,
)
bad_model("config: no key heads", "num_key_value_heads", config(num_key_value_heads=0), command=GENERATE)
bad_model("config: another vocabulary", "vocab_size|embed_tokens", config(vocab_size=100_000), command=GENERATE)
bad_model(
    "config: unknown rope scaling",
    "helix",
    config(rope_scaling={"rope_type": "helix", "factor": 8.0}),
    command=GENERATE,
)
bad_model("config: unknown activation", "hidden_act|sigmoid9", config(hidden_act="sigmoid9"), command=GENERATE)

# ---------------------------------------------------------------- MLX's quantized checkpoints
MLX = config(quantization={"bits": 4, "group_size": 64})
WORDS = tensor(Q, dtype="U32", shape=[192, 96])  # the bytes of BF16 [192, 192]
bad_model("mlx: unknown mode", "nvfp4", config(quantization={"mode": "nvfp4"}))
bad_model("mlx: 7 bits", "7 bits", config(quantization={"bits": 7}))
bad_model("mlx: bits are text", "bits", config(quantization={"bits": "four"}))
bad_model("mlx: unknown mode of a module", "lm_head", config(quantization={"lm_head": {"mode": "mxfp8"}}))
bad_model("mlx: nothing is quantized", "compressed already", MLX)
bad_model("mlx: words without scales", Q.replace("weight", "scales"), MLX, WORDS, command=GENERATE)
bad_model("mlx: words without scales, convert", "compressed already|" + Q, MLX, WORDS)

# ---------------------------------------------------------------- safetensors
bad_model("safetensors: missing", r"model\.safetensors", remove("model.safetensors"))
bad_model("safetensors: a folder of that name", r"model\.safetensors", as_folder("model.safetensors"))
bad_model("safetensors: empty", r"model\.safetensors", truncate("model.safetensors", 0))
bad_model("safetensors: seven bytes", r"model\.safetensors", truncate("model.safetensors", 7))
bad_model("safetensors: header cut off", r"model\.safetensors", truncate("model.safetensors", 1000))
bad_model("safetensors: data cut off", r"model\.safetensors", truncate("model.safetensors", 1_000_000))
bad_model("safetensors: last byte missing", r"model\.safetensors", truncate("model.safetensors", -1))
bad_model(
    "safetensors: header of 2^63 bytes",
    r"model\.safetensors",
    overwrite("model.safetensors", 0, struct.pack("<Q", 1 << 63)),
)
bad_model(
    "safetensors: header one byte longer than the file",
    r"model\.safetensors",
    overwrite("model.safetensors", 0, struct.pack("<Q", 2465120 - 7)),
)
bad_model("safetensors: header is no JSON", r"model\.safetensors", overwrite("model.safetensors", 8, b"<xml>"))
bad_model("safetensors: header is a list", r"model\.safetensors", header(lambda h: b"[1, 2, 3]"))
bad_model("safetensors: header nested 100,000 deep", r"model\.safetensors", header(lambda h: b'{"a":' + b"[" * 100_000))
bad_model("safetensors: no tensors", r"model\.safetensors|embed_tokens", header(lambda h: {}))
bad_model("safetensors: a tensor missing", Q, drop_tensor(Q), command=GENERATE)
bad_model("safetensors: offsets reversed", Q, header(lambda h: h[Q]["data_offsets"].reverse()))
bad_model("safetensors: offsets past the end", Q, tensor(Q, data_offsets=[1 << 40, (1 << 40) + 192 * 192 * 2]))
bad_model("safetensors: offsets over 2^64", r"model\.safetensors", tensor(Q, data_offsets=[0, 1 << 65]))
bad_model("safetensors: offset negative", Q, tensor(Q, data_offsets=[-2, 73726]))
bad_model("safetensors: tensors overlap", r"model\.safetensors", tensor(Q, data_offsets=[0, 192 * 192 * 2]))
bad_model("safetensors: shape and bytes differ", Q, tensor(Q, shape=[192, 193]))
bad_model("safetensors: shape overflows", Q, tensor(Q, shape=[1 << 40, 1 << 40]))
bad_model(
    "safetensors: shape overflows to the right size",
    Q,
    tensor(Q, shape=[5, 192 * 192 * pow(5, -1, 1 << 64) % (1 << 64)]),
)
bad_model("safetensors: negative shape", Q, tensor(Q, shape=[-192, -192]))
bad_model("safetensors: nine dimensions", Q, tensor(Q, shape=[1] * 7 + [192, 192]))
bad_model("safetensors: shape is text", Q, tensor(Q, shape="192x192"))
bad_model("safetensors: unknown type", Q, tensor(Q, dtype="Q9_K"))
bad_model("safetensors: type of another size", Q, tensor(Q, dtype="F32"))
bad_model("safetensors: integer weights", Q, tensor(Q, dtype="I16"))
bad_model("safetensors: weight of one dimension", Q, tensor(Q, shape=[192 * 192]))
bad_model("safetensors: weight transposed", DOWN, tensor(DOWN, shape=[320, 192]), command=GENERATE)
bad_model("weights: NaN", Q, poke_bf16(Q, 12345, 0x7FC0))
bad_model("weights: infinite", DOWN, poke_bf16(DOWN, 0, 0xFF80))
bad_model("weights: NaN, original format", Q, poke_bf16(Q, 12345, 0x7FC0), command=CONVERT + " --format original")

bad_model(
    "shards: one missing", r"model-00002-of-00002\.safetensors", shard, remove("model-00002-of-00002.safetensors")
)
bad_model("shards: index is no JSON", r"index\.json", shard, write("model.safetensors.index.json", "{"))
bad_model("shards: index without weight_map", "weight_map", shard, index(lambda i: i.pop("weight_map")))
bad_model(
    "shards: a tensor in the wrong shard",
    Q,
    shard,
    index(lambda i: i["weight_map"].update({Q: "model-00001-of-00002.safetensors"})),
)
bad_model(
    "shards: a name that leaves the folder",
    r"index\.json|\.\./",
    shard,
    index(lambda i: i["weight_map"].update({Q: "../../../../etc/passwd"})),
)
bad_model(
    "shards: an absolute name",
    r"index\.json|/etc/passwd",
    shard,
    index(lambda i: i["weight_map"].update({Q: "/etc/passwd"})),
)
bad_model(
    "shards: swapped",
    r"model-0000[12]-of-00002\.safetensors",
    shard,
    rename("model-00001-of-00002.safetensors", "x"),
    rename("model-00002-of-00002.safetensors", "model-00001-of-00002.safetensors"),
    rename("x", "model-00002-of-00002.safetensors"),
)

# ---------------------------------------------------------------- GGUF
bad_gguf("not GGUF", r"model\.gguf", magic=b"GGML")
bad_gguf("empty", r"model\.gguf", cut=0)
bad_gguf("ten bytes", r"model\.gguf", cut=10)
bad_gguf("cut off in the metadata", r"model\.gguf", cut=0.3)
bad_gguf("cut off in the list of tensors", r"model\.gguf", cut=0.97)
bad_gguf("cut off in the data", r"model\.gguf", cut=1_000_000)
bad_gguf("version 99", "version.*99", version=99)
bad_gguf("version 1", "version.*1", version=1)
bad_gguf("written for a big-endian machine", r"model\.gguf", version=3 << 24)
bad_gguf("2^62 metadata entries", r"model\.gguf", entry_count=1 << 62)
bad_gguf("2^62 tensors", r"model\.gguf", tensor_count=1 << 62)
bad_gguf("a string of 2^60 bytes", r"model\.gguf", metadata={"general.name": Raw(8, struct.pack("<Q", 1 << 60))})
bad_gguf("a list of 2^61 numbers", r"model\.gguf", metadata={"general.tags": Raw(9, struct.pack("<IQ", 5, 1 << 61))})
bad_gguf(
    "a list of lists of lists ...",
    r"model\.gguf",
    metadata={"general.tags": Raw(9, struct.pack("<IQ", 9, 1) * 100_000)},
)
bad_gguf("unknown type of a metadata value", r"model\.gguf", metadata={"general.name": Raw(77, b"")})
bad_gguf("alignment 0", "alignment", metadata={"general.alignment": 0})
bad_gguf("alignment 33", "alignment", metadata={"general.alignment": 33})
bad_gguf("no architecture", "general.architecture", metadata={"general.architecture": None})
bad_gguf("architecture is a number", "general.architecture", metadata={"general.architecture": 7})
bad_gguf("unknown architecture", "perceiver", metadata={"general.architecture": "perceiver"})
bad_gguf(
    "no tokenizer",
    "tokenizer",
    command=GENERATE_GGUF,
    metadata={
        key: None
        for key in (
            "tokenizer.ggml.model",
            "tokenizer.ggml.pre",
            "tokenizer.ggml.tokens",
            "tokenizer.ggml.token_type",
            "tokenizer.ggml.merges",
        )
    },
)
bad_gguf("unknown tokenizer", "runes", metadata={"tokenizer.ggml.model": "runes"})
bad_gguf("no width", "embedding_length", metadata={"llama.embedding_length": None})
bad_gguf("no heads", "head_count", metadata={"llama.attention.head_count": 0})
bad_gguf("unknown tensor type", "blk.1.attn_q.weight", tensors={"blk.1.attn_q.weight": {"type": 999}})
bad_gguf("nine dimensions", "blk.1.attn_q.weight", tensors={"blk.1.attn_q.weight": {"dims": [192, 192] + [1] * 7}})
bad_gguf("dimensions overflow", "blk.1.attn_q.weight", tensors={"blk.1.attn_q.weight": {"dims": [1 << 40, 1 << 40]}})
bad_gguf("a dimension of 0", "blk.1.attn_q.weight|q_proj", tensors={"blk.1.attn_q.weight": {"dims": [0, 192]}})
bad_gguf(
    "width no multiple of the block",
    "blk.1.attn_q.weight",
    tensors={"blk.1.attn_q.weight": {"type": 2, "dims": [190, 192]}},
)
bad_gguf("a tensor past the end", "blk.1.attn_q.weight", tensors={"blk.1.attn_q.weight": {"offset": 1 << 40}})
bad_gguf("a tensor at 2^64 - 32", "blk.1.attn_q.weight", tensors={"blk.1.attn_q.weight": {"offset": (1 << 64) - 32}})
bad_gguf("a tensor not aligned", "blk.1.attn_q.weight", tensors={"blk.1.attn_q.weight": {"offset": 3}})
bad_gguf(
    "a tensor twice", "blk.1.attn_q.weight|q_proj", tensors={"blk.1.attn_k.weight": {"name": "blk.1.attn_q.weight"}}
)
bad_gguf(
    "a tensor missing",
    r"blk\.1\.attn_q\.weight|layers\.1\.self_attn\.q_proj",
    command=GENERATE_GGUF,
    tensors={"blk.1.attn_q.weight": None},
)

# ---------------------------------------------------------------- tokenizer, prompt, text, token ids
bad_model("tokenizer: missing", r"tokenizer\.json", remove("tokenizer.json"), command=GENERATE)
bad_model("tokenizer: cut off", r"tokenizer\.json", truncate("tokenizer.json", 5000), command=GENERATE)
bad_model(
    "tokenizer: not a tokenizer", r"tokenizer\.json", write_json("tokenizer.json", {"model": 3}), command=GENERATE
)
bad_model(
    "template: syntax error",
    "template",
    write_json("tokenizer_config.json", {"chat_template": "{% for m in messages %"}),
    command="generate --model {hf} --prompt x --max-tokens 2",
)
bad_model(
    "template: refuses",
    "only for pets",
    write_json("tokenizer_config.json", {"chat_template": "{{ raise_exception('only for pets') }}"}),
    command="generate --model {hf} --prompt x --max-tokens 2",
)
bad_model(
    "template: never ends",
    "template",
    write_json(
        "tokenizer_config.json",
        {"chat_template": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"},
    ),
    command="generate --model {hf} --prompt x --max-tokens 2",
)
bad_model(
    "prompt longer than the context",
    "context|max_position_embeddings",
    config(max_position_embeddings=64),
    command="generate --model {hf} --raw --prompt|" + "word_" * 200 + " --max-tokens 4",
)
bad_model("prompt is not UTF-8", "UTF-8", command="generate --model {hf} --raw --prompt \udcff\udcfe --max-tokens 4")
bad_model("text: missing", r"text\.txt", command=EVALUATE)
bad_model("text: empty", r"text\.txt", write("text.txt", ""), command=EVALUATE)
bad_model("text: shorter than a window", r"text\.txt", write("text.txt", "Hi"), command=EVALUATE)
bad_model("text: not UTF-8", "UTF-8", write("text.txt", b"abc \xff\xfe def " * 50), command=EVALUATE)
bad_model("logits: no input", r"input\.safetensors", command=LOGITS)
bad_model(
    "logits: no input_ids",
    "input_ids",
    IDS,
    header(lambda h: {"ids": h["input_ids"]}, "input.safetensors"),
    command=LOGITS,
)
bad_model("logits: ids are floats", "input_ids", input_ids("F32", [1, 2], bytes(8)), command=LOGITS)
bad_model("logits: ids of three dimensions", "input_ids", input_ids("I32", [1, 1, 2], bytes(8)), command=LOGITS)
bad_model("logits: no ids", "input_ids", input_ids("I32", [1, 0], b""), command=LOGITS)
bad_model(
    "logits: an id past the vocabulary", "512", input_ids("I32", [1, 2], struct.pack("<2i", 5, 512)), command=LOGITS
)
bad_model("logits: a negative id", "-1", input_ids("I64", [1, 2], struct.pack("<2q", 5, -1)), command=LOGITS)


# ---------------------------------------------------------------- converted models
def renamed(old, new):
    """The tensors of layer 1 that are named so get another name."""
    return header(lambda h: {n.replace(old, new) if ".layers.1." in n else n: entry for n, entry in h.items()})


def reshape_codes(h):
    tiles, groups, block = h[Q]["shape"]
    h[Q]["shape"] = [tiles * groups, 1, block]


SCALES = Q.replace(".weight", ".scales")
bad_model("converted: converted again", "already|quantiz", base="converted")
bad_model(
    "converted: cut off",
    r"model\.safetensors",
    truncate("model.safetensors", -1000),
    command=GENERATE,
    base="converted",
)
bad_model(
    "converted: scales of another type", "scales", tensor(SCALES, dtype="BF16"), command=GENERATE, base="converted"
)
bad_model("converted: codes of another type", Q, tensor(Q, dtype="I8"), command=GENERATE, base="converted")
bad_model("converted: codes of another shape", Q, header(reshape_codes), command=GENERATE, base="converted")
bad_model(
    "converted: scales missing", "scales", renamed("q_proj.scales", "q_proj.scalez"), command=GENERATE, base="converted"
)
bad_model("converted: signs missing", "signs", renamed(".signs", ".sighs"), command=GENERATE, base="converted")


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    word = sys.argv[3] if len(sys.argv) == 4 else ""
    with tempfile.TemporaryDirectory(prefix="turboquant-cli-") as root:
        tester = Tester(sys.argv[1], sys.argv[2], root)
        tester.control("good input: convert", CONVERT, makes="out", keep_as=tester.converted)
        if not tester.converted.exists():
            sys.exit("the micro model could not be converted: nothing else can be tested")
        tester.control(
            "good input: convert to the original's format", CONVERT + " --format mlx --group-size 64 --use-qjl", makes="out"
        )
        tester.control("good input: convert GGUF", CONVERT_GGUF, gguf(), makes="out")
        tester.control("good input: convert shards", CONVERT + " --quiet", shard, makes="out")
        tester.control("good input: generate", GENERATE)
        tester.control("good input: generate from GGUF", GENERATE_GGUF, gguf())
        tester.control("good input: evaluate", EVALUATE, TEXT, makes="out")
        tester.control("good input: logits", LOGITS, IDS, makes="out")
        tester.control("good input: info", "info {hf}")
        # A build without cpp-httplib has no such command.
        has_server = "serve" in subprocess.run([sys.argv[1], "--help"], capture_output=True, text=True).stdout
        for c in CASES:
            if word in c.name and (has_server or not c.name.startswith("serve:")):
                tester.run_case(c)
        if word in "a flipped bit":
            # The file's first 4064 bytes are its header; of GGUF the whole header, most of which is the vocabulary.
            tester.fuzz(
                "a flipped bit in a safetensors header",
                40,
                CONVERT,
                lambda numbers: flip_bit("model.safetensors", numbers.randrange(8 * 4064)),
            )
            tester.fuzz("a flipped bit in a GGUF header", 20, CONVERT_GGUF, lambda numbers: gguf(flip=numbers.random()))
            tester.fuzz(
                "a flipped bit at the start of a GGUF header",
                20,
                CONVERT_GGUF,
                lambda numbers: gguf(flip=numbers.random() * 0.05),
            )
            tester.fuzz(
                "a flipped bit at the end of a GGUF header",
                20,
                CONVERT_GGUF,
                lambda numbers: gguf(flip=0.9 + numbers.random() * 0.0999),
            )
        if word in "Ctrl-C":
            # The scalar encoder is the slow one: the job is still running when the signal comes.
            slow = {"TURBOQUANT_CPU": "scalar"}
            tester.ctrl_c("Ctrl-C: convert", "convert --hf-path {hf} --mlx-path {out} --bits 4", slow, sign="**/*")
            tester.ctrl_c("Ctrl-C: generate", "generate --model {hf} --raw --prompt Hi --temp 0 --max-tokens 200000", slow)
            tester.ctrl_c(
                "Ctrl-C: evaluate",
                "evaluate --hf-path {hf} --bits 4 --no-affine --seq-len 512 --num-samples 500 "
                "--text {hf}/text.txt --json {out}",
                slow,
            )
        print(
            f"{tester.passed} passed, {tester.failed} failed"
            + (f", {tester.skipped} skipped" if tester.skipped else "")
        )
        sys.exit(1 if tester.failed or not tester.passed else 0)


if __name__ == "__main__":
    main()
