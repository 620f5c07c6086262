"""Runs cases of bad input, each in a folder of its own, and counts."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Callable

from harness import MEMORY_LIMIT_BYTES, complaints, long_job_model, peak_memory_of_children, run, snapshot


@dataclasses.dataclass
class Case:
    """A command and how it must fail. In `command`, {w} is the case's folder, {hf} a copy of the micro model in it with
    the edits, {out} a path where nothing is before and nothing may be after."""

    name: str
    command: str
    code: int
    says: str | None  # a regular expression that the error must match
    edits: tuple[Callable, ...] = ()
    base: str = "source"  # or "converted": {hf} is the micro model converted to 3 bits
    env: dict | None = None
    file_limit: int | None = None
    not_as_root: bool = False


class Tester:
    def __init__(self, command, data, root):
        self.command, self.root = Path(command).resolve(), Path(root)
        self.micro = Path(data).resolve() / "micro" / "llama"
        self.converted = self.root / "converted"
        self.passed = self.failed = self.skipped = 0
        self.memory = 0

    def report(self, name, wrong, result=None):
        memory = peak_memory_of_children()
        if memory > MEMORY_LIMIT_BYTES and memory > self.memory:
            wrong = [*wrong, f"took {memory >> 20} MiB of memory"]
        self.memory = memory
        if not wrong:
            self.passed += 1
            return
        self.failed += 1
        print(f"FAIL  {name}: {'; '.join(wrong)}")
        if result is not None:
            for line in result.stderr.splitlines()[-12:]:
                print(f"      | {line[:300]}")

    def workspace(self, case_or_base, edits=()):
        """A folder of its own for each case: {hf}, {w}/empty, {w}/taken/file, {w}/locked."""
        w = Path(tempfile.mkdtemp(dir=self.root))
        shutil.copytree(
            self.converted if case_or_base == "converted" else self.micro, w / "hf", copy_function=shutil.copyfile
        )
        for folder in ("empty", "taken", "locked", "tmp"):
            (w / folder).mkdir()
        (w / "taken" / "file").write_text("mine")
        for edit in edits:
            edit(w / "hf")
        (w / "locked").chmod(0o555)
        return w

    def arguments(self, command, w):
        """Words of a command; the bar in "--prompt|Hello there" stands before one argument up to the next " --"."""
        words = []
        for part in command.split(" --"):
            part = part if not words else "--" + part
            if "|" in part:
                option, value = part.split("|", 1)
                words += [option, value]
            else:
                words += part.split()
        return [self.command] + [
            word.replace("{hf}", str(w / "hf")).replace("{out}", str(w / "out")).replace("{w}", str(w))
            for word in words
        ]

    def run_case(self, c):
        if c.not_as_root and os.geteuid() == 0:
            self.skipped += 1
            print(f"skip  {c.name}: root may read and write everything")
            return
        w = self.workspace(c.base, c.edits)
        before = snapshot(w)
        result = run(self.arguments(c.command, w), w, c.env, c.file_limit)
        wrong = complaints(result, (c.code,), c.says)
        after = snapshot(w)
        if after != before:
            changed = sorted(k for k in {*before, *after} if before.get(k, 0) != after.get(k, 0))
            wrong.append(f"left or changed {', '.join(changed[:5])}")
        self.report(c.name, wrong, result)
        shutil.rmtree(w)

    def control(self, name, command, *edits, makes=None, keep_as=None):
        """The same command on good input must succeed, or failing on bad input would show nothing."""
        w = self.workspace("source", edits)
        result = run(self.arguments(command, w), w)
        wrong = [] if result.code == 0 else [f"exit code {result.code} on good input"]
        if "error: " in result.stderr:
            wrong.append("an error on good input")
        if makes is not None and not (w / makes).exists():
            wrong.append(f"made no {makes}")
        if any((w / "tmp").iterdir()):
            wrong.append("left temporary files")
        self.report(name, wrong, result)
        if keep_as is not None and not wrong:
            (w / "out").rename(keep_as)
        shutil.rmtree(w)

    def fuzz(self, name, count, command, edit_for):
        """`count` damaged files: each is either converted or refused with one clear line."""
        numbers = random.Random(name)
        for i in range(count):
            w = self.workspace("source", (edit_for(numbers),))
            result = run(self.arguments(command, w), w)
            if result.code == 0:
                wrong = [] if (w / "out").exists() else ["no output, but exit code 0"]
            else:
                wrong = complaints(result, (1,)) + (["left an output"] if (w / "out").exists() else [])
            self.report(f"{name} {i}", wrong, result)
            shutil.rmtree(w)

    def ctrl_c(self, name, command, env=None, sign=None):
        """Ctrl-C in the middle of a long job: exit 130 within 10 s, nothing left. `sign`: a path pattern; what appears
        there shows that the job is under way; else half a second must do. If the job ends too early it is made longer.
        """
        for layers in (8, 32, 128):
            w = Path(tempfile.mkdtemp(dir=self.root))
            (w / "tmp").mkdir()
            long_job_model(self.micro, w / "hf", layers)
            (w / "hf" / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 12_000)
            before = snapshot(w)
            start = time.monotonic()

            def under_way():
                waited = time.monotonic() - start
                new = sign is not None and any(p.relative_to(w).parts[0] not in ("hf", "tmp") for p in w.glob(sign))
                return waited > (1.5 if sign else 0.5) or (new and waited > 0.1)

            result = run(self.arguments(command, w), w, env, interrupt_when=under_way)
            after = snapshot(w)
            shutil.rmtree(w)
            if result.stopped_by_us and result.code != 0:
                break
        wrong = (
            complaints(result, (130,), "interrupt")
            if result.stopped_by_us
            else ["ended before it could be interrupted"]
        )
        if after != before:
            wrong.append(f"left {', '.join(sorted({*after} - {*before})[:5])}")
        if result.seconds_after_interrupt > 10:
            wrong.append(f"took {result.seconds_after_interrupt:.1f} s to stop")
        self.report(name, wrong, result)
