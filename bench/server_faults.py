#!/usr/bin/env python3
"""`turboquant serve` under fire: clients that go, requests that are none, ends under load, a full disk.

    bench/server_faults.py --model MODEL [--requests 200] [-- SERVER'S OPTIONS]

As many clients go as --requests says, at random moments, and 2.5 times as many requests are wrong. Every wrong request
must get its status, and after each handful of faults a good one must be answered correctly. Exit code 1 otherwise.
"""

import concurrent.futures
import itertools
import json
import random
import socket
import sys
import tempfile
import time
from pathlib import Path

from server_client import ask, begin, make_parser, running_server

QUESTION = {"prompt": "The river and the bridge", "max_tokens": 24, "stream": False}
LONG = {"prompt": "river " * 400, "max_tokens": 400, "temperature": 0}
AT_ONCE = 8


def bytes_of(body, *headers, path="/v1/completions"):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(data)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + data


def send(server, data, pause=0.0, half_close=False, wait=30.0):
    """Sends, in two halves with a pause between, and goes after `wait` seconds. The status of the answer; 0: none."""
    answer = b""
    try:
        with server.connect(30) as connection:
            connection.sendall(data[: len(data) // 2])
            time.sleep(pause)
            connection.sendall(data[len(data) // 2 :])
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            deadline = time.monotonic() + wait
            while b"\r\n" not in answer and (left := deadline - time.monotonic()) > 0:
                connection.settimeout(left)
                if not (got := connection.recv(65536)):
                    break
                answer += got
    except OSError:
        pass
    return int(answer.split()[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def wrong_requests(source):
    """Of each kind: what is sent and how, and the statuses that may answer it (0: the connection is closed)."""
    whole = bytes_of(LONG)
    return {
        "half a request": (lambda server: send(server, whole[:-10]), {408}),
        "half a request and no more": (lambda server: send(server, whole[:-10], half_close=True), {0, 400, 408}),
        "a half-closed connection": (lambda server: send(server, whole, half_close=True), {0, 499}),
        "a slow sender": (lambda server: send(server, whole[:-1], pause=1), {408}),
        "JSON that is none": (lambda server: send(server, bytes_of(b'{"prompt": "a", ')), {400}),
        "wrong types": (lambda server: send(server, bytes_of({"prompt": {"a": []}, "max_tokens": "x"})), {400}),
        "huge numbers": (lambda server: send(server, bytes_of(b'{"prompt": "a", "max_tokens": 1e400}')), {400}),
        "long numbers": (lambda server: send(server, bytes_of(b'{"prompt": "a", "seed": 1' + b"0" * 400 + b"}")), {400}),
        "deep nesting": (lambda server: send(server, bytes_of(b'{"prompt": ' + b"[" * 10**6 + b"}")), {400}),
        "invalid UTF-8": (lambda server: send(server, bytes_of(b'{"prompt": "\xff\xc0\x80"}')), {400}),
        "an oversized body": (lambda server: send(server, bytes_of(b" " * (20 << 20))), {413}),
        "no HTTP": (lambda server: send(server, source.randbytes(2000) + b"\r\n\r\n"), {0, 400}),
    }


class Trial:
    def __init__(self, options):
        self.options = options
        self.source = random.Random(options.seed)
        self.wrong = 0
        with self.server() as (_, client):
            self.expected = ask(client, QUESTION)[0]

    def server(self, *more, **process):
        return running_server(self.options, "--timeout", 2, "--shutdown-timeout", 60, *more, **process)

    def check(self, good, what):
        if not good:
            print(f"FAIL  {what}")
            self.wrong += 1

    def check_answer(self, client, what):
        answer = ask(client, QUESTION)[0]
        self.check(answer == self.expected, f"after {what}: {answer!r} instead of {self.expected!r}")

    def clients_that_go(self, server, client):
        def go(number):
            send(server, bytes_of({**LONG, "stream": number % 2 == 0}), wait=self.source.random())

        for begin_of in range(0, self.options.requests, AT_ONCE):
            numbers = range(begin_of, min(begin_of + AT_ONCE, self.options.requests))
            with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(go, numbers))
            self.check_answer(client, "clients that went")
        deadline = time.monotonic() + 10
        while server.metric("requests_running") + server.metric("requests_waiting") > 0 and time.monotonic() < deadline:
            time.sleep(0.05)
        self.check(server.metric("requests_running") == 0, "requests of clients that have gone still run")

    def wrong_requests(self, server, client):
        kinds = itertools.cycle(wrong_requests(self.source).items())
        count = self.options.requests * 5 // 2
        for begin_of in range(0, count, AT_ONCE):
            some = list(itertools.islice(kinds, min(AT_ONCE, count - begin_of)))
            with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
                answers = list(pool.map(lambda kind: kind[1][0](server), some))
            for (name, (_, may)), status in zip(some, answers):
                self.check(status in may, f"{name}: status {status}, not one of {sorted(may)}")
            self.check_answer(client, ", ".join(name for name, _ in some))

    def ends_under_load(self):
        for _ in range(3):
            with self.server() as (server, client):
                self.check_answer(client, "SIGTERM under load")
                with concurrent.futures.ThreadPoolExecutor(16) as pool:
                    jobs = [pool.submit(send, server, bytes_of({**LONG, "stream": True}), wait=60) for _ in range(16)]
                    time.sleep(self.source.random())
                    self.check(server.stop(120) == 0, "the exit code after SIGTERM under load")
                    concurrent.futures.wait(jobs)

    def full_disk(self):
        """No file of the server's may have more than 64 KiB: a write fails as on a full disk."""
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder) / "prompts"
            with self.server("--prompt-cache-dir", cache, file_bytes=65536) as (server, client):
                ask(client, {**QUESTION, "prompt": LONG["prompt"]})
                self.check_answer(client, "a long prompt")
                self.check(server.stop(120) == 0, "the exit code after a full disk")
                self.check(any("prompt cache" in line for line in server.log), "the log says nothing of a full disk")
            whole = all(file.suffix == ".kvcache" for file in cache.iterdir())
            self.check(whole, "files under temporary names are left after a full disk")
            with self.server("--prompt-cache-dir", cache) as (server, client):
                self.check_answer(client, "a full disk")
                self.check(not any("prompt cache" in line for line in server.log), "a file that a full disk left is damaged")


def main():
    options = begin(make_parser(__doc__.splitlines()[0]))
    trial = Trial(options)
    with trial.server() as (server, client):
        trial.clients_that_go(server, client)
        trial.wrong_requests(server, client)
    trial.ends_under_load()
    trial.full_disk()
    kinds = len(wrong_requests(trial.source))
    print(f"{options.requests} clients that went, {options.requests * 5 // 2} wrong requests of {kinds} kinds, 3 ends under "
          f"load, a full disk: {'all well' if trial.wrong == 0 else f'{trial.wrong} FAILED'}")
    sys.exit(0 if trial.wrong == 0 else 1)


if __name__ == "__main__":
    main()
