#!/usr/bin/env python3
"""`turboquant chat`: with input from a pipe, and in a terminal (a pseudo-terminal that this test plays the person at).

    chat_test.py PATH_OF_TURBOQUANT PATH_OF_TESTS_DATA [unittest's arguments]
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

from harness import complaints, long_job_model, run

COMMAND, DATA = (Path(argument).resolve() for argument in sys.argv[1:3])
MICRO = DATA / "micro" / "llama"
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
DEFAULTS = {"--temp": "0", "--max-tokens": "8", "--threads": "2"}
WAIT_S = 120


def options(flags=()):
    """The defaults, but for what the flags say."""
    return [word for name, value in DEFAULTS.items() if name not in flags for word in (name, value)] + list(flags)


class Terminal:
    """The command in a pseudo-terminal, and what it has shown since the last expect()."""

    def __init__(self, folder, model, *flags):
        self.pid, self.end = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm", XDG_STATE_HOME=str(folder / "state"))
            arguments = [COMMAND, "chat", "--model", model, *options(flags)]
            os.execv(COMMAND, [str(argument) for argument in arguments])
        self.text = ""

    def send(self, text):
        os.write(self.end, text.encode())

    def line(self, text):
        self.send(text + "\r")

    def expect(self, pattern):
        """Waits until it is shown; gives the match, and forgets all up to its end."""
        deadline = time.monotonic() + WAIT_S
        while True:
            found = re.search(pattern, self.text)
            if found:
                self.text = self.text[found.end() :]
                return found
            if not select.select([self.end], [], [], max(0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"{pattern!r} was not shown, but {self.text[-2000:]!r}")
            try:
                self.text += os.read(self.end, 65536).decode("utf-8", "replace")
            except OSError:
                raise AssertionError(f"it ended without {pattern!r}, but with {self.text[-2000:]!r}") from None

    def exit_code(self):
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            if select.select([self.end], [], [], 0.05)[0]:
                try:
                    os.read(self.end, 65536)
                except OSError:
                    pass
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
        raise AssertionError("it does not end")

    def close(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.end)


class ChatTest(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="turboquant-chat-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.model = self.folder / "model"
        shutil.copytree(MICRO, self.model)
        (self.model / "chat_template.jinja").write_text(TEMPLATE)

    def chat(self, *lines, flags=(), model=None):
        """With these lines from a pipe."""
        return subprocess.run(
            [COMMAND, "chat", "--model", model or self.model, *options(flags)],
            input="".join(line + "\n" for line in lines).encode(),
            capture_output=True,
            cwd=self.folder,
            timeout=WAIT_S,
        )

    def messages(self, *lines, **how):
        """What the conversation consists of after these lines."""
        result = self.chat(*lines, "/save saved.json", **how)
        self.assertEqual(result.returncode, 0, result.stderr)
        saved = json.loads((self.folder / "saved.json").read_text())["messages"]
        return [(message["role"], message["content"]) for message in saved]

    def terminal(self, *flags, model=None):
        terminal = Terminal(self.folder, model or self.model, *flags)
        self.addCleanup(terminal.close)
        return terminal

    def long_model(self):
        """Whose answers go on and on."""
        folder = self.folder / "long"
        long_job_model(MICRO, folder, layers=4)
        (folder / "chat_template.jinja").write_text(TEMPLATE)
        return folder


class FromAPipe(ChatTest):
    def test_answers_are_those_of_generate(self):
        result = self.chat("Hello", "", "And then?", flags=["--quiet"])
        self.assertEqual((result.returncode, result.stderr), (0, b""))
        first = subprocess.run(
            [COMMAND, "generate", "--model", self.model, *options(), "--prompt", "Hello", "--quiet"], capture_output=True
        )
        self.assertTrue(result.stdout.startswith(first.stdout))
        self.assertGreater(len(result.stdout), len(first.stdout) + 1)
        self.assertNotIn(b"\x1b", result.stdout)

    def test_the_history_is_sent_and_only_its_end_is_read(self):
        roles = self.messages("Hello there, model", "And then?")
        self.assertEqual([role for role, _ in roles], ["user", "assistant"] * 2)
        result = self.chat("Hello there, model", "And then?", "/stats")
        found = re.search(r"Prompt: (\d+) tokens, (\d+) of them remembered", result.stderr.decode())
        prompt, remembered = map(int, found.groups())
        once = self.chat("Hello there, model", "/stats").stderr.decode()
        first_prompt = int(re.search(r"Prompt: (\d+) tokens, 0 of them", once).group(1))
        self.assertGreaterEqual(remembered, first_prompt)
        self.assertLess(remembered, prompt)

    def test_messages_of_many_lines(self):
        messages = self.messages("one \\", "two", '"""', "three", "  four", '"""', '"""five"""', "//six")
        said = [content for role, content in messages if role == "user"]
        self.assertEqual(said, ["one \ntwo", "three\n  four", "five", "/six"])

    def test_system_undo_new_and_again(self):
        hello = self.messages("Hello", flags=["--system", "Be brief."])
        self.assertEqual(hello[0], ("system", "Be brief."))
        self.assertEqual([role for role, _ in hello], ["system", "user", "assistant"])
        self.assertEqual(self.messages("/system Be brief.", "Hello"), hello)
        self.assertEqual(self.messages("/system Be brief.", "Hello", "More", "/undo"), hello)
        self.assertEqual(self.messages("/system Be brief.", "More", "/new", "Hello", "/regen"), hello)
        self.assertEqual(self.messages("/system Be brief.", "Hello", "/clear"), hello[:1])
        self.assertEqual(self.messages("/system Be brief.", "/system", "Hello"), self.messages("Hello"))

    def test_another_answer_with_a_seed_is_another_but_the_same_each_time(self):
        flags = ["--temp", "1.5", "--seed", "3"]
        first = self.messages("Hello", flags=flags)
        again = self.messages("Hello", "/regen", flags=flags)
        self.assertNotEqual(first, again)
        self.assertEqual(self.messages("Hello", "/regen", flags=flags), again)

    def test_a_saved_conversation_goes_on(self):
        whole = self.messages("Hello", "More")
        self.messages("Hello")
        shutil.copy(self.folder / "saved.json", self.folder / "first.json")
        self.assertEqual(self.messages("/load first.json", "More"), whole)
        self.assertEqual(self.messages("More", flags=["--load", "first.json"]), whole)

    def test_errors_end_it(self):
        (self.folder / "list.json").write_text("[]")
        (self.folder / "role.json").write_text('{"messages": [{"role": "\\u001b[2J", "content": ""}]}')
        for line, code, says in (
            ("/what", 2, "unknown command .*/help"),
            ("/save", 2, "give a file"),
            ("/load nowhere.json", 1, "nowhere.json"),
            ("/load list.json", 1, "list.json"),
            ("/load role.json", 1, "message 1 has the role"),
            ("/save no/such/folder/x.json", 1, "no/such/folder"),
            ("/regen", 1, "no message to answer"),
            ("long " * 5000, 1, "context"),
        ):
            result = self.chat(line, "Hello")
            self.assertEqual((result.returncode, result.stdout), (code, b""), line)
            self.assertRegex(result.stderr.decode(), r"(?m)^error: .*" + says)
            self.assertNotIn(b"\x1b", result.stderr)
        result = self.chat("Hello", model=MICRO)
        self.assertEqual(result.returncode, 1)
        self.assertIn(b"no chat template", result.stderr)

    def test_ctrl_c_ends_it(self):
        model = self.long_model()
        (self.folder / "input").write_text("Hello\n")
        start = time.monotonic()
        script = f"exec '{COMMAND}' chat --model '{model}' --max-tokens 100000 --temp 0 < input"
        result = run(["/bin/sh", "-c", script], self.folder, interrupt_when=lambda: time.monotonic() > start + 3)
        self.assertEqual(complaints(result, {130}, "interrupted"), [])
        self.assertTrue(result.stopped_by_us)

    def test_help_teaches(self):
        result = run([COMMAND, "chat", "--help"], self.folder)
        self.assertEqual(result.code, 0)
        for text in ("/regen", "Ctrl-C", "--max-tokens", "Examples:", "--history"):
            self.assertIn(text, result.stdout)


class InATerminal(ChatTest):
    def test_a_conversation(self):
        terminal = self.terminal()
        terminal.expect(r"model, context of 4096 tokens\..*\r\n")
        terminal.line("Hello")
        terminal.expect("Cut after 8 tokens")
        terminal.line("/stats")
        terminal.expect(r"Context: \d+ of 4096 tokens")
        terminal.line("/what")
        terminal.expect("error: unknown command")
        terminal.line("/load nowhere.json")
        terminal.expect("error: .*nowhere.json")
        terminal.send(f"/sav\t {self.folder / 'saved.json'}\r")
        # Ctrl-D counts once the next line is read: until then the terminal itself would take it.
        terminal.expect(r"Saved 2 messages[\s\S]*\x1b\[\?2004h")
        terminal.send("\x04")
        self.assertEqual(terminal.exit_code(), 0)

    def test_ctrl_c_stops_an_answer_and_nothing_else(self):
        terminal = self.terminal("--max-tokens", "100000", "--temp", "0", model=self.long_model())
        terminal.expect(r"leaves\.")
        terminal.line("Hello")
        terminal.expect(r"2004l\r\n[\s\S]{20}")  # the answer has begun
        terminal.send("\x03\x03\x03")
        terminal.expect("Stopped; what was written stays")
        saved = self.folder / "saved.json"
        terminal.line(f"/save {saved}")
        terminal.expect("Saved 2 messages")
        terminal.line("/exit")
        self.assertEqual(terminal.exit_code(), 0)
        self.assertGreater(len(json.loads(saved.read_text())["messages"][1]["content"]), 10)

    def test_ctrl_c_at_the_prompt(self):
        terminal = self.terminal()
        terminal.expect(r"leaves\.")
        terminal.expect("> ")
        terminal.send("half a message\x03")
        terminal.line("/undo")
        terminal.expect("no message to take back")
        terminal.expect("> ")
        terminal.send("\x03")
        terminal.expect("Ctrl-C once more leaves")
        terminal.expect("> ")
        terminal.send("\x03")
        self.assertEqual(terminal.exit_code(), 0)

    def test_pasted_lines_stay_together_and_come_back_from_the_history(self):
        terminal = self.terminal()
        terminal.expect("> ")
        terminal.send("\x1b[200~one\ntwo\x1b[201~\r")
        terminal.expect("Cut after 8")
        terminal.line("/new")
        terminal.expect("A new conversation")
        terminal.line("/exit")
        self.assertEqual(terminal.exit_code(), 0)
        history = self.folder / "state" / "turboquant" / "chat_history"
        self.assertEqual(history.stat().st_mode & 0o077, 0)
        terminal = self.terminal()
        terminal.expect("> ")
        terminal.send("\x1b[A\x1b[A\x1b[A\r")
        terminal.expect("Cut after 8")
        saved = self.folder / "again.json"
        terminal.line(f"/save {saved}")
        terminal.expect("Saved 2 messages")
        terminal.line("/exit")
        self.assertEqual(terminal.exit_code(), 0)
        self.assertEqual(json.loads(saved.read_text())["messages"][0]["content"], "one\ntwo")


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
