"""A model hub on loopback: the API and small files on one port, large (LFS) files on another, where the first redirects
to. Faults are switched on by the tests. Needs no more than Python's standard library."""

from __future__ import annotations

import hashlib
import json
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def git_sha1(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Repository:
    """`files`: path to bytes; `revisions`: branch or tag to commit; every commit holds the same files."""

    def __init__(self, files, commit="a" * 40, revisions=None, access="open"):
        self.files, self.commit, self.access = files, commit, access
        self.revisions = {"main": commit, commit: commit, **(revisions or {})}

    @staticmethod
    def is_large(path):
        return path.endswith((".safetensors", ".gguf", ".bin"))

    def etag(self, path):
        data = self.files[path]
        return hashlib.sha256(data).hexdigest() if self.is_large(path) else git_sha1(data)


class FakeHub:
    TOKEN = "hf_secretOfTheTest"

    def __init__(self):
        self.repositories = {}
        self.renamed = {}  # old name to new
        self.reset()
        self.hub, self.cdn = (self._serve(handler) for handler in (HubHandler, CdnHandler))
        self.endpoint = f"http://127.0.0.1:{self.hub.server_port}"
        self.cdn_endpoint = f"http://127.0.0.1:{self.cdn.server_port}"

    def reset(self):
        self.log = []  # (port's name, method, path, headers with names in lower case)
        self.status = None  # of every answer of the API
        self.listing = None  # bytes of the API's answer instead of the right ones
        self.etag = None  # of every file
        self.damage = set()  # paths whose bytes come out wrong
        self.extra = b""  # bytes behind the end of every large file
        self.drop_after = []  # bytes after which the next large transfers end, in turn
        self.slow = None  # bytes in every hundredth of a second of a large transfer
        self.ranges = True
        self.stall = 0  # seconds before the API answers

    def _serve(self, handler):
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        server.fake = self
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return server

    def close(self):
        for server in (self.hub, self.cdn):
            server.shutdown()
            server.server_close()

    def requests(self, port=None, method=None, contains=""):
        return [r for r in self.log if port in (None, r[0]) and method in (None, r[1]) and contains in r[2]]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    port_name = ""

    def log_message(self, *_):
        pass

    @property
    def fake(self):
        return self.server.fake

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        self.fake.log.append((self.port_name, self.command, self.path, {n.lower(): v for n, v in self.headers.items()}))
        self.route(urllib.parse.urlsplit(self.path).path)

    def send(self, status, body=b"", **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class HubHandler(Handler):
    port_name = "hub"

    def route(self, path):
        fake = self.fake
        parts = [urllib.parse.unquote(part) for part in path.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            parts = parts[2:]
            time.sleep(fake.stall)
            if fake.status is not None:
                return self.send(fake.status)
        name = "/".join(parts[:2])
        if name in fake.renamed:
            return self.send(307, Location=path.replace(name, fake.renamed[name]))
        repository = fake.repositories.get(name)
        token = self.headers.get("Authorization")
        if repository is None or (repository.access == "private" and token is None):
            # The hub does not tell strangers which repositories exist.
            return self.send(404 if token else 401, X_Error_Code="RepoNotFound")
        if token is not None and token != "Bearer " + FakeHub.TOKEN:
            return self.send(401)
        action, revision = parts[2], parts[3]
        commit = repository.revisions.get(revision)
        if commit is None:
            return self.send(404, X_Error_Code="RevisionNotFound")
        if action == "revision":
            files = [{"rfilename": file} for file in repository.files]
            body = {"id": name, "sha": commit, "siblings": files}
            return self.send(200, json.dumps(body).encode() if fake.listing is None else fake.listing)
        if action == "tree":
            return self.send(200, json.dumps(self.tree(repository)).encode())
        if repository.access == "gated" and token is None:
            return self.send(403, X_Error_Code="GatedRepo")
        file = "/".join(parts[4:])
        if file not in repository.files:
            return self.send(404, X_Error_Code="EntryNotFound")
        data, etag = repository.files[file], fake.etag or repository.etag(file)
        if not repository.is_large(file):
            data = data[:-1] + b"?" if file in fake.damage else data
            return self.send(200, data, ETag=f'"{etag}"', X_Repo_Commit=commit)
        where = f"{fake.cdn_endpoint}/{urllib.parse.quote(name + '/' + file)}?signature=1"
        self.send(302, Location=where, X_Linked_Etag=f'"{etag}"', X_Linked_Size=str(len(data)), X_Repo_Commit=commit)

    @staticmethod
    def tree(repository):
        rows = []
        for path, data in repository.files.items():
            row = {"type": "file", "path": path, "size": len(data), "oid": git_sha1(data)}
            if repository.is_large(path):
                row["lfs"] = {"oid": repository.etag(path), "size": len(data), "pointerSize": 130}
            rows.append(row)
        return rows


class CdnHandler(Handler):
    port_name = "cdn"

    def route(self, path):
        fake = self.fake
        org, name, file = urllib.parse.unquote(path).lstrip("/").split("/", 2)
        data = fake.repositories[f"{org}/{name}"].files[file] + fake.extra
        if file in fake.damage:
            data = data[:1000] + bytes([data[1000] ^ 1]) + data[1001:]
        total, begin, end, status = len(data), 0, len(data), 200
        wanted = self.headers.get("Range")
        if wanted and fake.ranges:
            first, last = wanted.removeprefix("bytes=").split("-")
            begin, end, status = int(first), min(int(last) + 1 if last else total, total), 206
            if begin >= total:
                return self.send(416)
        self.send_response(status)
        self.send_header("Content-Length", str(end - begin))
        if status == 206:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{total}")
        self.end_headers()
        data = data[begin:end]
        if fake.drop_after:
            self.wfile.write(data[: fake.drop_after.pop(0)])
            self.close_connection = True
        elif step := fake.slow:
            for at in range(0, len(data), step):
                self.wfile.write(data[at : at + step])
                time.sleep(0.01)
        else:
            self.wfile.write(data)
