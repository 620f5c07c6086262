#!/usr/bin/env python3
"""Models from the hub: the built command against a small hub on loopback (fake_hub.py).

    hub_test.py PATH_OF_TURBOQUANT PATH_OF_TESTS_DATA PATH_OF_HUB_HEADERS [unittest's arguments]
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

from fake_hub import FakeHub, Repository, git_sha1
from harness import complaints, gguf, run, snapshot

COMMAND, DATA, HEADERS = (Path(argument).resolve() for argument in sys.argv[1:4])
MICRO = DATA / "micro"
COMMIT, OLD = "c0ffee" + "0" * 34, "01d" + "0" * 37
# In the repository, and of no use to the command.
CLUTTER = {
    "README.md": b"# micro\n",
    ".gitattributes": b"*.safetensors filter=lfs\n",
    "pytorch_model.bin": b"\x80" * 5000,
    "original/consolidated.safetensors": b"\x80" * 5000,
}
WEIGHTS = "model.safetensors"
BAD_STATUS = {401: "private|does not exist", 403: "licence", 404: "no such repository", 418: "418"}


def files_of(name):
    return {path.name: path.read_bytes() for path in (MICRO / name).iterdir() if path.name != "golden.safetensors"}


class HubTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.hub = FakeHub()
        cls.addClassCleanup(cls.hub.close)

    def setUp(self):
        self.w = Path(tempfile.mkdtemp(prefix="turboquant-hub-"))
        self.addCleanup(shutil.rmtree, self.w)
        self.home = self.w / "home"
        self.hub.reset()
        self.hub.renamed = {"org/old-name": "org/llama"}
        revisions = {"v1": OLD, "pr/1": COMMIT, OLD: OLD}
        self.hub.repositories = {
            "org/llama": Repository({**files_of("llama"), **CLUTTER}, COMMIT, revisions),
            "org/shards": Repository({**files_of("mistral"), **CLUTTER}, COMMIT),
            "org/private": Repository(files_of("llama"), COMMIT, access="private"),
            "org/gated": Repository(files_of("llama"), COMMIT, access="gated"),
        }
        self.weights = self.hub.repositories["org/llama"].files[WEIGHTS]
        self.sha = hashlib.sha256(self.weights).hexdigest()
        self.folder = self.home / "hub" / "models--org--llama"
        self.partial = self.folder / "blobs" / f"{self.sha}.incomplete"

    def environment(self, **more):
        clean = {name: "" for name in os.environ if name.lower().endswith("_proxy") or name.startswith(("HF_", "SSL_"))}
        return {**clean, "NO_PROXY": "*", "HF_HOME": str(self.home), "HF_ENDPOINT": self.hub.endpoint, **more}

    def run_command(self, *words, file_limit=None, interrupt_when=None, **env):
        return run([COMMAND, *words], self.w, self.environment(**env), file_limit, interrupt_when)

    def info(self, name="org/llama", *words, **how):
        return self.run_command("info", name, "--json", *words, **how)

    def succeeds(self, result):
        self.assertEqual(result.code, 0, result.stderr)
        self.assertNotIn("error: ", result.stderr)
        return result

    def fails(self, result, says, code=1):
        self.assertEqual(complaints(result, (code,), says), [], result.stderr)
        self.assertNotIn(FakeHub.TOKEN, result.stderr + result.stdout)
        return result

    def is_whole(self, name="org/llama", commit=COMMIT):
        """The snapshot holds exactly what the model needs, by links to blobs that are named by their content."""
        repository = self.hub.repositories[name]
        folder = self.home / "hub" / ("models--" + name.replace("/", "--"))
        wanted = {file for file in repository.files if file not in CLUTTER}
        self.assertEqual({path.name for path in (folder / "snapshots" / commit).iterdir()}, wanted)
        for file in wanted:
            link = folder / "snapshots" / commit / file
            self.assertEqual(os.readlink(link), f"../../blobs/{repository.etag(file)}")
            self.assertEqual(link.read_bytes(), repository.files[file])
        self.assertEqual({path.name for path in (folder / "blobs").iterdir()}, {repository.etag(f) for f in wanted})

    # ------------------------------------------------------------ what works
    def test_downloads_what_a_model_needs(self):
        result = self.succeeds(self.info())
        local = json.loads(self.succeeds(self.info(str(MICRO / "llama"))).stdout)
        self.assertEqual({**json.loads(result.stdout), "model": local["model"]}, local)
        self.is_whole()
        self.assertEqual((self.folder / "refs" / "main").read_text(), COMMIT)
        # A second time nothing but the commit is asked for; quiet says nothing.
        self.hub.log.clear()
        self.assertEqual(self.succeeds(self.info("org/llama", "--quiet")).stderr, "")
        self.assertEqual([r[2] for r in self.hub.log], ["/api/models/org/llama/revision/main"])

    def test_shards_in_all_commands(self):
        words = ["generate", "--raw", "--prompt", "Hello there", "--max-tokens", "8", "--temp", "0", "--model"]
        result = self.succeeds(self.run_command(*words, "org/shards"))
        self.assertEqual(result.stdout, self.succeeds(self.run_command(*words, str(MICRO / "mistral"))).stdout)
        self.is_whole("org/shards")
        self.succeeds(self.run_command("convert", "--hf-path", "org/llama", "--mlx-path", "out", "--bits", "3"))
        self.assertIn("Source: llama", (self.w / "out" / "README.md").read_text())
        (self.w / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 40)
        self.succeeds(
            self.run_command(
                *"evaluate --model org/llama --bits 3 --formats tcq16 --num-samples 1 --seq-len 16".split(),
                *"--text text.txt --json rows.json".split(),
            )
        )
        self.assertEqual(json.loads((self.w / "rows.json").read_text())[0]["model"], "org/llama")

    def test_revisions(self):
        self.succeeds(self.info("org/llama", "--revision", "v1"))
        self.is_whole(commit=OLD)
        self.assertEqual((self.folder / "refs" / "v1").read_text(), OLD)
        self.succeeds(self.info("org/llama", "--revision", "pr/1"))
        self.assertEqual((self.folder / "refs" / "pr" / "1").read_text(), COMMIT)
        # A commit that is there needs no network.
        self.hub.log.clear()
        self.succeeds(self.info("org/llama", "--revision", OLD))
        self.assertEqual(self.hub.log, [])
        self.fails(self.info("org/llama", "--revision", "v2"), "no revision 'v2'")
        self.fails(self.info("org/llama", "--revision", "../x"), "revision", code=2)
        self.fails(self.info(str(MICRO / "llama"), "--revision", "v1"), "not from the hub", code=2)

    def test_offline(self):
        self.fails(self.info(HF_HUB_OFFLINE="1"), "HF_HUB_OFFLINE.*no such revision")
        nobody = "http://127.0.0.1:9"
        self.fails(self.info(HF_ENDPOINT=nobody), f"no such file or folder.*cannot reach {nobody}.*refused")
        self.succeeds(self.info())
        self.hub.log.clear()
        self.succeeds(self.info(HF_HUB_OFFLINE="1"))
        self.assertEqual(self.hub.log, [])
        self.assertIn("using the copy", self.succeeds(self.info(HF_ENDPOINT=nobody)).stderr)
        self.hub.status = 503
        self.assertIn("503", self.succeeds(self.info()).stderr)
        (self.folder / "snapshots" / COMMIT / WEIGHTS).unlink()
        self.fails(self.info(HF_HUB_OFFLINE="1"), "HF_HUB_OFFLINE.*weights are missing")

    def test_local_path_wins(self):
        shutil.copytree(MICRO / "llama", self.w / "org" / "llama")
        self.succeeds(self.info())
        self.assertEqual(self.hub.log, [])

    def test_gguf(self):
        shutil.copytree(MICRO / "llama", self.w / "source")
        gguf()(self.w / "source")
        data = (self.w / "source" / "model.gguf").read_bytes()
        self.hub.repositories["org/q"] = Repository({"Q8/model.gguf": data, "config.json": b"{}"})
        self.fails(self.info("org/q"), "neither.*org/q/Q8/model.gguf")
        self.succeeds(self.info("org/q/Q8/model.gguf"))
        link = self.home / "hub" / "models--org--q" / "snapshots" / ("a" * 40) / "Q8" / "model.gguf"
        self.assertEqual(os.readlink(link), f"../../../blobs/{hashlib.sha256(data).hexdigest()}")
        self.fails(self.info("org/q/Q4.gguf"), "holds no 'Q4.gguf'.*Q8/model.gguf")
        self.succeeds(self.info("org/q/Q8/model.gguf", HF_HUB_OFFLINE="1"))

    def test_renamed_repository(self):
        self.succeeds(self.info("org/old-name"))
        self.assertTrue((self.home / "hub" / "models--org--old-name" / "snapshots" / COMMIT / WEIGHTS).is_file())

    def test_headers_without_weights(self):
        def headers(name, **env):
            argv = [HEADERS, name]
            return json.loads(subprocess.run(argv, env={**os.environ, **self.environment(**env)}, check=True,
                                             stdout=subprocess.PIPE, timeout=60).stdout)  # fmt: skip

        large = {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(5000)}
        text = json.dumps(large).encode()
        self.hub.repositories["org/shards"].files["model-00002-of-00003.safetensors"] = (
            struct.pack("<Q", len(text)) + text + bytes(200_000)
        )
        for ranges in (True, False):
            self.hub.ranges = ranges
            found = headers("org/shards")
            self.assertEqual(found["commit"], COMMIT)
            self.assertEqual(found["config"], json.loads((MICRO / "mistral" / "config.json").read_text()))
            self.assertEqual(len(found["files"]), 3)
            for name, file in found["files"].items():
                data = self.hub.repositories["org/shards"].files[name]
                self.assertEqual(file["size"], len(data))
                self.assertEqual(file["header"], json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]]))
        self.assertFalse(self.home.exists())
        self.assertTrue(all(r[3].get("range") for r in self.hub.requests("cdn")))
        # From the cache, if that has the files.
        self.succeeds(self.info())
        self.assertEqual(list(headers("org/llama", HF_HUB_OFFLINE="1")["files"]), [WEIGHTS])

    def test_plan_reads_headers_alone(self):
        there = json.loads(self.succeeds(self.run_command("plan", "org/shards", "--json")).stdout)
        here = json.loads(self.succeeds(self.run_command("plan", MICRO / "mistral", "--json")).stdout)
        for key in ("parameters", "weight_bytes", "kv_cache_bytes", "total_bytes"):
            self.assertEqual(there[key], here[key])
        self.assertFalse(self.home.exists())
        self.fails(self.run_command("plan", "org/nothing"), "no such repository|does not exist")

    # ------------------------------------------------------------ transfers that break
    def test_dropped_connection_goes_on(self):
        self.hub.drop_after = [1_000_000]
        self.succeeds(self.info())
        self.is_whole()
        ranges = [r[3].get("range") for r in self.hub.requests("cdn")]
        self.assertEqual(ranges[0], None)
        self.assertGreater(int(ranges[1].removeprefix("bytes=").rstrip("-")), 900_000)

    def interrupted(self):
        """Leaves a part of the weights by Ctrl-C."""
        self.hub.slow = 10_000
        under_way = lambda: self.partial.exists() and self.partial.stat().st_size > 100_000  # noqa: E731
        result = self.fails(self.info(interrupt_when=under_way), "interrupted", code=130)
        self.assertLess(result.seconds_after_interrupt, 2)
        self.hub.slow = None
        self.assertFalse((self.folder / "blobs" / self.sha).exists())
        self.assertFalse((self.folder / "snapshots" / COMMIT / WEIGHTS).exists())
        self.hub.log.clear()
        return self.partial.stat().st_size

    def test_ctrl_c_and_resume(self):
        size = self.interrupted()
        self.assertIn("are there", self.succeeds(self.info()).stderr)
        self.is_whole()
        self.assertEqual([r[3].get("range") for r in self.hub.requests("cdn")], [f"bytes={size}-"])

    def test_resume_from_a_server_without_ranges(self):
        self.interrupted()
        self.hub.ranges = False
        self.succeeds(self.info())
        self.is_whole()

    def test_damaged_part_is_fetched_again(self):
        for content in (b"x" * 100_000, b"x" * (len(self.weights) + 1), b"x" * len(self.weights)):
            self.interrupted()
            self.partial.write_bytes(content)
            self.succeeds(self.info())
            self.is_whole()
            shutil.rmtree(self.home)

    def test_damaged_file(self):
        for file in (WEIGHTS, "tokenizer.json"):
            self.hub.damage = {file}
            self.fails(self.info(), f"org/llama/{file}.*damaged.*checksum")
            self.assertFalse((self.folder / "snapshots" / COMMIT / file).exists())
            etag = self.hub.repositories["org/llama"].etag(file)
            self.assertEqual(list((self.folder / "blobs").glob(etag + "*")), [])
            shutil.rmtree(self.home)
        self.hub.damage = set()
        self.succeeds(self.info())
        self.is_whole()

    def test_more_bytes_than_announced(self):
        self.hub.extra = b"more"
        self.fails(self.info(), "more than the .* bytes")

    def test_stalled(self):
        self.hub.stall = 5
        result = self.fails(self.info(HF_HUB_DOWNLOAD_TIMEOUT="1"), "no answer for 1 s")
        self.assertLess(result.seconds, 4)

    def test_disk_full(self):
        self.fails(self.info(file_limit=1 << 20), "cannot be written.*what has come is kept")
        self.assertEqual(self.partial.stat().st_size, 1 << 20)
        self.succeeds(self.info())
        self.is_whole()

    def test_two_at_once(self):
        self.hub.slow = 40_000
        results = [None, None]

        def download(i):
            results[i] = self.info()

        threads = [threading.Thread(target=download, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for result in results:
            self.succeeds(result)
        self.is_whole()
        self.assertEqual(len(self.hub.requests("cdn")), 1)

    def test_waits_for_the_lock(self):
        lock = self.home / "hub" / ".locks" / "models--org--llama" / f"{self.sha}.lock"
        lock.parent.mkdir(parents=True)
        with open(lock, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            seconds = time.monotonic()
            threading.Timer(0.6, lambda: fcntl.flock(file, fcntl.LOCK_UN)).start()
            self.succeeds(self.info())
            self.assertGreater(time.monotonic() - seconds, 0.5)

    # ------------------------------------------------------------ access
    def test_token_goes_to_the_hub_only(self):
        self.succeeds(self.info("org/private", HF_TOKEN=FakeHub.TOKEN + "\n"))
        for port, _, _, headers in self.hub.log:
            self.assertEqual(headers.get("authorization"), f"Bearer {FakeHub.TOKEN}" if port == "hub" else None)
        self.assertEqual(len(self.hub.requests("cdn")), 1)
        shutil.rmtree(self.home)
        self.home.mkdir()
        (self.home / "token").write_text(FakeHub.TOKEN)
        self.succeeds(self.info("org/gated"))

    def test_no_access(self):
        self.fails(self.info("org/private"), "private.*set HF_TOKEN")
        self.fails(self.info("org/nobody"), "no such file or folder.*set HF_TOKEN")
        self.fails(self.info("org/nobody", HF_TOKEN=FakeHub.TOKEN), "no such repository")
        self.fails(self.info("org/private", HF_TOKEN="hf_wrong"), "401.*check.*token in HF_TOKEN")
        self.fails(self.info("org/gated"), f"accept its licence at {self.hub.endpoint}/org/gated.*HF_TOKEN")
        self.fails(self.info(HF_TOKEN="hf_a b"), "HF_TOKEN: not a token")
        for status, says in BAD_STATUS.items():
            self.hub.status = status
            self.fails(self.info(), says)
        for status in (429, 500):
            self.hub.status = status
            self.fails(self.info(), f"{status}.*later")

    # ------------------------------------------------------------ answers of strangers
    def test_bad_answers(self):
        for listing in (b"<html>", b"[]", b'{"sha": 1}', b'{"sha": "../../x", "siblings": []}', b"[" * 100_000):
            self.hub.listing = listing
            self.fails(self.info(), "api/models/org/llama|HF_ENDPOINT")
        self.hub.listing = json.dumps({"sha": COMMIT, "siblings": [{"rfilename": "../../../x.safetensors"}]}).encode()
        self.fails(self.info(), "holds neither")
        self.hub.listing = None
        for etag in ("../../x", "", "." * 10, "a" * 300):
            self.hub.etag = etag or '"'
            self.fails(self.info(), "ETag")
        self.hub.etag = None
        self.hub.repositories["org/shards"].files["model.safetensors.index.json"] = b'{"weight_map": {"a": "../../x"}}'
        self.fails(self.info("org/shards"), "not the name of a file")
        self.assertEqual({Path(path).parts[0] for path in snapshot(self.w)}, {"home", "tmp"})
        self.hub.repositories["org/empty"] = Repository({"README.md": b""})
        self.fails(self.info("org/empty"), "holds neither")
        self.hub.repositories["org/weights"] = Repository({WEIGHTS: self.weights})
        self.fails(self.info("org/weights"), "no config.json")

    def test_bad_environment(self):
        self.fails(self.info(HF_ENDPOINT="ftp://127.0.0.1"), "HF_ENDPOINT")
        self.fails(self.info(HF_ENDPOINT="http://a b"), "address")
        self.fails(self.info(HF_HUB_DOWNLOAD_TIMEOUT="soon"), "HF_HUB_DOWNLOAD_TIMEOUT")
        self.fails(self.info(SSL_CERT_FILE="/nowhere.pem"), "SSL_CERT_FILE=/nowhere.pem")
        (self.w / "file").write_text("")
        self.fails(self.info(HF_HOME=str(self.w / "file")), "cannot be made.*HF_HOME")
        self.fails(self.info("nothere"), "no such file or folder.*org/name")


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[4:]])
