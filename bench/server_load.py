#!/usr/bin/env python3
"""`turboquant serve` under load: many clients of OpenAI's own package at once, with requests of mixed lengths.

    bench/server_load.py --model MODEL [--clients 32] [--requests 256] [--parallel 32] [-- SERVER'S OPTIONS]
    bench/server_load.py --model MODEL --faults [--requests 100]

The first form asks each question once alone, then all of them from all clients, and fails unless every greedy answer
is the one that it was alone. It prints tokens a second beside one client's, latencies, and memory. The second form
breaks connections, sends nonsense and stops the server under load; after each of it a good request must be answered
correctly. Exit code 1 if anything was wrong.
"""

import argparse
import concurrent.futures
import json
import random
import socket
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/serve"))

from environment import commit, enter_environment, processor_name  # noqa: E402

PACKAGES = ("openai==3.57.0", "jsonschema==4.26.0")
WORDS = "river stone cloud music seven garden winter letter market silver bridge summer window forest paper train".split()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--command", default=ROOT / "build/release/turboquant", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--alone", type=int, default=24, help="requests of the single client that speed is compared with")
    parser.add_argument("--parallel", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", action="store_true")
    parser.add_argument("options", nargs="*", help="the server's, behind --")
    return parser.parse_args()


def make_requests(count, seed):
    """Prompts of 5 to 300 words, some with a common beginning; answers of 8 to 96 tokens."""
    source = random.Random(seed)
    common = " ".join(source.choices(WORDS, k=80))
    requests = []
    for number in range(count):
        words = " ".join(source.choices(WORDS, k=int(5 * 60 ** source.random())))
        prompt = f"{common} {words}" if source.random() < 0.3 else words
        tokens = int(8 * 12 ** source.random())
        requests.append({"prompt": f"{number}. {prompt}", "max_tokens": tokens, "stream": number % 2 == 0})
    return requests


def ask(client, request):
    """Text, tokens, seconds to the first piece (of a stream), seconds between the others."""
    start = last = time.monotonic()
    options = {"model": "default_model", "temperature": 0, **request}
    if not request["stream"]:
        answer = client.completions.create(**options)
        return answer.choices[0].text, answer.usage.completion_tokens, None, []
    text, tokens, first, gaps = "", 0, None, []
    for chunk in client.completions.create(stream_options={"include_usage": True}, **options):
        now = time.monotonic()
        if chunk.usage:
            tokens = chunk.usage.completion_tokens
        if not chunk.choices or not chunk.choices[0].text:
            continue
        text += chunk.choices[0].text
        if first is None:
            first = now - start
        else:
            gaps.append(now - last)
        last = now
    return text, tokens, first, gaps


def percentiles(values):
    ordered = sorted(values)
    if not ordered:
        return "-"
    return " / ".join(f"{1e3 * ordered[min(int(len(ordered) * p), len(ordered) - 1)]:.0f}" for p in (0.5, 0.95, 0.99))


def load(options, server, client):
    requests = make_requests(options.requests, options.seed)
    alone = [dict(request) for request in requests]
    start, tokens, expected = time.monotonic(), 0, []
    single = None
    for number, request in enumerate(alone):
        text, count, _, _ = ask(client, request)
        expected.append(text)
        tokens += count
        if number + 1 == min(options.alone, len(alone)):
            single = tokens / (time.monotonic() - start)
    server_memory = []
    start, tokens, firsts, gaps, wrong, done = time.monotonic(), 0, [], [], 0, 0
    with concurrent.futures.ThreadPoolExecutor(options.clients) as pool:
        for text, (answer, count, first, between) in zip(expected, pool.map(lambda r: ask(client, r), requests)):
            done += 1
            tokens += count
            wrong += answer != text
            firsts += [first] if first is not None else []
            gaps += between
            if done in (min(100, len(requests)), len(requests)):
                server_memory.append(server.memory_bytes())
    speed = tokens / (time.monotonic() - start)
    print(f"{processor_name()}, commit {commit()}, {Path(options.model).name}")
    print(f"{len(requests)} requests of {options.clients} clients, {options.parallel} at once: {wrong} answers differ")
    print(f"tokens a second      {speed:.1f}; one client alone {single:.1f}: {speed / single:.2f} times")
    print(f"first token, ms      {percentiles(firsts)}   (p50 / p95 / p99)")
    print(f"between tokens, ms   {percentiles(gaps)}")
    print(f"memory, MB           {server_memory[0] / 1e6:.0f} after 100 requests, {server_memory[-1] / 1e6:.0f} at the end")
    return wrong == 0


def bytes_of(body, *headers, path="/v1/completions"):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(data)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + data


def send(server, data, pause=0.0, close=socket.SHUT_RDWR, wait=0.0):
    """Sends, in two halves with a pause between, and goes after `wait` seconds."""
    try:
        with server.connect(30) as connection:
            connection.sendall(data[: len(data) // 2])
            time.sleep(pause)
            connection.sendall(data[len(data) // 2 :])
            if close == socket.SHUT_WR:
                connection.shutdown(close)
            connection.settimeout(wait or 0.01)
            while connection.recv(65536):
                pass
    except OSError:
        pass


def faults(options, server, client, start_server):
    source = random.Random(options.seed)
    question = {"prompt": "The river and the bridge", "max_tokens": 24, "stream": False}
    expected = ask(client, question)[0]
    long_body = {"prompt": "river " * 400, "max_tokens": 400, "temperature": 0}
    kinds = {
        "a stream's client goes": lambda: send(server, bytes_of({**long_body, "stream": True}), wait=source.random()),
        "a client goes": lambda: send(server, bytes_of(long_body), wait=source.random()),
        "half a request": lambda: send(server, bytes_of(long_body)[:-10], wait=0.1),
        "a half-closed connection": lambda: send(server, bytes_of(long_body), close=socket.SHUT_WR, wait=0.2),
        "a slow sender": lambda: send(server, bytes_of(long_body)[:-1], pause=0.5, wait=3),
        "JSON that is none": lambda: send(server, bytes_of(b'{"prompt": "a", '), wait=1),
        "wrong types": lambda: send(server, bytes_of({"prompt": {"a": []}, "max_tokens": "x"}), wait=1),
        "huge numbers": lambda: send(server, bytes_of(b'{"prompt": "a", "max_tokens": 1e400, "seed": 1' + b"0" * 400 + b"}"), wait=1),
        "deep nesting": lambda: send(server, bytes_of(b'{"prompt": ' + b"[" * 10**6 + b"}"), wait=1),
        "invalid UTF-8": lambda: send(server, bytes_of(b'{"prompt": "\xff\xc0\x80"}'), wait=1),
        "an oversized body": lambda: send(server, bytes_of(b" " * (20 << 20)), wait=1),
        "no HTTP": lambda: send(server, source.randbytes(2000), wait=0.2),
    }
    good = True

    def check(what):
        nonlocal good
        answer = ask(client, question)[0]
        if answer != expected:
            print(f"FAIL  after {what}: {answer!r} instead of {expected!r}")
            good = False

    for number in range(options.requests):
        kind = list(kinds)[number % len(kinds)]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _, k=kind: kinds[k](), range(source.randint(1, 4))))
        check(kind)
    deadline = time.monotonic() + 10
    while server.metric("requests_running") + server.metric("requests_waiting") > 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    if server.metric("requests_running") > 0:
        print("FAIL  requests of clients that have gone still run")
        good = False
    for _ in range(3):
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            jobs = [pool.submit(send, server, bytes_of({**long_body, "stream": True}), wait=60) for _ in range(16)]
            time.sleep(source.random())
            code = server.stop(120)
            concurrent.futures.wait(jobs)
        if code != 0:
            print(f"FAIL  exit code {code} after SIGTERM under load")
            good = False
        server, client = start_server()
        check("SIGTERM under load")
    print(f"{options.requests} faults of {len(kinds)} kinds and 3 ends under load: {'all well' if good else 'FAILED'}")
    return good, server


def main():
    options = arguments()
    enter_environment(ROOT / "build/openai-env", PACKAGES)
    import openai
    from server_process import ServerProcess

    extra = ["--timeout", "2", "--shutdown-timeout", "60"] if options.faults else []

    def start_server():
        server = ServerProcess(
            options.command, options.model, "--parallel", options.parallel, *extra, *options.options, threads=None
        )
        return server, openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=600)

    server, client = start_server()
    try:
        if options.faults:
            good, server = faults(options, server, client, start_server)
        else:
            good = load(options, server, client)
    finally:
        server.stop(120)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
