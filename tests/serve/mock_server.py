"""A server with the API that the chat page uses. What it answers depends on the last message: see ANSWERS and Handler.
Needs no more than Python's standard library."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONTEXT = 2048

MARKDOWN = """# Gravity

Gravity is **bold**, *italic*, ***both***, ~~gone~~, `code with <b>`, and snake_case_words stay.
See [Wikipedia](https://en.wikipedia.org/wiki/Gravity_(physics)) or https://example.org/a_b.

- first
  - nested **item**
    1. deep
- second

3. three
4. four

> A quote
> - with a list

| Planet | g (m/s²) |
|:-------|---------:|
| Earth  | 9.81     |
| Mars   | 3.72     |

```python
def fall(seconds):
    return 9.81 * seconds ** 2 / 2  # a * b * c

print(fall(2))
```

- [x] done
- [ ] to do

Tom &amp; Jerry<br>next line

---
The end."""

HOSTILE = """<script>window.hacked = 1</script>
<img src=x onerror="window.hacked = 2">

[click](javascript:window.hacked=3) [data](data:text/html,<script>window.hacked=4</script>)
[tab](java&#9;script:alert(1)) ![picture](https://evil.example/leak.png) <javascript:alert(1)>
[relative](/v1/models) [good](https://example.org/ "title")

```html"><img src=x onerror=window.hacked=5>
</code></pre><script>window.hacked = 6</script>
```

| <b>cell</b> | [x](vbscript:1) |
|---|---|
| <svg onload=window.hacked=7> | `<i>` |

<iframe srcdoc="<script>parent.hacked=8</script>"></iframe> <style>body{display:none}</style>"""

# What must neither hang the page nor overflow its stack.
HEAVY = "\n\n".join(
    [
        ">" * 5000 + " deep",
        "\n".join("  " * i + "- level" for i in range(300)),
        "*a _b " * 8000,
        "*a " * 4000 + "a* " * 4000,
        "[" * 20000 + "](" * 2000,
        "`" + "".join("`" * (i % 90 + 1) + "x" for i in range(8000)),
        "![" * 5000 + "<https://" * 2000,
        "|" * 3000 + "\n" + "|-" * 3000 + "|",
    ]
)

ANSWERS = {"markdown": MARKDOWN, "hostile": HOSTILE, "heavy": HEAVY}


def pieces(text, size=7):
    return [text[i : i + size] for i in range(0, len(text), size)]


class MockServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, page, policy):
        super().__init__(("127.0.0.1", 0), Handler)
        self.page, self.policy = page, policy
        self.requests = []  # bodies of chat requests
        self.paths = []
        self.cancelled = threading.Event()  # a client left in the middle of an answer
        self.busy = 0  # so many chat requests get a 429
        self.key = None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/"

    def handle_error(self, request, client_address):
        pass  # clients that leave are part of the test


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def reply(self, status, kind, data, **headers):
        data = data if isinstance(data, bytes) else data.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def fail(self, status, message, **headers):
        self.reply(status, "application/json", json.dumps({"error": {"message": message}}), **headers)

    def authorized(self):
        if self.server.key is None or self.headers.get("Authorization") == f"Bearer {self.server.key}":
            return True
        self.fail(401, "invalid API key")
        return False

    def do_GET(self):
        self.server.paths.append(self.path)
        if self.path == "/":
            self.reply(200, "text/html; charset=utf-8", self.server.page, Content_Security_Policy=self.server.policy)
        elif self.path == "/v1/models" and self.authorized():
            model = {"id": "micro-4bit", "object": "model", "max_model_len": CONTEXT}
            self.reply(200, "application/json", json.dumps({"object": "list", "data": [model]}))
        elif self.path != "/v1/models":
            self.fail(404, "not found")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.authorized():
            return
        self.server.requests.append(body)
        word = body["messages"][-1]["content"].split()[0]
        if self.server.busy > 0:
            self.server.busy -= 1
            self.fail(429, "Too many requests wait.", Retry_After="2")
        elif word == "bad":
            self.fail(400, "messages: nothing that the template takes")
        else:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            try:
                self.stream(word, body)
            except OSError:
                self.server.cancelled.set()

    def stream(self, word, body):
        count = 0
        self.write(b": a comment\n\n")
        if word == "think":
            for piece in pieces("First I look at **both** sides."):
                self.chunk({"reasoning_content": piece})
                time.sleep(0.02)
        if word == "endless":
            for count in range(10_000):
                self.chunk({"content": f"word{count} "})
                time.sleep(0.02)
        text = ANSWERS.get(word, f"Answer {len(self.server.requests)} to: {body['messages'][-1]['content']}")
        for count, piece in enumerate(pieces(text, 4000 if word == "heavy" else 7), 1):
            self.chunk({"content": piece})
            time.sleep(0.005)
            if word == "breaks" and count == 2:
                self.write(b'data: {"error": {"message": "the disk is gone", "code": 500}}\n\n')
                return
            if word == "cut" and count == 2:
                return
        self.chunk({}, finish="length" if word == "long" else "stop")
        prompt = sum(len(message["content"]) for message in body["messages"])
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": count,
            "total_tokens": prompt + count,
            "prompt_tokens_details": {"cached_tokens": prompt // 2},
        }
        self.event({"object": "chat.completion.chunk", "choices": [], "usage": usage})
        self.write(b"data: [DONE]\n\n")

    def chunk(self, delta, finish=None):
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        self.event({"object": "chat.completion.chunk", "choices": [choice]})

    def event(self, value):
        self.write(b"data: " + json.dumps(value).encode() + b"\n\n")

    def write(self, data):
        self.wfile.write(data)
        self.wfile.flush()
