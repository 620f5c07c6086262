#!/usr/bin/env python3
"""Guards the speed of kernels where clocks are noisy: counts the instructions of every case of bench/kernel_counts.cpp
under callgrind and compares them with bench/instruction_counts.json.

    bench/instruction_counts.py             exit status 1 if a case takes more than the tolerance over what is recorded
    bench/instruction_counts.py --record    writes the counts of this build, after a change that is meant
    bench/instruction_counts.py --cases tile_dot/3bit/cache/avx2 quantize/avx2

Counts repeat to the instruction, but are those of one compiler: with another one, or on another architecture, there is
nothing to compare and the script says so. valgrind knows no AVX-512; what is counted there is AVX2 and scalar code.
Build first: cmake --preset release -DTURBOQUANT_BUILD_BENCHMARKS=ON; cmake --build --preset release --target
kernel_counts.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

RECORD = Path(__file__).with_name("instruction_counts.json")
TOLERANCE = 0.02


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.name} anew")
    parser.add_argument("--cases", nargs="+", default=[], help="only these")
    parser.add_argument("--program", type=Path, default=Path("build/release/bench/kernel_counts"))
    options = parser.parse_args()
    if options.record and options.cases:
        parser.error("--record writes all cases: leave --cases out")
    return options


def build_of(program):
    """What counts depend on, as the program says it: compiler with its major version, architecture."""
    done = subprocess.run([program, "--build"], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr.strip() or f"error: {program} --build failed")
    compiler, architecture = done.stdout.splitlines()
    name, version = compiler.split()[:2]
    return {"compiler": f"{name} {version.split('.')[0]}", "architecture": architecture}


def count(program, cases):
    """Instructions of each case, by name: callgrind collects inside counted_run() and writes a file after each."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", "--toggle-collect=counted_run", "--dump-after=counted_run"]
        command += [f"--callgrind-out-file={folder}/counts", program.resolve(), *cases]
        # What the linker would look up at a kernel's first call is none of the kernel's work.
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"LD_BIND_NOW": "1"})
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if not line.startswith("==")] or done.stderr.splitlines()
            raise SystemExit("\n".join(said[:10]) or f"error: {program} failed under valgrind")
        names = done.stdout.split()
        counts = {}
        for number, name in enumerate(names, 1):
            dump = Path(folder) / f"counts.{number}"
            total = re.search(r"^totals: (\d+)$", dump.read_text(), re.MULTILINE) if dump.exists() else None
            if total is None:
                raise SystemExit(f"error: callgrind counted nothing for {name}: is the program stripped?")
            counts[name] = int(total[1])
        if (Path(folder) / f"counts.{len(names) + 1}").exists():
            raise SystemExit("error: callgrind counted more runs than there are cases")
        return counts


def level(name):
    return name.rsplit("/", 1)[-1]


def compare(recorded, counted, tolerance):
    """Two lists of lines: what is wrong, and what is worth knowing."""
    wrong, notes = [], []
    for name, now in counted.items():
        if name not in recorded:
            wrong.append(f"{name}: {now} instructions, none recorded")
            continue
        ratio = now / recorded[name]
        change = f"{name}: {now} instructions, recorded are {recorded[name]} ({100 * (ratio - 1):+.1f}%)"
        if ratio > 1 + tolerance:
            wrong.append(change)
        elif ratio < 1 - tolerance:
            notes.append(change + ": record it")
    here = {level(name) for name in counted}
    for missing in sorted({level(name) for name in recorded} - here):
        notes.append(f"no counts of {missing}: this processor lacks it")
    gone = [name for name in recorded if name not in counted and level(name) in here]
    wrong += [f"{name}: recorded, but no case any more" for name in gone]
    return wrong, notes


def main():
    options = arguments()
    if not options.program.exists():
        raise SystemExit(f"error: {options.program} is not built: --help says how")
    build = build_of(options.program)
    recorded = json.loads(RECORD.read_text()) if RECORD.exists() else None
    if not options.record:
        if recorded is None:
            raise SystemExit(f"error: no {RECORD.name}: --record writes it")
        for key, here in build.items():
            if here != recorded[key]:
                print(f"instruction counts: skipped, recorded with {recorded[key]}, and this is {here}")
                return 0
    if shutil.which("valgrind") is None:
        raise SystemExit("error: valgrind is missing: scripts/install_dependencies --benchmarks")
    counts = count(options.program, options.cases)
    if options.record:
        version = subprocess.run(["valgrind", "--version"], capture_output=True, text=True).stdout.strip()
        record = {"tolerance": TOLERANCE, **build, "valgrind": version, "counts": counts}
        RECORD.write_text(json.dumps(record, indent=1) + "\n")
        print(f"instruction counts: {len(counts)} recorded in {RECORD.name}")
        return 0
    wanted = options.cases or recorded["counts"]
    expected = {name: value for name, value in recorded["counts"].items() if name in wanted}
    wrong, notes = compare(expected, counts, recorded["tolerance"])
    for line in notes:
        print("note: " + line)
    for line in wrong:
        print("error: " + line, file=sys.stderr)
    print(
        f"instruction counts: {len(counts)} kernels at {', '.join(dict.fromkeys(map(level, counts)))}, "
        f"{len(wrong)} out of bounds ({100 * recorded['tolerance']:g}% over {RECORD.name}, {build['compiler']})"
    )
    if wrong:
        print("if that is meant: bench/instruction_counts.py --record, and commit it with the change")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
