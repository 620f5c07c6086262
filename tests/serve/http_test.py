#!/usr/bin/env python3
"""The server's HTTP, without any client library: limits, errors, strange and hostile requests, its end.

    http_test.py PATH_OF_TURBOQUANT PATH_OF_TESTS_DATA [unittest's arguments]
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

from server_process import ServerProcess

COMMAND, DATA = (Path(argument).resolve() for argument in sys.argv[1:3])
MODEL = DATA / "micro" / "llama"
GOOD = {"prompt": "The sky is", "max_tokens": 8, "temperature": 0}
KEY = "k-3141592653"


def raw(server, data, timeout=20, half_close=False):
    """What the server answers to these bytes, to its end."""
    with server.connect(timeout) as connection:
        connection.sendall(data)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


def post(path, body, *headers):
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class HttpTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        cls.server = ServerProcess(
            COMMAND, MODEL, "--timeout", "1", "--max-body", "200000", "--max-connections", "64", folder=cls.folder.name
        )
        cls.addClassCleanup(cls.server.stop)
        cls.good_answer = cls.server.request("POST", "/v1/completions", GOOD)[2]["choices"][0]["text"]

    def tearDown(self):
        status, _, body = self.server.request("POST", "/v1/completions", GOOD)
        self.assertEqual(status, 200, "the next good request")
        self.assertEqual(body["choices"][0]["text"], self.good_answer)

    def check_error(self, answer, status, param=None):
        self.assertEqual(answer[0], status, answer)
        self.assertEqual(set(answer[2]["error"]), {"message", "type", "param", "code"})
        if param is not None:
            self.assertEqual(answer[2]["error"]["param"], param)

    def test_health_and_models(self):
        self.assertEqual(self.server.request("GET", "/health")[2], {"status": "ok"})
        models = self.server.request("GET", "/v1/models")[2]["data"]
        self.assertEqual([model["id"] for model in models], ["llama"])
        self.assertEqual(self.server.request("GET", "/v1/models/llama")[2]["id"], "llama")
        self.check_error(self.server.request("GET", "/v1/models/gpt"), 404, "model")

    def test_paths_and_methods(self):
        self.check_error(self.server.request("GET", "/nothing"), 404)
        answer = self.server.request("GET", "/v1/completions")
        self.check_error(answer, 405)
        self.assertEqual(answer[1]["allow"], "POST")
        self.check_error(self.server.request("DELETE", "/v1/models"), 405)

    def test_tokenize_and_back(self):
        text = "Why is the sky blue? Ä €"
        tokens = self.server.request("POST", "/tokenize", {"content": text})[2]["tokens"]
        self.assertEqual(self.server.request("POST", "/detokenize", {"tokens": tokens})[2]["content"], text)
        pieces = self.server.request("POST", "/tokenize", {"content": "ab", "with_pieces": True})[2]["tokens"]
        self.assertEqual("".join(piece["piece"] for piece in pieces), "ab")
        self.check_error(self.server.request("POST", "/detokenize", {"tokens": [10**12]}), 400, "tokens")

    def test_wrong_bodies(self):
        path = "/v1/chat/completions"
        deep = b'{"messages": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"
        for body in (b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"messages": "\xc3("}', b'{"a": 1e999}', deep, b"\0" * 100):
            with self.subTest(body=body[:30]):
                self.check_error(self.server.request("POST", path, body), 400)
        for members, param in (
            ({"messages": 5}, "messages"),
            ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
            ({"messages": [{"role": "user", "content": "x"}], "max_tokens": 10**30}, "max_tokens"),
            ({"messages": [{"role": "user", "content": "x"}], "temperature": "1"}, "temperature"),
        ):
            with self.subTest(param=param):
                self.check_error(self.server.request("POST", path, members), 400, param)

    def test_a_prompt_longer_than_the_context(self):
        answer = self.server.request("POST", "/v1/completions", {**GOOD, "prompt": "sky " * 6000})
        self.check_error(answer, 400)
        self.assertEqual(answer[2]["error"]["code"], "context_length_exceeded")

    def test_types_and_encodings(self):
        for headers in (
            {"Content-Type": "text/plain"},
            {"Content-Type": "application/x-www-form-urlencoded"},
            {"Content-Type": "multipart/form-data; boundary=x"},
            {"Content-Encoding": "gzip"},
        ):
            with self.subTest(headers=headers):
                self.check_error(self.server.request("POST", "/v1/completions", GOOD, headers), 415)

    def test_large_bodies(self):
        large = json.dumps({**GOOD, "prompt": "x" * 300_000}).encode()
        self.check_error(self.server.request("POST", "/v1/completions", large), 413)
        # Longer than it says it is, and a length that is none.
        self.assertIn(b" 413 ", raw(self.server, b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\n"
                                                 b"Content-Length: 99999999999999\r\n\r\n{}"))
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        head = b"POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.assertIn(b" 413 ", raw(self.server, head + chunk * 5))

    def test_a_chunked_body(self):
        body = json.dumps(GOOD).encode()
        frames = b"".join(b"%x\r\n%s\r\n" % (len(body[i : i + 7]), body[i : i + 7]) for i in range(0, len(body), 7))
        head = (b"POST /v1/completions HTTP/1.1\r\nConnection: close\r\nContent-Type: application/json\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n")
        self.assertIn(b" 200 ", raw(self.server, head + frames + b"0\r\n\r\n"))

    def test_what_is_not_http(self):
        for data in (b"\r\n\r\n", b"hello\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01" + b"\0" * 200 + b"\r\n\r\n",
                     b"GET /health HTTP/9.9\r\n\r\n"):
            with self.subTest(data=data[:20]):
                self.assertNotIn(b" 200 ", raw(self.server, data))

    def test_long_headers(self):
        raw(self.server, b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n")
        self.assertIn(b" 431 ", raw(self.server, b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n"))

    def test_slow_senders(self):
        data = post("/v1/completions", json.dumps(GOOD).encode())
        for step in (3, len(data) - 1):
            start = time.monotonic()
            with self.server.connect() as connection:
                try:
                    for i in range(0, step, 3):
                        connection.sendall(data[i : i + 3] if step == 3 else data[:step])
                        if step != 3:
                            break
                    while connection.recv(65536):
                        pass
                except OSError:
                    pass
            self.assertLess(time.monotonic() - start, 8)

    def test_a_client_that_sends_no_more_is_gone(self):
        raw(self.server, post("/v1/completions", json.dumps({**GOOD, "max_tokens": 4000}).encode()), half_close=True)
        self.check_idle()

    def check_idle(self):
        deadline = time.monotonic() + 10
        while self.server.metric("requests_running") + self.server.metric("requests_waiting") > 0:
            self.assertLess(time.monotonic(), deadline, "a request of a client that has gone still runs")
            time.sleep(0.02)

    def test_clients_that_go(self):
        for stream in (False, True):
            for pause in (0, 0.05, 0.3):
                with self.subTest(stream=stream, pause=pause):
                    body = {**GOOD, "max_tokens": 4000, "stream": stream, "prompt": "sky " * 500}
                    connection = self.server.connect()
                    connection.sendall(post("/v1/completions", json.dumps(body).encode()))
                    time.sleep(pause)
                    connection.close()
                    self.check_idle()

    def test_two_requests_on_a_connection(self):
        request = post("/v1/completions", json.dumps(GOOD).encode())
        last = post("/v1/completions", json.dumps(GOOD).encode(), "Connection: close")
        self.assertEqual(raw(self.server, request + last).count(b"HTTP/1.1 200 OK"), 2)

    def test_connections_above_the_limit(self):
        connections = [self.server.connect() for _ in range(64)]
        try:
            time.sleep(0.3)
            answer = raw(self.server, b"GET /health HTTP/1.1\r\n\r\n")
            self.assertIn(b" 503 ", answer)
            self.assertIn(b"Retry-After", answer)
        finally:
            for connection in connections:
                connection.close()
        time.sleep(0.3)

    def test_the_log_has_no_prompts(self):
        self.server.request("POST", "/v1/completions", {**GOOD, "prompt": "xyzzy"})
        self.server.request("POST", "/v1/completions", b'{"xyzzy": ')
        time.sleep(0.1)
        self.assertTrue(any("/v1/completions 200" in line for line in self.server.log))
        self.assertFalse(any("xyzzy" in line for line in self.server.log))


class KeyTest(unittest.TestCase):
    def test_keys_and_origins(self):
        with tempfile.TemporaryDirectory() as folder:
            keys = Path(folder) / "keys"
            keys.write_text(f"other\n{KEY}\n")
            server = ServerProcess(COMMAND, MODEL, "--api-key-file", keys, "--cors", "https://example.com", folder=folder)
            try:
                self.assertEqual(server.request("GET", "/health")[0], 200)
                for header in ({}, {"Authorization": "Bearer k"}, {"Authorization": f"Bearer {KEY}x"}):
                    answer = server.request("POST", "/v1/completions", GOOD, header)
                    self.assertEqual(answer[0], 401)
                    self.assertEqual(answer[2]["error"]["code"], "invalid_api_key")
                self.assertEqual(server.request("GET", "/metrics")[0], 401)
                header = {"Authorization": f"Bearer {KEY}", "Origin": "https://example.com"}
                status, fields, _ = server.request("POST", "/v1/completions", GOOD, header)
                self.assertEqual(status, 200)
                self.assertEqual(fields["access-control-allow-origin"], "https://example.com")
                asked = {"Origin": "https://example.com", "Access-Control-Request-Method": "POST"}
                self.assertEqual(server.request("OPTIONS", "/v1/completions", None, asked)[0], 204)
                other = server.request("GET", "/health", None, {"Origin": "https://example.org"})
                self.assertNotIn("access-control-allow-origin", other[1])
            finally:
                server.stop()
            self.assertFalse(any(KEY in line for line in server.log))


class EndTest(unittest.TestCase):
    def stop_under_load(self, seconds, tokens):
        server = ServerProcess(COMMAND, MODEL, "--shutdown-timeout", seconds)
        answers = []

        def ask():
            body = {**GOOD, "max_tokens": tokens, "stream": True, "logit_bias": {"0": -100}}
            status, _, content = server.request("POST", "/v1/completions", body)
            answers.append((status, content))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        while server.metric("requests_running") == 0 and any(thread.is_alive() for thread in threads):
            time.sleep(0.005)
        code = server.stop()
        for thread in threads:
            thread.join()
        self.assertEqual(code, 0)
        self.assertFalse([line for line in server.log if "terminate" in line])
        self.assertRaises(OSError, server.connect, 1)
        return answers

    def test_running_requests_may_end(self):
        for status, content in self.stop_under_load(100, 40):
            if status == 200:
                self.assertTrue(content.endswith(b"data: [DONE]\n\n"), content[-200:])
                self.assertIn(b'"finish_reason":"length"', content)
            else:
                self.assertEqual(status, 503)

    def test_but_not_for_ever(self):
        for status, content in self.stop_under_load(0.1, 4000):
            if status == 200 and not content.endswith(b"data: [DONE]\n\n"):
                self.assertIn(b"shutting down", content)

    def test_a_port_in_use(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with self.assertRaisesRegex(RuntimeError, f"error: cannot listen on 127.0.0.1, port {port}"):
                ServerProcess(COMMAND, MODEL, "--port", port)

    def test_a_second_signal_ends_it_at_once(self):
        server = ServerProcess(COMMAND, MODEL, "--shutdown-timeout", 3600)
        thread = threading.Thread(
            target=lambda: self.assertRaises(Exception, server.request, "POST", "/v1/completions",
                                             {**GOOD, "max_tokens": 4000, "logit_bias": {"0": -100}, "n": 8})
        )
        thread.start()
        while server.metric("requests_running") == 0 and thread.is_alive():
            time.sleep(0.005)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(10)
        thread.join()
        server.stop()


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[3:])
