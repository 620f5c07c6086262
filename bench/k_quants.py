#!/usr/bin/env python3
"""Our formats beside llama.cpp's K-quants: KL divergence, each to its own program's F16, against bits a weight.

    bench/k_quants.py                                  all rows; writes docs/k_quants.md and rows of docs/peers.csv
    bench/k_quants.py --ours "--bits 3" --types Q3_K_M   these rows, printed; --no-dither: on the weights as released

Runs from the repository root, build/release/turboquant built, in an environment of its own (build/k_quants-venv: the
first run builds llama.cpp for this processor, minutes). What was measured stays in build/k_quants: another run measures
only what is new.
"""

import argparse
import csv
import ctypes
import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True  # before the scripts beside this one are read
from environment import LLAMA_CPP, commit, enter_environment, processor_name

PACKAGES = (*LLAMA_CPP, "safetensors==0.8.0")
ENVIRONMENT = Path("build/k_quants-venv")
TURBOQUANT = Path("build/release/turboquant")
TYPES = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_M")
IMPORTANCE_TOKENS = 16384
# Uniform bits, and for each of TYPES its size in bytes as {TYPE}: all of one run, which then calibrates once.
OURS = ("--bits 2 3 4 --calibrate", "--calibrate --target-size " + " ".join(f"{{{name}}}" for name in TYPES))
PAGE, POINTS = Path("docs/k_quants.md"), Path("docs/peers.csv")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-dither", action="store_true", help="weights as released, on the grid of Q4_1")
    parser.add_argument("--seed", type=int, default=1, help="of the dither")
    parser.add_argument("--types", nargs="*", default=list(TYPES), help="llama.cpp's types")
    parser.add_argument("--no-imatrix", action="store_true", help="no rows with an importance matrix")
    parser.add_argument("--ours", action="append", help="options of one `turboquant evaluate`; repeatable")
    parser.add_argument("--text", default="data/wikitext-2-raw-test.txt")
    parser.add_argument("--num-samples", type=int, default=40)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--page", type=Path, help=f"page to write; of a run without other options {PAGE}")
    options = parser.parse_args()
    if len(sys.argv) == 1:
        options.page = PAGE
    options.ours = OURS if options.ours is None else options.ours
    return options


class Results:
    """What was measured, by what it depends on."""

    def __init__(self, path):
        self.path = path

    def rows(self):
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def __contains__(self, key):
        return key in self.rows()

    def __getitem__(self, key):
        return self.rows()[key]

    def __setitem__(self, key, row):
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.rows() | {key: row}, indent=1))
        partial.rename(self.path)


def evaluate_text(path):
    """The text as `turboquant evaluate` joins it: rows of WikiText without blank ones, an empty line between."""
    text = path.read_text()
    if not text.lstrip("\n ").startswith("= "):
        return text
    return "\n\n".join(line for line in text.splitlines(keepends=True) if line.strip())


def load(path, options):
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # the machine may be shared
    import llama_cpp

    n = options.seq_len
    return llama_cpp.Llama(
        str(path), n_ctx=n, n_batch=n, n_ubatch=n, n_threads=options.threads, n_threads_batch=options.threads,
        logits_all=True, verbose=False,
    )  # fmt: skip


def logits(model, window):
    if model.input_ids[: model.n_tokens].tolist() != window:  # else they are there: the F16's are asked for twice
        model.reset()
        model.eval(window)
    return model.scores[: len(window)]


class Reference:
    """What the F16 says of a few tokens: probabilities, the sum of p log p, the most likely tokens."""

    def __init__(self, x):
        import numpy as np

        self.top = x.argmax(1)
        x = x - x.max(1, keepdims=True)
        self.p = np.exp(x)
        total = self.p.sum(1, keepdims=True)
        self.p /= total
        self.negative_entropy = np.einsum("tv,tv->t", self.p, x) - np.log(total[:, 0])


class Score:
    """One model over all windows, as src/generate/evaluate.cpp counts: every token of a window but its first."""

    def __init__(self):
        self.nll, self.kl, self.same = [], [], []

    def add(self, x, reference, following):
        """Logits of a few tokens, and the tokens that follow them."""
        import numpy as np

        top = x.argmax(1)
        positions = np.arange(len(x))
        x = x - x[positions, top][:, None]
        log_sum = np.log(np.exp(x).sum(1))
        self.nll.extend(log_sum - x[positions, following])
        kl = reference.negative_entropy - np.einsum("tv,tv->t", reference.p, x) + log_sum
        self.kl.extend(np.maximum(kl, 0))
        self.same.extend(top == reference.top)

    def row(self):
        import numpy as np

        nll, kl, same = (np.array(part, np.float64) for part in (self.nll, self.kl, self.same))
        count = len(nll)
        perplexity = float(np.exp(nll.mean()))
        return {
            "perplexity": perplexity,
            "perplexity_se": perplexity * float(nll.std(ddof=1)) / count**0.5,
            "kl": float(kl.mean()),
            "kl_se": float(kl.std(ddof=1)) / count**0.5,
            "kl_p99": float(np.sort(kl)[int(0.99 * (count - 1))]),
            "top1": float(same.mean()),
            "tokens_scored": count,
        }


def quantize(source, target, kind, importance, threads):
    import llama_cpp
    import numpy as np

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, "LLAMA_FTYPE_MOSTLY_" + kind)
    params.nthread = threads
    if importance:
        entries = (llama_cpp.llama_model_imatrix_data * (len(importance) + 1))()  # the last one ends the list
        for entry, (name, values) in zip(entries, importance.items()):
            entry.name, entry.size = name.encode(), values.size
            entry.data = np.ascontiguousarray(values).ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = entries
    partial = target.with_suffix(".partial")
    if llama_cpp.llama_model_quantize(str(source).encode(), str(partial).encode(), ctypes.byref(params)) != 0:
        raise SystemExit(f"llama.cpp could not quantize {source} to {kind}")
    partial.rename(target)


def shapes(path):
    """Types and shapes of a file's tensors by name."""
    import gguf

    return {tensor.name: (tensor.tensor_type, tensor.shape) for tensor in gguf.GGUFReader(path).tensors}


def sizes(plain, quantized):
    """Bits a weight of the unpadded weights, each tensor at the bits of its type: linear layers, the whole model."""
    import gguf

    linear, all_, used = [0, 0], [0, 0], {}
    for name, (_, shape) in plain.items():
        kind = quantized[name][0]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        count = math.prod(map(int, shape))
        is_linear = name.startswith("blk.") and len(shape) == 2
        for sums in (linear, all_) if is_linear else (all_,):
            sums[0] += count * size / elements
            sums[1] += count
        if is_linear:
            used[kind.name] = used.get(kind.name, 0) + count
    return {
        "bits_linear": 8 * linear[0] / linear[1],
        "bits": 8 * all_[0] / all_[1],
        "size_bytes": round(all_[0]),
        "types": ", ".join(f"{name} {100 * used[name] / linear[1]:.0f}%" for name in sorted(used)),
        "embedding": quantized["token_embd.weight"][0].name,
    }


def importance_of(reference, ids, options):
    """The importance matrix from the last tokens of the text, checked by the last logits of the first window."""
    import numpy as np
    from k_quants_reference import Importance

    kept = reference.with_name(f"importance-{Path(options.text).stem}.npz")
    if kept.exists():
        return dict(np.load(kept))
    importance = Importance(reference)
    model = load(reference, options)
    windows = [ids[i : i + options.seq_len] for i in range(0, len(ids) - options.seq_len + 1, options.seq_len)]
    for window in windows:
        last = importance.add(window)
        if window is windows[0]:
            difference = float(np.abs(last - logits(model, window)[-1]).max())
            if difference > 0.2:
                raise SystemExit(f"the forward pass that weighs columns is {difference} off llama.cpp's logits")
            print(f"importance matrix: logits within {difference:.3f} of llama.cpp's", flush=True)
    means = importance.means()
    np.savez(kept, **means)
    return means


def k_quants(work, plain, padded, ids, options, results):
    """Quantizes and measures what is missing. Yields the rows' names and keys, F16's first."""
    count = options.num_samples * options.seq_len
    if len(ids) < count + IMPORTANCE_TOKENS:
        raise SystemExit(f"{options.text}: {len(ids)} tokens; {count} are scored, {IMPORTANCE_TOKENS} weigh columns")
    windows = [ids[i : i + options.seq_len] for i in range(0, count, options.seq_len)]
    protocol = f"{options.text} {len(windows)} x {options.seq_len}"
    names = ["F16", *options.types] + ([] if options.no_imatrix else [kind + "+imatrix" for kind in options.types])
    keys = {name: f"llama.cpp {name} {protocol}" for name in names}
    files = {name: work / f"{name}.gguf" for name in names}
    for name in names:
        if name.endswith("+imatrix"):
            files[name] = work / f"{name}-{Path(options.text).stem}.gguf"
    missing = [name for name in names if keys[name] not in results]
    importance = None
    for name in missing:
        target = files[name]
        if not target.exists():
            if name.endswith("+imatrix") and importance is None:
                importance = importance_of(padded, ids[-IMPORTANCE_TOKENS:], options)
            kind = name.removesuffix("+imatrix")
            print("quantizing to", name, flush=True)
            quantize(padded, target, kind, importance if kind != name else None, options.threads)
    if missing:
        models = {name: load(files[name], options) for name in dict.fromkeys(["F16", *missing])}
        scores = {name: Score() for name in models}
        for i, window in enumerate(windows):
            # A few tokens at a time: what is computed of them stays in the processor's cache.
            parts = [slice(begin, min(begin + 8, len(window) - 1)) for begin in range(0, len(window) - 1, 8)]
            x = logits(models["F16"], window)
            references = [Reference(x[part]) for part in parts]
            for name, model in models.items():
                x = logits(model, window)
                for part, reference in zip(parts, references):
                    scores[name].add(x[part], reference, window[part.start + 1 : part.stop + 1])
            so_far = ", ".join(f"{name} {score.row()['kl']:.3f}" for name, score in scores.items())
            print(f"window {i + 1} of {len(windows)}: {so_far}", flush=True)
        unpadded = shapes(plain)
        for name in missing:
            results[keys[name]] = scores[name].row() | sizes(unpadded, shapes(files[name]))
    return keys


def our_rows(plain, settings, options, results, sizes_of):
    """Rows of `turboquant evaluate`; one that fails is printed and left out. F16's is called F16."""
    binary = hashlib.sha256(TURBOQUANT.read_bytes()).hexdigest()[:16]
    rows = {}
    for setting in settings:
        try:
            setting = setting.format(**sizes_of)
        except KeyError as missing:
            print(f"no row {setting}: no size of {missing}, which --types leaves out", flush=True)
            continue
        words = setting.split()
        if "--formats" not in words:
            words += ["--formats", "tcq16"]
        output = plain.parent / "ours.json"
        command = [TURBOQUANT, "--quiet", "evaluate", "--hf-path", plain, "--text", options.text, "--json", output]
        command += ["--num-samples", str(options.num_samples), "--seq-len", str(options.seq_len), *words]
        key = f"{binary} " + " ".join(map(str, command[2:]))
        if key not in results:
            print("running turboquant evaluate", setting, flush=True)
            done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            if done.returncode:
                print(f"no row {setting}: {(done.stderr.strip() or 'no message').splitlines()[-1]}", flush=True)
                continue
            results[key] = json.loads(output.read_text())
        baseline, *measured = results[key]
        baseline["config"] = "F16"
        for row in (baseline, *measured):
            same_name = row["config"] in rows and row["config"] != "F16"
            name = f"{row['config']} ({setting})" if same_name else row["config"]
            rows[name] = row | {"bits_linear": row["bits_per_weight_linear"], "bits": row["bits_per_weight"]}
    return rows


def agreement(plain, padded, window, options):
    """Largest and root mean square difference of the logits of both F16 files, each in its own program."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    ids, out = plain.parent / "ids.safetensors", plain.parent / "logits.safetensors"
    save_file({"input_ids": np.array([window], np.int64)}, ids)
    command = [TURBOQUANT, "--quiet", "logits", "--model", plain, "--input", ids, "--output", out, "--exact"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    ours = load_file(out)["logits"][0]
    out.unlink()
    difference = np.abs(ours - logits(load(padded, options), window))
    return {"max": float(difference.max()), "rms": float(np.sqrt(np.square(difference).mean()))}


def table(rows):
    lines = [
        "| | bits, linear layers | bits, whole model | KL divergence | KL, 99% | same top token | perplexity |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in sorted(rows.items(), key=lambda item: item[1]["bits_linear"]):
        kl = f"{row['kl']:.4f} +-{row['kl_se']:.4f}" if row["kl"] > 1e-6 else "0"
        lines.append(
            f"| {name} | {row['bits_linear']:.3f} | {row['bits']:.3f} | {kl} | {row['kl_p99']:.3f} | "
            f"{100 * row['top1']:.2f}% | {row['perplexity']:.2f} +-{row['perplexity_se']:.2f} |"
        )
    return "\n".join(lines)


def verdict(theirs, ours):
    """For each K-quant: the best of ours that is no larger, as a whole and by the bits of its linear layers."""
    lines = [
        "| K-quant | KL | ours, no larger as a whole | KL | ratio | ours, no larger in linear layers | KL | ratio |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in sorted(theirs.items(), key=lambda item: item[1]["bits"]):
        if name == "F16":
            continue
        line = f"| {name} | {row['kl']:.4f} |"
        for bits in ("bits", "bits_linear"):
            fitting = [other for other, mine in ours.items() if other != "F16" and mine[bits] <= row[bits] + 5e-3]
            best = min(fitting, key=lambda other: ours[other]["kl"], default=None)
            kl = ours[best]["kl"] if best else 0
            line += f" {best} | {kl:.4f} | {kl / row['kl']:.2f} |" if best else " none | | |"
        lines.append(line)
    return "\n".join(lines)


def page(theirs, ours, agreed, options):
    versions = ", ".join(package.replace("==", " ") for package in PACKAGES[:2])
    marked = {name if name != "F16" else "F16, turboquant": row for name, row in ours.items()}
    marked |= {"llama.cpp " + name.replace("+imatrix", ", imatrix"): row for name, row in theirs.items()}
    types = "\n".join(
        f"| {name} | {row['size_bytes'] * 1e-6:.1f} MB | {row['types']} | {row['embedding']} |"
        for name, row in theirs.items()
        if name != "F16" and "+imatrix" not in name
    )
    tokens = theirs["F16"]["tokens_scored"]
    runs = " and ".join(f"`{setting}`" for setting in options.ours)
    dither = (
        "the weights as released, on the grid of Q4_1: types of 4 bits and more are flattered"
        if options.no_dither
        else f"""each weight moved by up to half a step of its grid either way
(uniform, seed {options.seed}). The released file is Q4_1: 4-bit types with a scale and an offset would find their own grid in it"""
    )
    return f"""# Beside llama.cpp's K-quants

Written by `bench/k_quants.py`, which makes, quantizes and measures everything on this page.
{options.threads} cores of {processor_name()}; {versions}; commit {commit()}.

The reference is SmolLM2-135M-Instruct as F16, {dither}.
llama.cpp gets the same model padded from a width of 576 to 768, as K-quants need rows of 256 and would fall back to
other types: columns and heads of zeros, norms and epsilon scaled so that the function stays the same. Logits of both
files, each in its own program, differ by at most {agreed['max']:.3f} (root mean square {agreed['rms']:.4f}); both
perplexities are in the table. Bits are those of the unpadded weights, each tensor by its type, scales included.

`{options.text}`, {options.num_samples} windows of {options.seq_len} tokens, {tokens} tokens scored; KL divergence to
the same program's F16, mean and standard error. TCQ16 is ours, int8 activations as llama.cpp's are: `turboquant
evaluate` with {runs}. "imatrix": with an importance matrix from the last {IMPORTANCE_TOKENS} tokens of the same text, which are not
scored. Calibration of ours never sees the text.

{table(marked)}

{"At each size:" if ours else "No row of ours was measured."}

{verdict(theirs, ours) if ours else ""}

Sizes, and the types that llama.cpp chose for the linear layers, by their share of weights, and for embedding and head:

| | size | linear layers | embedding |
| --- | --- | --- | --- |
{types}
"""


def add_points(theirs):
    """Rows of the points that `turboquant evaluate --plot-points` draws, in place of those with the same name."""
    new = {
        f"{name.replace('+imatrix', ' imatrix')}": f"{row['bits_linear']:.2f},{row['kl']:.3g}"
        for name, row in theirs.items()
        if name != "F16"
    }
    lines = [line for line in POINTS.read_text().splitlines() if next(csv.reader([line]))[0] not in new]
    POINTS.write_text("\n".join(lines + [f"{name},{point}" for name, point in new.items()]) + "\n")


def main():
    options = arguments()
    from k_quants_reference import write_reference

    if not TURBOQUANT.exists():
        raise SystemExit(f"{TURBOQUANT} is not built: run ./test first")
    work = Path("build/k_quants") / ("plain" if options.no_dither else f"dither-{options.seed}")
    work.mkdir(parents=True, exist_ok=True)
    results = Results(work / "results.json")
    plain, padded = work / "reference.gguf", work / "F16.gguf"
    if not padded.exists():
        source = subprocess.run(["scripts/fetch_smollm2"], check=True, capture_output=True, text=True).stdout.strip()
        partial = padded.with_suffix(".partial")
        write_reference(source, plain, partial, not options.no_dither, options.seed)
        partial.rename(padded)
    ids = load(padded, options).tokenize(evaluate_text(Path(options.text)).encode(), add_bos=False, special=False)
    keys = k_quants(work, plain, padded, ids, options, results)
    theirs = {name: results[key] for name, key in keys.items()}
    sizes_of = {name: row["size_bytes"] for name, row in theirs.items()}
    ours = our_rows(plain, options.ours, options, results, sizes_of)
    if "agreement" not in results:
        results["agreement"] = agreement(plain, padded, ids[: options.seq_len], options)
    text = page(theirs, ours, results["agreement"], options)
    print(text)
    if options.page:
        options.page.write_text(text)
        add_points(theirs)


if __name__ == "__main__":
    enter_environment(ENVIRONMENT, PACKAGES)
    main()
