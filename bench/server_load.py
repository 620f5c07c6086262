#!/usr/bin/env python3
"""`turboquant serve` under load: many clients of OpenAI's own package at once, with requests of mixed lengths.

    bench/server_load.py --model MODEL [--clients 32] [--requests 200] [--parallel 32] [-- SERVER'S OPTIONS]
    bench/server_load.py --model MODEL --prompts [-- SERVER'S OPTIONS]
    bench/server_load.py --model MODEL --schemas [--requests 200]

The first form asks each question once alone, then, a server later, all of them from all clients, and fails unless every
greedy answer is the one that it was alone. It prints tokens a second beside one client's, latencies, and memory. The
second measures what a long prompt costs: with and without a beginning that is known, and in another's stream. The third
checks answers at temperature 1 against the schemas that they were asked with. Exit code 1 if anything was wrong.
"""

import concurrent.futures
import json
import random
import statistics
import sys
import threading
import time

from server_client import WORDS, ask, begin, make_parser, running_server

NO_END = {"extra_body": {"ignore_eos": True}}  # an answer has as many tokens as are asked for


def make_requests(count, seed):
    """Prompts of 5 to 120 words, a third of them behind 80 words in common; answers of 12 to 192 tokens. The geometric
    means are 24 words and 48 tokens."""
    source = random.Random(seed)
    common = " ".join(source.choices(WORDS, k=80))
    requests = []
    for number in range(count):
        words = " ".join(source.choices(WORDS, k=int(5 * 24 ** source.random())))
        prompt = f"{common} {words}" if source.random() < 1 / 3 else words
        tokens = int(12 * 16 ** source.random())
        requests.append({"prompt": f"{prompt} {number}.", "max_tokens": tokens, "stream": number % 2 == 0, **NO_END})
    return requests


def percentiles(values):
    ordered = sorted(values)
    if not ordered:
        return "-"
    return " / ".join(f"{1e3 * ordered[min(int(len(ordered) * p), len(ordered) - 1)]:.0f}" for p in (0.5, 0.95, 0.99))


def all_at_once(client, requests, clients, on_done=lambda count: None):
    """Answers in the requests' order."""
    answers = []
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        for answer in pool.map(lambda request: ask(client, request), requests):
            answers.append(answer)
            on_done(len(answers))
    return answers


def load(options):
    requests = make_requests(options.requests, options.seed)
    speeds, results, memory = [], [], []
    for clients in (1, options.clients):
        with running_server(options) as (server, client):

            def watch(count, server=server):
                if count == min(100, len(requests)):
                    memory.append(server.memory_bytes())

            start = time.monotonic()
            results.append(all_at_once(client, requests, clients, watch))
            speeds.append(sum(answer[1] for answer in results[-1]) / (time.monotonic() - start))
            memory.append(server.memory_bytes())
    wrong = sum(alone[0] != together[0] for alone, together in zip(*results))
    growth = memory[3] / memory[2] - 1
    print(f"{len(requests)} requests of {options.clients} clients, {options.parallel} at once: {wrong} answers differ")
    print(f"tokens a second      {speeds[1]:.1f}; one client {speeds[0]:.1f}: {speeds[1] / speeds[0]:.2f} times")
    for clients, answers in zip((1, options.clients), results):
        firsts = [answer[2] for answer in answers if answer[2] is not None]
        gaps = [gap for answer in answers for gap in answer[3]]
        print(f"{clients:2} clients' first token {percentiles(firsts)} ms, between tokens {percentiles(gaps)} ms (p50 / p95 / p99)")
    print(f"memory               {memory[2] / 1e6:.0f} MB after 100 requests, {memory[3] / 1e6:.0f} MB at the end: {growth:+.1%}")
    return wrong == 0 and growth <= 0.05


def a_text(source, words):
    return " ".join(source.choices(WORDS, k=words))


def first_token(client, prompt):
    return ask(client, {"prompt": prompt, "max_tokens": 4, "stream": True})[2]


def prompts(options):
    """What a prompt of 1,500 tokens costs, first those who know its beginning, then those whose stream it meets."""
    source = random.Random(options.seed)
    common = a_text(source, 1490)
    questions = [f"{common} {a_text(source, 8)}" for _ in range(options.clients)]
    medians = {}
    for name, extra in (("without", ["--no-prefix-cache"]), ("with", [])):
        with running_server(options, *extra) as (server, client):
            tokens = len(server.request("POST", "/tokenize", {"content": common})[2]["tokens"])
            for _ in range(3):  # the first steps measure the machine
                first_token(client, a_text(source, 60))
            if not extra:
                first_token(client, questions[0])
            alone = [first_token(client, question) for question in questions[1:8]]
            with concurrent.futures.ThreadPoolExecutor(options.clients) as pool:
                together = list(pool.map(lambda question, client=client: first_token(client, question), questions))
            medians[name] = statistics.median(alone), statistics.median(together)
            print(f"first token after {tokens} shared tokens, {name} prefix cache: {1e3 * medians[name][0]:.0f} ms alone, "
                  f"{1e3 * medians[name][1]:.0f} ms of {options.clients} clients at once (medians)")
    ratios = [known / unknown for known, unknown in zip(medians["with"], medians["without"])]
    print(f"with / without: {ratios[0]:.3f} alone, {ratios[1]:.3f} at once")
    longest = stall(options, source)
    return max(ratios) <= 0.2 and longest <= 0.2


def stall(options, source):
    """How much longer than usual another's stream waits for its next token while prompts of 1,500 tokens are read."""
    with running_server(options) as (_, client):
        times = []

        def stream():
            story = {"prompt": "The river", "max_tokens": 1500, "temperature": 0, **NO_END}
            for chunk in client.completions.create(model="default_model", stream=True, **story):
                if chunk.choices and chunk.choices[0].text:
                    times.append(time.monotonic())

        streaming = threading.Thread(target=stream)
        streaming.start()
        while len(times) < 50:
            time.sleep(0.05)
        usual = statistics.median(b - a for a, b in zip(times, times[1:]))
        begins = len(times)
        for _ in range(5):
            first_token(client, a_text(source, 1490))
            time.sleep(5 * usual)
        met = [b - a for a, b in zip(times[begins:], times[begins + 1 :])]
        streaming.join()
    print(f"a stream's tokens come every {1e3 * usual:.1f} ms; while 5 such prompts are read p50 {1e3 * statistics.median(met):.1f} "
          f"ms, longest {1e3 * max(met):.0f} ms")
    return max(met) - usual


def schemas(options):
    import jsonschema
    from schemas import SCHEMAS

    with running_server(options) as (_, client):

        def answer(number):
            schema = SCHEMAS[number % len(SCHEMAS)]
            form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
            messages = [{"role": "user", "content": f"Tell me something of {WORDS[number % len(WORDS)]}, as JSON."}]
            choice = client.chat.completions.create(
                model="default_model", messages=messages, response_format=form, temperature=1, seed=number, max_tokens=400
            ).choices[0]
            try:
                jsonschema.validate(json.loads(choice.message.content), schema)
            except (ValueError, jsonschema.ValidationError) as error:
                print(f"FAIL  {choice.finish_reason} {choice.message.content!r}: {str(error).splitlines()[0]}")
                return False
            return True

        with concurrent.futures.ThreadPoolExecutor(options.clients) as pool:
            valid = sum(pool.map(answer, range(options.requests)))
    print(f"{valid} of {options.requests} answers at temperature 1 keep to their schemas ({len(SCHEMAS)})")
    return valid == options.requests


def main():
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=32)
    modes = parser.add_mutually_exclusive_group()
    for mode in (prompts, schemas):
        modes.add_argument(f"--{mode.__name__}", dest="mode", action="store_const", const=mode)
    options = begin(parser)
    sys.exit(0 if (options.mode or load)(options) else 1)


if __name__ == "__main__":
    main()
