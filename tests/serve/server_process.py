"""The built server as a process, and plain HTTP to it. Needs no more than Python's standard library."""

from __future__ import annotations

import http.client
import json
import resource
import socket
import subprocess
import threading
from pathlib import Path

# Thoughts, tools and roles in as few words as a template can have them.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class ServerProcess:
    """Started at once, ready when the constructor returns. `threads`: one keeps a small model fast on a busy machine.
    `file_bytes`: no file that it writes may be longer; writing more fails."""

    def __init__(self, command, model, *options, folder=None, threads=1, file_bytes=None):
        arguments = [str(command), "serve", "--model", str(model), *map(str, options)]
        if "--port" not in arguments:
            arguments += ["--port", "0"]
        if threads is not None:
            arguments += ["--threads", str(threads)]
        if folder is not None:
            template = Path(folder) / "template.jinja"
            template.write_text(CHAT_TEMPLATE)
            arguments += ["--chat-template-file", str(template)]
        limit = None
        if file_bytes is not None:
            limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))  # noqa: E731
        # The limit's signal, which Python ignores, stays ignored: then writing fails as it does on a full disk.
        self.process = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=limit, restore_signals=limit is None
        )
        self.log = []
        self._reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True)
        self._reader.start()
        line = self.process.stdout.readline()
        if not line.startswith("listening on http://"):
            self.process.kill()
            self._close()
            raise RuntimeError(f"the server did not start: {line!r} {self.log}")
        self.url = line.split()[-1]
        self.host, _, port = self.url.removeprefix("http://").rpartition(":")
        self.port = int(port)

    def request(self, method, path, body=None, headers=None, timeout=60):
        """Status, headers in lower case, body as JSON where it is JSON. `body`: bytes, or what becomes JSON."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            known = {"Content-Type": "application/json"} if data is not None else {}
            connection.request(method, path, data, {**known, **(headers or {})})
            answer = connection.getresponse()
            content = answer.read()
            kind = answer.headers.get("Content-Type", "")
            fields = {name.lower(): value for name, value in answer.headers.items()}
            return answer.status, fields, json.loads(content) if kind == "application/json" else content
        finally:
            connection.close()

    def connect(self, timeout=60):
        return socket.create_connection((self.host, self.port), timeout=timeout)

    def metric(self, name):
        """The value of a metric without labels."""
        for line in self.request("GET", "/metrics")[2].decode().splitlines():
            if line.startswith(f"turboquant_{name} "):
                return float(line.split()[1])
        raise KeyError(name)

    def memory_bytes(self):
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) << 10
        raise RuntimeError("no VmRSS")

    def stop(self, timeout=120):
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        code = self.process.wait(timeout)
        self._close()
        return code

    def _close(self):
        self.process.wait()
        self._reader.join()
        self.process.stdout.close()
        self.process.stderr.close()
