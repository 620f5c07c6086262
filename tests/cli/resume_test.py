#!/usr/bin/env python3
"""Conversions that are killed, interrupted and resumed: what is left is never taken for a model, and what is finished
has the bytes of a conversion in one go. Needs no more than Python's standard library.

    resume_test.py COMMAND DATA_FOLDER [KILLS]
"""

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import complaints, long_job_model, run

# The scalar encoder is the slow one: the moments fall into the conversion, not into the start of the program.
SLOW = {"TURBOQUANT_CPU": "scalar"}


class Conversion:
    def __init__(self, command, model, out):
        self.command, self.out = command, out
        self.partial = out.parent / f".{out.name}.partial"
        self.arguments = [command, "convert", "--hf-path", model, "--mlx-path", out, "--quiet"]

    def run(self, *flags, **options):
        return run([*self.arguments, *flags], self.out.parent, env=SLOW, **options)

    def run_until_killed(self, seconds, *flags):
        """True if it had not finished by then."""
        process = subprocess.Popen(
            [str(a) for a in (*self.arguments, *flags)], env=SLOW, stderr=subprocess.PIPE, start_new_session=True
        )
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return process.returncode == -signal.SIGKILL

    def journal_lines(self):
        path = self.partial / "conversion.journal"
        return path.read_text().count("\n") if path.exists() else 0

    def load(self, folder):
        """Why the folder is not refused with one clear line, if it is not."""
        return complaints(run([self.command, "info", folder], self.out.parent), {1}, folder.name)


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class Tests:
    def __init__(self):
        self.passed = self.failed = 0

    def check(self, name, right, detail=""):
        if right:
            self.passed += 1
        else:
            self.failed += 1
            print(f"FAIL  {name} {detail}")


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    kills = int(sys.argv[3]) if len(sys.argv) == 4 else 20
    tests = Tests()
    numbers = random.Random(4)
    with tempfile.TemporaryDirectory(prefix="turboquant-resume-") as name:
        root, command = Path(name), Path(sys.argv[1]).resolve()
        model = root / "model"
        long_job_model(Path(sys.argv[2]).resolve() / "micro" / "llama", model, layers=3)
        whole = Conversion(command, model, root / "whole")
        start = time.monotonic()
        result = whole.run()
        duration = time.monotonic() - start
        if result.code != 0:
            sys.exit(f"the model could not be converted: {result.stderr}")
        expected = files(whole.out)

        # Killed at random moments, each time from the start. Then one that goes on where the last one was killed.
        conversion = Conversion(command, model, root / "killed")
        killed = 0
        for number in range(kills):
            moment = numbers.uniform(0, duration)
            killed += conversion.run_until_killed(moment)
            if conversion.out.exists():  # it finished first, or was killed between its last act and its end
                tests.check(f"kill {number}: the folder is whole", files(conversion.out) == expected)
                shutil.rmtree(conversion.out)
            elif (conversion.partial / "config.json").exists():  # the last file: only the name was missing
                left = files(conversion.partial)
                left.pop("conversion.journal", None)
                tests.check(f"kill {number}: what loads is whole", left == expected)
            elif conversion.partial.exists():
                tests.check(f"kill {number}: what is left is no model", *not_empty(conversion.load(conversion.partial)))
        tests.check(f"most of {kills} kills hit a running conversion", killed >= kills / 2, f"only {killed} did")
        result = conversion.run("--resume")
        tests.check("resume after a kill", result.code == 0 and files(conversion.out) == expected, result.stderr)

        # Killed again and again, each time going on.
        conversion = Conversion(command, model, root / "again")
        grown, before = 0, 0
        for _ in range(10):
            conversion.run_until_killed(0.4 * duration, "--resume")
            grown += conversion.journal_lines() > before
            before = conversion.journal_lines()
            if conversion.out.exists():
                break
        if conversion.partial.exists():  # as if killed while it wrote a small file
            (conversion.partial / "config.json.1.tmp").write_text("{")
        result = conversion.run("--resume") if not conversion.out.exists() else None
        tests.check("killed repeatedly, resumed", files(conversion.out) == expected, result and result.stderr)
        tests.check("a resumed conversion does not begin anew", grown >= 2, f"the journal grew {grown} times")

        # Calibrated: layers that are written are read back, and the text goes on behind them.
        small, calibrate = Path(sys.argv[2]).resolve() / "micro" / "llama", ("--calibrate", "--calibrate-tokens", "512")
        conversion = Conversion(command, small, root / "calibrated")
        start = time.monotonic()
        result = conversion.run(*calibrate)
        calibrated_duration = time.monotonic() - start
        tests.check("calibrated", result.code == 0, result.stderr)
        calibrated = files(conversion.out)
        conversion = Conversion(command, small, root / "calibrated again")
        went_on = 0
        for number in range(2):
            conversion.run_until_killed((0.6 + 0.2 * number) * calibrated_duration, *calibrate, "--resume")
            went_on += conversion.journal_lines() > 1
            if conversion.out.exists():
                break
        if not conversion.out.exists():
            result = conversion.run(*calibrate, "--resume")
        tests.check("calibrated, killed and resumed", files(conversion.out) == calibrated, result.stderr)
        tests.check("a calibrated conversion goes on", went_on > 0)

        # What may not be mixed: other settings, another source, two at a time.
        conversion = Conversion(command, model, root / "mixed")
        conversion.run_until_killed(0.5 * duration)
        tests.check("there is something to go on with", conversion.journal_lines() > 1)
        result = conversion.run("--resume", "--bits", "2")
        tests.check("resume with other bits", *not_empty(complaints(result, {1}, "other settings")))
        (model / "config.json").touch()
        result = conversion.run("--resume")
        tests.check("resume from a changed source", *not_empty(complaints(result, {1}, "another source")))
        result = conversion.run()
        tests.check("a new conversion replaces it", result.code == 0 and files(conversion.out) == expected, result.stderr)

        # Ctrl-C keeps what is done only if asked to.
        for flags, kept in (((), False), (("--resume",), True)):
            conversion = Conversion(command, model, root / f"interrupted{kept}")
            result = conversion.run(*flags, interrupt_when=lambda: conversion.journal_lines() > 2)
            tests.check(f"Ctrl-C {flags}", *not_empty(complaints(result, {130})))
            tests.check(f"Ctrl-C {flags}: folder kept: {kept}", conversion.partial.exists() == kept)
            tests.check(f"Ctrl-C {flags}: no model", not conversion.out.exists())
        result = conversion.run("--resume")
        tests.check("resume after Ctrl-C", result.code == 0 and files(conversion.out) == expected, result.stderr)

        # A source that is cut while it is read is a line too.
        conversion = Conversion(command, model, root / "cut")
        size = (model / "model.safetensors").stat().st_size

        def cut():
            if conversion.journal_lines() > 1:
                with open(model / "model.safetensors", "r+b") as file:
                    file.truncate(size // 8)
            return False

        result = conversion.run(interrupt_when=cut)
        tests.check("a source that is cut", *not_empty(complaints(result, {1}, "cut")))
        tests.check("a source that is cut: no model", not conversion.out.exists())
    print(f"{tests.passed} passed, {tests.failed} failed")
    sys.exit(1 if tests.failed else 0)


def not_empty(wrong):
    """Arguments of check: right if there is nothing wrong."""
    return not wrong, "; ".join(wrong)


if __name__ == "__main__":
    main()
