"""What the programs that try the server share: their arguments, the server with a client of OpenAI's own package, a
question."""

import argparse
import contextlib
import sys
import time
from pathlib import Path

from environment import commit, enter_environment, processor_name

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/serve"))

PACKAGES = ("openai==3.57.0", "jsonschema==4.26.0")
WORDS = "river stone cloud music seven garden winter letter market silver bridge summer window forest paper train".split()


def make_parser(description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--command", default=ROOT / "build/release/turboquant", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--parallel", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("options", nargs="*", help="the server's, behind --")
    return parser


def begin(parser):
    """The options, in the environment that has the packages; and says what is tried where."""
    options = parser.parse_args()
    enter_environment(ROOT / "build/openai-env", PACKAGES)
    print(f"{processor_name()}, commit {commit()}, {Path(options.model).name}, server's options: {' '.join(options.options) or 'none'}")
    return options


@contextlib.contextmanager
def running_server(options, *more, **process):
    """(ServerProcess, client)"""
    import openai
    from server_process import ServerProcess

    arguments = ["--parallel", options.parallel, *options.options, *more]
    server = ServerProcess(options.command, options.model, *arguments, threads=None, **process)
    try:
        yield server, openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=600)
    finally:
        server.stop()


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
