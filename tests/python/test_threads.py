"""The GIL is released, models are used by one thread at a time, and Ctrl-C ends native work."""

import subprocess
import sys
import threading
import time

import pytest
from conftest import MICRO, PROMPT

import turboquant


def test_other_threads_run_meanwhile():
    model = turboquant.load(MICRO, threads=1)
    counts = [0]
    ended = threading.Event()

    def count():
        while not ended.is_set():
            counts[0] += 1

    counter = threading.Thread(target=count)
    counter.start()
    before = counts[0]
    model.generate(PROMPT, max_tokens=1000, temperature=0)
    during = counts[0] - before
    ended.set()
    counter.join()
    assert during > 1000


def test_threads_take_turns(model):
    expected = {seed: model.generate(PROMPT, max_tokens=40, temperature=1, seed=seed).tokens for seed in range(4)}
    got = {}

    def generate(seed):
        got[seed] = model.generate(PROMPT, max_tokens=40, temperature=1, seed=seed).tokens

    threads = [threading.Thread(target=generate, args=(seed,)) for seed in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == expected


def test_cancellation_from_another_thread(model):
    cancellation = turboquant.Cancellation()
    threading.Timer(0.1, cancellation.cancel).start()
    result = model.generate(PROMPT, max_tokens=4000, temperature=0, cancellation=cancellation)
    assert cancellation.cancelled and result.finish_reason == "cancelled" and len(result.tokens) < 4000
    with pytest.raises(turboquant.Interrupted):
        model.generate([5] * 2000, cancellation=cancellation)


def test_a_cancelled_prompt_leaves_a_cache_that_goes_on(model):
    cache = model.make_cache()
    cancellation = turboquant.Cancellation()
    threading.Timer(0.05, cancellation.cancel).start()
    tokens = [5 + i % 300 for i in range(4000)]
    with pytest.raises(turboquant.Interrupted):
        while True:
            cache.trim(0)
            model.generate(tokens, max_tokens=1, cache=cache, cancellation=cancellation)
    expected = model.generate(tokens[:100], max_tokens=5, temperature=0).tokens
    assert model.generate(tokens[:100], max_tokens=5, temperature=0, cache=cache).tokens == expected


# Sends itself SIGINT a moment into a call that takes a minute and more, and says how long that took. What a shell runs in
# the background may have begun with SIGINT ignored.
INTERRUPTED = """
import os, signal, threading, time
import turboquant
signal.signal(signal.SIGINT, signal.default_int_handler)
slow = turboquant.KvCacheOptions("3", format="original")
model = turboquant.load({model!r}, threads=1, exact=True, kv=slow)
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
start = time.monotonic()
try:
    {call}
except KeyboardInterrupt:
    print("interrupted", time.monotonic() - start)
else:
    print("finished", time.monotonic() - start)
"""


@pytest.mark.parametrize(
    "call",
    [
        "model.generate([5], max_tokens=4000, temperature=0)",
        "turboquant.evaluate({model!r}, [{text!r}], bits=[2, 3, 4], seq_len=128, threads=1)",
        "list(turboquant.stream(model, [5], max_tokens=4000, temperature=0))",
    ],
)
def test_ctrl_c_ends_native_work(call, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(PROMPT * 4000)
    call = call.format(model=str(MICRO), text=str(text))
    program = INTERRUPTED.format(model=str(MICRO), call=call)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    said, took = done.stdout.split()
    assert said == "interrupted" and float(took) < 15


def test_a_signal_handler_may_go_on():
    program = """
import os, signal, threading
import turboquant
seen = []
signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
model = turboquant.load({model!r}, threads=1)
threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
print(model.generate([5], max_tokens=1000, temperature=0).finish_reason, seen)
"""
    program = program.format(model=str(MICRO))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout == "length [1]\n", done.stderr
