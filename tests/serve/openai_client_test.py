#!/usr/bin/env python3
"""The server as OpenAI's own client sees it: the package `openai` of PyPI, pinned, in an environment of its own.

    openai_client_test.py PATH_OF_TURBOQUANT PATH_OF_TESTS_DATA FOLDER_OF_ENVIRONMENT [unittest's arguments]

Ends with 77 (skipped) if the package cannot be had.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "bench"))
from environment import enter_environment  # noqa: E402

PACKAGES = ("openai==3.57.0", "jsonschema==4.26.0")
SKIPPED = 77
try:
    enter_environment(sys.argv[3], PACKAGES)
except (OSError, subprocess.CalledProcessError):
    print(f"SKIPPED: {', '.join(PACKAGES)} cannot be installed: is PyPI reachable?")
    sys.exit(SKIPPED)

import jsonschema  # noqa: E402
import openai  # noqa: E402
from schemas import SCHEMAS  # noqa: E402
from server_process import ServerProcess  # noqa: E402

COMMAND, DATA = (Path(argument).resolve() for argument in sys.argv[1:3])
NO_END = {"0": -100}  # the model's end token
MICRO = DATA / "micro" / "llama"
CHAT = [{"role": "user", "content": "Why is the sky blue?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
TIME = {"type": "function", "function": {"name": "time"}}


class ClientTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        cls.server = ServerProcess(COMMAND, MICRO, "--alias", "micro", "--api-key", "secret", folder=cls.folder.name)
        cls.addClassCleanup(cls.server.stop)
        cls.client = openai.OpenAI(base_url=cls.server.url + "/v1", api_key="secret", max_retries=0, timeout=120)

    def chat(self, **options):
        return self.client.chat.completions.create(**{"model": "micro", "messages": CHAT, "max_tokens": 12, **options})

    def complete(self, **options):
        return self.client.completions.create(**{"model": "micro", "prompt": "The sky is", "max_tokens": 12, **options})

    def test_end_tokens_that_are_ignored(self):
        for ask in (self.chat, self.complete):
            options = {"temperature": 0, "logit_bias": {"0": 100}, "max_tokens": 7}
            self.assertEqual(ask(**options).usage.completion_tokens, 0)
            answer = ask(**options, extra_body={"ignore_eos": True})
            self.assertEqual((answer.usage.completion_tokens, answer.choices[0].finish_reason), (7, "length"))

    def test_models(self):
        self.assertEqual([model.id for model in self.client.models.list()], ["micro"])
        self.assertEqual(self.client.models.retrieve("micro").object, "model")

    def test_typed_errors(self):
        self.assertRaises(openai.NotFoundError, self.client.models.retrieve, "gpt-9")
        self.assertRaises(openai.NotFoundError, self.chat, model="gpt-9")
        with self.assertRaises(openai.BadRequestError) as caught:
            self.chat(temperature=-1)
        self.assertEqual(caught.exception.param, "temperature")
        self.assertRaises(openai.BadRequestError, self.chat, messages=[])
        stranger = self.client.with_options(api_key="wrong")
        with self.assertRaises(openai.AuthenticationError) as caught:
            stranger.models.list()
        self.assertEqual(caught.exception.code, "invalid_api_key")

    def test_a_chat(self):
        answer = self.chat(temperature=0, logit_bias=NO_END)
        self.assertEqual(answer.object, "chat.completion")
        self.assertEqual(answer.choices[0].message.role, "assistant")
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)
        self.assertEqual(answer.usage.completion_tokens, 12)
        self.assertEqual(answer.choices[0].finish_reason, "length")
        again = self.chat(temperature=0, logit_bias=NO_END)
        self.assertEqual(again.choices[0].message.content, answer.choices[0].message.content)
        self.assertGreater(again.usage.prompt_tokens_details.cached_tokens, 0)

    def test_a_stream_is_the_same(self):
        answer = self.chat(temperature=0, logit_bias=NO_END, max_tokens=40)
        chunks = list(
            self.chat(
                temperature=0, logit_bias=NO_END, max_tokens=40, stream=True, stream_options={"include_usage": True}
            )
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        self.assertEqual(text, answer.choices[0].message.content)
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertEqual(chunks[-2].choices[0].finish_reason, "length")
        self.assertEqual(chunks[-1].choices, [])
        self.assertEqual(chunks[-1].usage.completion_tokens, 40)

    def test_completions(self):
        answer = self.complete(temperature=0)
        chunks = self.complete(temperature=0, stream=True)
        self.assertEqual("".join(chunk.choices[0].text for chunk in chunks), answer.choices[0].text)
        tokens = self.server.request(
            "POST", "/tokenize", {"content": "The sky is"}, {"Authorization": "Bearer secret"}
        )[2]["tokens"]
        self.assertEqual(self.complete(temperature=0, prompt=tokens).choices[0].text, answer.choices[0].text)
        echo = self.complete(temperature=0, echo=True)
        self.assertEqual(echo.choices[0].text, "The sky is" + answer.choices[0].text)

    def test_seeds_and_choices(self):
        first = self.chat(seed=7, n=3, temperature=1)
        self.assertEqual([choice.index for choice in first.choices], [0, 1, 2])
        texts = [choice.message.content for choice in first.choices]
        self.assertEqual(len(set(texts)), 3)
        self.assertEqual(texts, [choice.message.content for choice in self.chat(seed=7, n=3, temperature=1).choices])
        parts = {}
        for chunk in self.chat(seed=7, n=3, temperature=1, stream=True):
            for choice in chunk.choices:
                parts[choice.index] = parts.get(choice.index, "") + (choice.delta.content or "")
        self.assertEqual([parts[i] for i in range(3)], texts)

    def test_stops(self):
        text = self.complete(temperature=0, max_tokens=60).choices[0].text
        stop = text[len(text) // 2 :][:3]
        for stream in (False, True):
            answer = self.complete(temperature=0, max_tokens=60, stop=["never to be found", stop], stream=stream)
            chunks = list(answer) if stream else [answer]
            self.assertEqual("".join(chunk.choices[0].text for chunk in chunks), text[: text.index(stop)])
            self.assertEqual(chunks[-1].choices[0].finish_reason, "stop")

    def test_logprobs(self):
        answer = self.chat(temperature=0, logprobs=True, top_logprobs=3)
        content = answer.choices[0].logprobs.content
        self.assertEqual(len(content), answer.usage.completion_tokens)
        for token in content:
            self.assertLessEqual(token.logprob, 0)
            self.assertEqual(len(token.top_logprobs), 3)
            self.assertEqual(token.top_logprobs[0].bytes, token.bytes)
        whole = b"".join(bytes(token.bytes) for token in content).decode(errors="replace")
        self.assertEqual(whole.strip(), answer.choices[0].message.content.strip())
        streamed = [
            token
            for chunk in self.chat(temperature=0, logprobs=True, top_logprobs=3, stream=True)
            if chunk.choices[0].logprobs
            for token in chunk.choices[0].logprobs.content
        ]
        self.assertEqual([t.logprob for t in streamed], [t.logprob for t in content])
        old = self.complete(temperature=0, logprobs=2).choices[0].logprobs
        self.assertEqual(len(old.tokens), len(old.token_logprobs))
        self.assertTrue(all(max(top.values()) == mine for top, mine in zip(old.top_logprobs, old.token_logprobs)))

    def test_biases_and_penalties(self):
        tokens = self.server.request("POST", "/tokenize", {"content": "z"}, {"Authorization": "Bearer secret"})[2]["tokens"]
        answer = self.complete(temperature=0, max_tokens=5, logit_bias={str(tokens[0]): 100})
        self.assertEqual(answer.choices[0].text, "zzzzz")
        answer = self.complete(
            temperature=0, max_tokens=5, logit_bias={str(tokens[0]): 50}, presence_penalty=2, frequency_penalty=2
        )
        self.assertTrue(answer.choices[0].text.startswith("z"))
        self.complete(extra_body={"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1})

    def test_content_in_parts_and_a_developer(self):
        parts = [{"type": "text", "text": "Why is "}, {"type": "text", "text": "the sky blue?"}]
        whole = self.chat(temperature=0).choices[0].message.content
        self.assertEqual(self.chat(temperature=0, messages=[{"role": "user", "content": parts}]).choices[0].message.content, whole)
        self.chat(messages=[{"role": "developer", "content": "Be brief."}, *CHAT])

    def test_embeddings(self):
        answer = self.client.embeddings.create(model="micro", input=["The sky", "A cat"])
        self.assertEqual(len(answer.data), 2)
        vector = answer.data[0].embedding
        self.assertAlmostEqual(math.sqrt(sum(x * x for x in vector)), 1, places=4)
        single = self.client.embeddings.create(model="micro", input="The sky", encoding_format="float").data[0].embedding
        self.assertTrue(all(abs(a - b) < 1e-6 for a, b in zip(vector, single)))

    def test_json_objects(self):
        answer = self.chat(max_tokens=400, seed=1, response_format={"type": "json_object"})
        if answer.choices[0].finish_reason == "stop":
            self.assertIsInstance(json.loads(answer.choices[0].message.content), dict)

    def test_every_text_keeps_to_its_schema(self):
        count = 0
        for number, schema in enumerate(SCHEMAS):
            form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
            for seed in range(0, 67, 8):
                answer = self.chat(response_format=form, temperature=1, seed=1000 * number + seed, n=8, max_tokens=400)
                for choice in answer.choices:
                    self.assertEqual(choice.finish_reason, "stop", choice.message.content)
                    jsonschema.validate(json.loads(choice.message.content), schema)
                    count += 1
        self.assertGreaterEqual(count, 200)

    def test_schemas_that_cannot_be(self):
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "planet"}}}
        with self.assertRaises(openai.BadRequestError) as caught:
            self.chat(response_format=form)
        self.assertEqual(caught.exception.param, "response_format")

    def test_regular_expressions(self):
        answer = self.chat(extra_body={"guided_regex": "(yes|no), [0-9]{4}"}, max_tokens=100)
        self.assertRegex(answer.choices[0].message.content, r"^(yes|no), [0-9]{4}$")

    def check_call(self, call):
        self.assertTrue(call.id)
        self.assertIn(call.function.name, ("weather", "time"))
        arguments = json.loads(call.function.arguments)
        if call.function.name == "weather":
            jsonschema.validate(arguments, WEATHER["function"]["parameters"])

    def test_calls_that_must_be(self):
        named = {"type": "function", "function": {"name": "weather"}}
        for choice in ("required", named):
            for seed in range(5):
                answer = self.chat(tools=[WEATHER, TIME], tool_choice=choice, seed=seed, max_tokens=200).choices[0]
                self.assertEqual(answer.finish_reason, "tool_calls")
                self.assertIsNone(answer.message.content)
                self.check_call(answer.message.tool_calls[0])
        name, arguments, reason = "", "", None
        for chunk in self.chat(tools=[WEATHER], tool_choice=named, stream=True, max_tokens=200):
            for call in chunk.choices[0].delta.tool_calls or []:
                name += call.function.name or ""
                arguments += call.function.arguments or ""
            reason = chunk.choices[0].finish_reason or reason
        self.assertEqual((name, reason), ("weather", "tool_calls"))
        jsonschema.validate(json.loads(arguments), WEATHER["function"]["parameters"])

    def test_the_answer_of_a_tool_goes_on(self):
        call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome", "days": 1}'}}
        messages = [
            *CHAT,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        ]
        self.assertTrue(self.chat(messages=messages, tools=[WEATHER]).choices[0].message)


class BusyTest(unittest.TestCase):
    def test_a_full_queue(self):
        server = ServerProcess(COMMAND, MICRO, "--parallel", "1", "--queue", "1")
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=120)
        caught = []

        def ask():
            try:
                client.completions.create(
                    model="llama", prompt="The sky", max_tokens=300, temperature=0, logit_bias=NO_END
                )
            except openai.RateLimitError as error:
                caught.append(error)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        server.stop()
        self.assertGreater(len(caught), 0)
        self.assertLess(len(caught), 8)
        self.assertGreater(int(caught[0].response.headers["retry-after"]), 0)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[4:])
