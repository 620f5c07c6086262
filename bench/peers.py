#!/usr/bin/env python3
"""Speed beside other programs: the same shape or model, bits of the same class, as many threads, in turn (A B A B).

    bench/peers.py --shape llama-3.2-1b --types Q4_K_M Q3_K_M    random weights of a real shape
    bench/peers.py --shape gpt-oss-20b --bits 3                  MXFP4 there; ours of 3 bits instead of the same class
    bench/peers.py --model models/X.gguf                         this file in both programs (ours: as FP16)
    bench/peers.py --model models/X.gguf --bits 4                ours converted from it

Prints a table of rounds, medians and their ratio for each type of llama.cpp's, and on macOS (arm64) for MLX; --record
appends it to bench/RESULTS.md. Runs from the repository root, build/release/turboquant built, nothing else beside, in
an environment of its own (build/peers-venv: the first run builds llama.cpp for this processor, minutes). Files are made
in build/peers (llama-3.1-8b: 5 GB a type, gpt-oss-20b: 12 GB) and stay there.

A machine that is shared has phases: rounds whose peak of int8 multiply-adds is under --slow-below are marked, and are
no part of the medians unless all are.
"""

import argparse
import datetime
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True  # before the scripts beside this one are read
from environment import LLAMA_CPP, commit, enter_environment, processor_name

HAS_MLX = platform.system() == "Darwin" and platform.machine() == "arm64"
PACKAGES = (*LLAMA_CPP, "mlx==0.32.4", "mlx-lm==0.32.2") if HAS_MLX else LLAMA_CPP
ENVIRONMENT = Path("build/peers-venv")
FOLDER = Path("build/peers")
RESULTS = Path("bench/RESULTS.md")
# int8 multiply-adds a thread: the cores measured so far reach 415 to 470 with AVX-512, and half of it in slow phases.
SLOW_GOP_S = 400
HERE = Path(__file__).parent


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--shape", choices=("llama-3.2-1b", "llama-3.1-8b", "gpt-oss-20b"))
    what.add_argument("--model", type=Path, help="a GGUF file that both programs read")
    parser.add_argument("--types", nargs="+", help="llama.cpp's: Q4_0, Q4_K_M, Q3_K_M, Q2_K; of gpt-oss MXFP4")
    parser.add_argument("--bits", type=int, help="ours; of a shape, without: the class of the type")
    parser.add_argument("--head-bits", type=int, default=8, help="our embedding and head")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64, help="of a decode run")
    parser.add_argument("--prompt-tokens", type=int, default=512, help="of a prefill")
    parser.add_argument("--repeats", type=int, default=3, help="runs in a round, of which the median counts")
    parser.add_argument(
        "--slow-below", type=float, metavar="GOPS", help=f"int8 peak of a slow phase: {SLOW_GOP_S} a thread; 0: none"
    )
    parser.add_argument("--turboquant", type=Path, default=Path("build/release/turboquant"))
    parser.add_argument("--json", type=Path, help="write all rounds to this file")
    parser.add_argument("--record", action="store_true", help=f"append the tables to {RESULTS}")
    options = parser.parse_args()
    if options.model and options.types:
        parser.error("--types are of a --shape: a --model has its own")
    for name in ("threads", "rounds", "tokens", "prompt_tokens", "repeats"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if options.slow_below is None:
        options.slow_below = SLOW_GOP_S * options.threads
    return options


# ---------------------------------------------------------------- one measurement
def output_of(command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise SystemExit(f"error: {shlex.join(map(str, command))}: {said[-1] if said else f'exit {done.returncode}'}")
    return done.stdout


def run_options(options):
    return ["--prompt-tokens", options.prompt_tokens, "--tokens", options.tokens, "--repeats", options.repeats]


def read_bench(rows):
    """What the rows of `turboquant bench --json` say: ceilings and speeds."""

    def row(is_it):
        found = [row for row in rows if is_it(row["name"])]
        if len(found) != 1:
            raise SystemExit("error: `turboquant bench` printed other rows than expected")
        return found[0]

    decode = row(lambda name: name.endswith(" decode"))
    return {
        "memory_gb_s": row(lambda name: name == "memory read")["gb_s"],
        "int8_gop_s": row(lambda name: name == "int8 multiply-add")["gop_s"],
        "decode_tok_s": decode["tok_s"],
        "prefill_tok_s": row(lambda name: " prefill " in name)["tok_s"],
        "bytes": 1e9 * decode["gb_s"] / decode["tok_s"],  # a token
    }


def measure_ours(arguments, options):
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        command = [options.turboquant, "--quiet", "bench", *arguments, "--threads", options.threads]
        output_of([*command, *run_options(options), "--json", rows])
        return read_bench(json.loads(rows.read_text()))


def measure_peer(script, arguments, options):
    output = output_of([sys.executable, HERE / script, *arguments, *run_options(options)])
    return json.loads(output.splitlines()[-1])


# ---------------------------------------------------------------- what is compared
class Comparison:
    """Ours and a peer's: titles, the arguments of their programs."""

    def __init__(self, ours, arguments, peer, theirs, script, peer_arguments):
        self.ours, self.arguments = ours, arguments
        self.peer, self.theirs, self.script, self.peer_arguments = peer, theirs, script, peer_arguments
        self.rounds = []

    def run(self, options):
        ours = measure_ours(self.arguments, options)
        self.rounds.append({"ours": ours, "theirs": measure_peer(self.script, self.peer_arguments, options)})


def bits_named(bits, head_bits):
    return f"{bits} bits, embedding and head {head_bits}"


def random_file(shape, file_type):
    from random_gguf import write

    path = FOLDER / f"{shape.name}-{file_type}.gguf"
    if not path.exists():
        print(f"writing {path}", file=sys.stderr, flush=True)
        partial = path.with_suffix(".partial")
        write(partial, shape, file_type)
        partial.rename(path)
    return path


def converted(options):
    """Ours of --model: the file itself, or what it is converted to."""
    if options.bits is None:
        return options.model, f"{options.model.name} as FP16"
    folder = FOLDER / f"{options.model.stem}-{options.bits}bit-head{options.head_bits}"
    if not folder.exists():
        print(f"converting {options.model} to {folder}", file=sys.stderr, flush=True)
        command = [options.turboquant, "--quiet", "convert", "--hf-path", options.model, "--mlx-path", folder]
        output_of([*command, "--bits", options.bits, "--head-bits", options.head_bits])
    return folder, bits_named(options.bits, options.head_bits)


def mlx_config(shape):
    """What config.json of a Llama shape would say."""
    config = {
        "model_type": "llama", "hidden_size": shape.hidden, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim,
        "intermediate_size": shape.ffn, "vocab_size": shape.vocabulary, "rms_norm_eps": 1e-5,
        "rope_theta": shape.rope_base, "tie_word_embeddings": shape.tied,
    }  # fmt: skip
    return json.dumps(config)


def comparisons(options):
    from random_gguf import SHAPES, TYPES, file_types

    threads = ["--threads", options.threads]
    if options.model:
        if not options.model.exists():
            raise SystemExit(f"error: {options.model}: no such file")
        path, title = converted(options)
        theirs = f"{options.model.name} as it is"
        yield Comparison(title, ["--model", path], "llama.cpp", theirs, "peer_llama_cpp.py", [options.model, *threads])
        return
    shape = SHAPES[options.shape]
    types = options.types or (["MXFP4"] if shape.experts else ["Q4_K_M", "Q3_K_M"])
    for name in types:
        if name not in file_types(shape):
            raise SystemExit(f"error: --types {name}: {shape.name} has {', '.join(file_types(shape))}")

    def ours(bits):
        arguments = ["--synthetic", shape.name, "--bits", bits, "--head-bits", options.head_bits]
        return bits_named(bits, options.head_bits), arguments

    for name in types:
        arguments = [random_file(shape, name), *threads]
        yield Comparison(*ours(options.bits or TYPES[name]), "llama.cpp", name, "peer_llama_cpp.py", arguments)
    if HAS_MLX and not shape.experts:
        for bits in dict.fromkeys(options.bits or TYPES[name] for name in types):
            arguments = [mlx_config(shape), "--bits", bits, "--head-bits", options.head_bits]
            theirs = bits_named(bits, options.head_bits) + ", groups of 64, on the CPU"
            yield Comparison(*ours(bits), "MLX", theirs, "peer_mlx.py", arguments)


# ---------------------------------------------------------------- tables
def is_slow(each, slow_below):
    return each["ours"]["int8_gop_s"] < slow_below


def counting(rounds, slow_below):
    """The rounds that medians are of."""
    return [each for each in rounds if not is_slow(each, slow_below)] or rounds


def medians(rounds):
    """A round made of the medians of others, each figure by itself."""
    return {
        side: {
            key: statistics.median(each[side][key] for each in rounds)
            for key, value in rounds[0][side].items()
            if not isinstance(value, str)
        }
        for side in ("ours", "theirs")
    }


def header(peer, options):
    prefill = f"prefill {options.prompt_tokens}"
    names = ["round", "memory read", "int8 peak"]
    for what in ("decode", prefill):
        names += [f"turboquant {what}", f"{peer} {what}", "ratio"]
    return f"| {' | '.join(names)} |\n|{' --- |' * len(names)}"


def row(label, each):
    cells = [label, f"{each['ours']['memory_gb_s']:.1f} GB/s", f"{each['ours']['int8_gop_s']:.0f} GOP/s"]
    for key in ("decode_tok_s", "prefill_tok_s"):
        ours, theirs = each["ours"][key], each["theirs"][key]
        cells += [f"{ours:.1f} tok/s", f"{theirs:.1f} tok/s", f"{ours / theirs:.2f}"]
    return f"| {' | '.join(cells)} |"


def measured(comparison, options):
    """Runs the rounds of a comparison and yields the lines of its table as they come."""
    for number in range(1, options.rounds + 1):
        comparison.run(options)
        latest = comparison.rounds[-1]
        if number == 1:
            yield ""
            yield (
                f"Ours: {comparison.ours} ({latest['ours']['bytes'] * 1e-9:.2f} GB read a token). "
                f"{comparison.peer}: {comparison.theirs} ({latest['theirs']['bytes'] * 1e-9:.2f} GB in all)."
            )
            yield ""
            yield header(comparison.peer, options)
        yield row(f"{number}{' (slow phase)' if is_slow(latest, options.slow_below) else ''}", latest)
    rounds = counting(comparison.rounds, options.slow_below)
    yield row(f"median of {len(rounds)}", medians(rounds))


def title(options, when):
    return f"## {options.shape or options.model.name} beside other programs, {when}"


def preamble(options, versions):
    source = "Random weights, runs in turn" if options.shape else "Runs in turn"
    machine = f"{os.cpu_count()} cores of {processor_name()}, {platform.system()}"
    threads = f"{options.threads} thread{'s' * (options.threads > 1)}"
    ours = output_of([options.turboquant, "--version"]).strip()
    command = shlex.join([sys.argv[0], *(word for word in sys.argv[1:] if word != "--record")])
    return f"{machine}; {threads}; {', '.join(versions)};\n{ours}, commit {commit()}. {source}:\n`{command}`"


def main(options):
    if not options.turboquant.exists():
        raise SystemExit(f"error: {options.turboquant} is not built: run ./test first")
    FOLDER.mkdir(parents=True, exist_ok=True)
    when = datetime.date.today().isoformat()
    lines, done = [], []
    for comparison in comparisons(options):
        for line in measured(comparison, options):
            print(line, flush=True)
            lines.append(line)
        done.append(comparison)
    versions = dict.fromkeys(comparison.rounds[0]["theirs"]["version"] for comparison in done)
    about = preamble(options, versions)
    print(f"\n{about}")
    if options.json:
        result = {
            "date": when,
            "machine": {"processor": processor_name(), "cores": os.cpu_count(), "system": platform.system()},
            "versions": list(versions),
            "commit": commit(),
            "command": shlex.join(sys.argv),
            "comparisons": [
                {
                    "ours": comparison.ours,
                    "peer": comparison.peer,
                    "theirs": comparison.theirs,
                    "rounds": [each | {"slow": is_slow(each, options.slow_below)} for each in comparison.rounds],
                    "medians": medians(counting(comparison.rounds, options.slow_below)),
                }
                for comparison in done
            ],
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    if options.record:
        with RESULTS.open("a") as page:
            page.write("\n".join(["", title(options, when), "", about, *lines, ""]))


if __name__ == "__main__":
    chosen = arguments()  # wrong ones need no environment
    enter_environment(ENVIRONMENT, PACKAGES)
    main(chosen)
