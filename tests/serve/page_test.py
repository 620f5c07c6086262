#!/usr/bin/env python3
"""The chat page in a browser (headless Chromium), against a server that this test plays itself.

    page_test.py PAGE_FOLDER [--screenshots FOLDER] [NAME...]

PAGE_FOLDER has index.html and policy.txt, as the build made them. NAMEs choose tests. Needs Chromium and the Python
package playwright (scripts/install_dependencies --browser); without them the exit code is 77: skipped."""

import argparse
import os
import re
import shutil
import sys
import time
import traceback
from pathlib import Path

from mock_server import MockServer

SKIPPED = 77
HOW = "run scripts/install_dependencies --browser to test the chat page"

try:
    from playwright.sync_api import expect, sync_playwright
except ImportError:
    own = Path(__file__).resolve().parents[2] / "build" / "browser" / "bin" / "python"
    if own.exists() and Path(sys.prefix) != own.parents[1]:
        os.execv(own, [str(own), *sys.argv])
    print(f"skipped: the Python package playwright is not here; {HOW}")
    sys.exit(SKIPPED)

PHONE = {"width": 360, "height": 740}


class Chat:
    """One browser context with the page open; what a person does with it."""

    def __init__(self, browser, folder, size=None, **options):
        self.server = MockServer((folder / "index.html").read_bytes(), (folder / "policy.txt").read_text())
        self.context = browser.new_context(viewport=size or {"width": 1200, "height": 800}, **options)
        self.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=self.server.url)
        self.complaints = []
        self.page = self.open()

    def open(self):
        page = self.context.new_page()
        page.set_default_timeout(8000)
        page.on("pageerror", lambda error: self.complaints.append(f"exception: {error}"))
        page.on("console", self.on_console)
        page.goto(self.server.url)
        return page

    def on_console(self, message):
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.complaints.append(f"console: {message.text}")

    def close(self):
        self.context.close()
        self.server.shutdown()
        assert not self.complaints, self.complaints

    def send(self, text, wait=True):
        self.page.get_by_label("Message", exact=True).fill(text)
        self.page.keyboard.press("Enter")
        if wait:
            self.wait_for_answer()

    def wait_for_answer(self):
        expect(self.page.locator(".writing")).to_have_count(0, timeout=20_000)

    @property
    def answers(self):
        return self.page.locator("article.answer")

    def last_prompt(self):
        return [(message["role"], message["content"]) for message in self.server.requests[-1]["messages"]]


# ---------------------------------------------------------------- tests: functions of a Chat
def conversation_goes_on_and_is_kept(chat):
    chat.send("one")
    chat.send("two\nlines")
    expect(chat.answers).to_have_count(2)
    assert chat.last_prompt() == [("user", "one"), ("assistant", "Answer 1 to: one"), ("user", "two\nlines")]
    assert chat.server.requests[-1]["model"] == "micro-4bit"
    assert chat.server.requests[-1]["stream_options"] == {"include_usage": True}
    assert "temperature" not in chat.server.requests[-1]
    expect(chat.page.locator("#context-words")).to_have_text(re.compile(r"^\d+ of 2,048 tokens$"))
    expect(chat.answers.last.locator(".figures")).to_have_text(re.compile(r"tokens/s .*prompt 28, 14 cached"))
    chat.page.reload()
    expect(chat.answers).to_have_count(0)
    chat.page.locator("#conversations .open", has_text="one").click()
    expect(chat.answers).to_have_count(2)
    expect(chat.page).to_have_title("one – TurboQuant")


def the_page_fills_the_window(chat):
    boxes = chat.page.evaluate("['drawer', 'page'].map((id) => document.getElementById(id).getBoundingClientRect())")
    drawer, page = boxes
    assert (drawer["height"], page["height"], drawer["right"], page["right"]) == (800, 800, page["left"], 1200), boxes


def markdown_is_shown(chat):
    chat.send("markdown")
    answer = chat.answers.last
    for selector, text in {
        "h3.level-1": "Gravity",
        "strong >> nth=0": "bold",
        "em >> nth=0": "italic",
        "del": "gone",
        "ul > li > ul > li > ol > li": "deep",
        "blockquote li": "with a list",
        "td.align-right >> nth=1": "3.72",
        ".language": "python",
        "p > code": "code with <b>",
    }.items():
        expect(answer.locator(selector).first).to_have_text(text)
    expect(answer.locator("ol[start='3'] > li")).to_have_count(2)
    expect(answer.locator("li.task input:checked")).to_have_count(1)
    expect(answer).to_contain_text("snake_case_words stay")
    expect(answer).to_contain_text("Tom & Jerry")
    links = answer.locator("a").evaluate_all("nodes => nodes.map((node) => node.href)")
    assert links == ["https://en.wikipedia.org/wiki/Gravity_(physics)", "https://example.org/a_b"], links
    answer.get_by_role("button", name="Copy").nth(0).click()
    code = chat.page.evaluate("navigator.clipboard.readText()")
    assert code.startswith("def fall(seconds):\n    return") and code.endswith("print(fall(2))"), code


def hostile_text_stays_text(chat):
    chat.send("hostile <img src=x onerror=window.hacked=9>")
    page, answer = chat.page, chat.answers.last
    page.wait_for_timeout(200)
    assert page.evaluate("window.hacked") is None
    assert page.locator("#messages").locator("script, img, iframe, style, svg[onload], [onerror]").count() == 0
    expect(answer).to_contain_text("<script>window.hacked = 1</script>")
    links = answer.locator("a").evaluate_all("nodes => nodes.map((node) => [node.href, node.rel, node.target])")
    safe = "noopener noreferrer nofollow"
    assert links == [
        ["https://evil.example/leak.png", safe, "_blank"],
        ["https://example.org/", safe, "_blank"],
    ], links
    assert not [path for path in chat.server.paths if path not in ("/", "/v1/models")]
    blocked = page.evaluate(
        """() => new Promise((done) => {
             document.addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective));
             document.body.append(Object.assign(document.createElement("script"), {textContent: "window.hacked = 10"}));
           })"""
    )
    chat.complaints.clear()  # the browser said so
    assert blocked == "script-src-elem" and page.evaluate("window.hacked") is None


def heavy_text_does_not_hang(chat):
    start = time.monotonic()
    chat.send("heavy")
    chat.page.evaluate("document.body.offsetHeight")
    assert time.monotonic() - start < 15, time.monotonic() - start


def stop_keeps_what_came(chat):
    chat.send("endless", wait=False)
    expect(chat.answers.last).to_contain_text("word5 ")
    expect(chat.page.locator("#speed")).to_have_text(re.compile(r"\d+\.\d tokens/s"))
    chat.page.keyboard.press("Escape")
    chat.wait_for_answer()
    assert chat.server.cancelled.wait(5), "the connection stays open"
    expect(chat.answers.last).to_contain_text("word5 ")
    expect(chat.answers.last.locator(".figures")).to_contain_text("stopped")
    expect(chat.page.locator("#failure")).to_be_empty()
    chat.send("next")
    assert [role for role, _ in chat.last_prompt()] == ["user", "assistant", "user"]


def an_answer_is_written_while_another_conversation_is_open(chat):
    chat.send("endless", wait=False)
    expect(chat.answers.last).to_contain_text("word1 ")
    chat.page.get_by_role("button", name="New conversation").click()
    chat.send("other")
    expect(chat.answers).to_have_text(re.compile("Answer 2 to: other"))
    chat.page.locator("#conversations .open", has_text="endless").click()
    expect(chat.answers.last).to_contain_text("word20 ")
    chat.page.get_by_role("button", name="Stop").click()
    chat.wait_for_answer()


def what_was_written_survives_a_reload(chat):
    chat.send("endless", wait=False)
    expect(chat.answers.last).to_contain_text("word110 ")  # it is kept every two seconds
    chat.page.evaluate("""() => {
        localStorage.setItem("turboquant.conversation.1", "not JSON");
        localStorage.setItem("turboquant.conversation.2", '{"id": "2", "title": "t", "changed": 1, "messages": [1]}');
    }""")
    chat.page.reload()
    expect(chat.page.locator("#conversations .open")).to_have_text(["endless"])
    chat.page.locator("#conversations .open").click()
    expect(chat.answers.last).to_contain_text("word50 ")
    expect(chat.page.locator(".writing")).to_have_count(0)


def regenerate_and_edit(chat):
    chat.send("first")
    chat.send("second")
    chat.page.keyboard.press("Alt+r")
    expect(chat.answers.last).to_contain_text("Answer 3 to: second")
    assert len(chat.last_prompt()) == 3
    chat.answers.last.get_by_role("button", name="Answer again").click()
    expect(chat.answers.last).to_contain_text("Answer 4 to: second")
    chat.page.locator("article.user").first.hover()
    chat.page.get_by_role("button", name="Edit and send again").first.click()
    chat.page.get_by_label("Edit the message").fill("changed")
    chat.page.keyboard.press("Enter")
    expect(chat.answers).to_have_count(1)
    expect(chat.answers).to_contain_text("Answer 5 to: changed")
    assert chat.last_prompt() == [("user", "changed")]
    chat.page.get_by_label("Message", exact=True).press("ArrowUp")
    expect(chat.page.get_by_label("Edit the message")).to_have_value("changed")
    chat.page.keyboard.press("Escape")
    expect(chat.page.get_by_label("Message", exact=True)).to_be_focused()


def thoughts_are_folded_and_not_sent_again(chat):
    chat.send("think")
    thoughts = chat.answers.last.locator("details")
    expect(thoughts.locator("summary")).to_have_text(re.compile("Thought for"))
    expect(thoughts.locator("strong")).not_to_be_visible()
    thoughts.locator("summary").click()
    expect(thoughts.locator("strong")).to_have_text("both")
    chat.send("more")
    assert not any("sides" in content for _, content in chat.last_prompt())


def conversations_are_renamed_deleted_and_brought_back(chat):
    chat.send("alpha")
    chat.page.get_by_role("button", name="New conversation").click()
    chat.send("beta")
    rows = chat.page.locator("#conversations .open")
    expect(rows).to_have_text(["beta", "alpha"])
    rows.nth(1).click()
    chat.page.get_by_role("button", name="Rename alpha").click()
    chat.page.get_by_label("Name of the conversation").fill("Greek letters")
    chat.page.keyboard.press("Enter")
    expect(rows).to_have_text(["beta", "Greek letters"])
    chat.page.get_by_role("button", name="Delete Greek letters").click()
    expect(rows).to_have_text(["beta"])
    chat.page.get_by_role("button", name="Undo").click()
    expect(rows).to_have_text(["Greek letters", "beta"])
    expect(chat.answers).to_have_count(1)
    with chat.page.expect_download() as download:
        chat.page.get_by_role("button", name="Export this conversation").click()
    assert download.value.suggested_filename == "Greek letters.md"
    assert "## You\n\nalpha\n" in Path(download.value.path()).read_text()
    other = chat.open()
    expect(other.locator("#conversations .open")).to_have_count(2)


def settings_are_kept_and_sent(chat):
    page = chat.page
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Temperature").fill("0.2")
    page.get_by_label("Top p").fill("0.9")
    page.get_by_label("Longest answer").fill("64")
    page.get_by_label("Dark", exact=True).check()
    page.get_by_role("button", name="Save").click()
    page.reload()
    chat.send("hello")
    request = chat.server.requests[-1]
    assert (request["temperature"], request["top_p"], request["max_tokens"]) == (0.2, 0.9, 64), request
    assert chat.last_prompt() == [("system", "Be brief."), ("user", "hello")]
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Dark or light").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark


def a_key_is_asked_for(chat):
    chat.server.key = "secret"
    chat.page.reload()
    expect(chat.page.get_by_role("alert")).to_contain_text("API key")
    chat.page.get_by_role("button", name="Open settings").click()
    expect(chat.page.get_by_label("API key")).to_be_focused()
    chat.page.get_by_label("API key").fill("secret")
    chat.page.get_by_role("button", name="Save").click()
    expect(chat.page.get_by_role("alert")).to_be_empty()
    expect(chat.page.locator("#model-name")).to_have_text("micro-4bit")
    chat.send("hello")
    expect(chat.answers).to_have_count(1)


def a_busy_server_is_asked_again(chat):
    chat.server.busy = 1
    chat.send("hello", wait=False)
    expect(chat.page.get_by_role("alert")).to_contain_text("Too many requests wait.")
    expect(chat.page.get_by_role("alert")).to_contain_text("Trying again in")
    expect(chat.answers).to_contain_text("Answer 2 to: hello")
    expect(chat.page.get_by_role("alert")).to_be_empty()
    chat.server.busy = 1
    chat.send("again", wait=False)
    chat.page.get_by_role("alert").get_by_role("button", name="Cancel").click()
    chat.page.wait_for_timeout(2500)
    assert len(chat.server.requests) == 3
    chat.page.get_by_role("button", name="Try again").click()
    expect(chat.answers.last).to_contain_text("Answer 4 to: again")


def failures_say_what_and_offer_another_try(chat):
    alert = chat.page.get_by_role("alert")
    for word, says, answers in (
        ("bad", "nothing that the template takes", 0),
        ("breaks", "the disk is gone", 1),
        ("cut", "ended before the answer did", 1),
    ):
        chat.page.get_by_role("button", name="New conversation").click()
        chat.send(word)
        expect(alert).to_contain_text(says)
        expect(chat.answers).to_have_count(answers)
        expect(alert.get_by_role("button", name="Try again")).to_be_visible()
    chat.server.shutdown()
    chat.server.server_close()
    chat.page.get_by_role("button", name="New conversation").click()
    chat.send("hello")
    expect(alert).to_contain_text("The server cannot be reached")
    expect(chat.page.locator("article.user")).to_have_count(1)


def keyboard_and_screen_reader(chat):
    page = chat.page
    box = page.get_by_label("Message", exact=True)
    expect(box).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    expect(box).to_have_value("one\ntwo")
    page.keyboard.press("Enter")
    chat.wait_for_answer()
    expect(page.locator("#announcer")).to_have_text("Answer: Answer 1 to: one two")
    for landmark in ("banner", "main", "navigation"):
        assert page.get_by_role(landmark).count() >= 1, landmark
    unnamed = page.locator("button:visible, input:visible, textarea:visible").evaluate_all(
        "nodes => nodes.filter((node) => !(node.ariaLabel || node.textContent.trim() || node.labels?.length)).length"
    )
    assert unnamed == 0, unnamed
    page.keyboard.press("Control+/")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Keyboard")).not_to_be_visible()
    page.keyboard.press("Alt+n")
    expect(chat.answers).to_have_count(0)
    page.locator(".skip-link").focus()
    seen = []
    for _ in range(8):
        seen.append(page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.textContent.slice(0, 40)"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or page.evaluate("document.activeElement.id") == "input", seen
        page.keyboard.press("Tab")
    assert seen[0].startswith("Skip") and "New conversation" in seen[1], seen


def phone(chat):
    page = chat.page
    chat.send("markdown")
    outside = page.locator("button:visible, #composer, .prose > *").evaluate_all(
        "nodes => nodes.filter((node) => node.getBoundingClientRect().right > innerWidth).length"
    )
    assert outside == 0, outside
    drawer = page.get_by_role("navigation")
    expect(drawer).not_to_be_visible()
    page.get_by_role("button", name="Conversations", exact=True).click()
    expect(drawer).to_be_visible()
    expect(page.get_by_role("button", name="New conversation")).to_be_focused()
    page.keyboard.press("Escape")
    expect(drawer).not_to_be_visible()
    expect(page.get_by_role("button", name="Conversations", exact=True)).to_be_focused()
    small = page.locator("header button:visible, form button:visible").evaluate_all(
        "nodes => nodes.filter((node) => node.getBoundingClientRect().width < 36).length"
    )
    assert small == 0, small


TESTS = [value for value in list(globals().values()) if callable(value) and getattr(value, "__code__", None)
         and value.__code__.co_varnames[:1] == ("chat",) and value.__code__.co_argcount == 1]


def screenshots(browser, page_folder, out):
    """Pictures to look at."""
    out.mkdir(parents=True, exist_ok=True)
    for name, options in {
        "light": {},
        "dark": {"color_scheme": "dark"},
        "phone": {"size": PHONE, "device_scale_factor": 2},
        "phone-dark": {"size": PHONE, "device_scale_factor": 2, "color_scheme": "dark"},
    }.items():
        chat = Chat(browser, page_folder, **options)
        take = lambda what: chat.page.screenshot(path=out / f"{name}-{what}.png")
        take("welcome")
        chat.send("Why is the sky blue?")
        chat.send("think about both")
        chat.page.get_by_role("button", name="New conversation").click(force=True) if "phone" not in name else None
        chat.send("markdown please, with every kind of block that there is, and a long title")
        take("end")
        chat.page.evaluate("document.getElementById('thread').scrollTop = 150")
        take("top")
        chat.page.get_by_role("button", name="Settings").click()
        take("settings")
        chat.page.keyboard.press("Escape")
        chat.server.busy = 1
        chat.send("hello", wait=False)
        expect(chat.page.get_by_role("alert")).to_contain_text("Trying")
        take("busy")
        chat.page.keyboard.press("Control+/")
        take("keys")
        chat.page.keyboard.press("Escape")
        if "phone" in name:
            chat.page.get_by_role("button", name="Conversations", exact=True).click()
            chat.page.wait_for_timeout(300)
            take("drawer")
        chat.context.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page_folder", type=Path)
    parser.add_argument("--screenshots", type=Path)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        print(f"skipped: no Chromium is installed; {HOW}")
        return SKIPPED
    failed = 0
    with sync_playwright() as playwright:
        # Chromium's sandbox does not run as root; what it opens here is this test's own page.
        browser = playwright.chromium.launch(executable_path=chromium, chromium_sandbox=os.geteuid() != 0)
        if arguments.screenshots:
            screenshots(browser, arguments.page_folder, arguments.screenshots)
            return 0
        tests = [test for test in TESTS if not arguments.names or test.__name__ in arguments.names]
        for test in tests:
            start = time.monotonic()
            try:
                chat = Chat(browser, arguments.page_folder, size=PHONE if test is phone else None)
                test(chat)
                chat.close()
                print(f"ok    {test.__name__} ({time.monotonic() - start:.1f} s)")
            except Exception:  # the others are still worth running
                failed += 1
                print(f"FAIL  {test.__name__}\n{traceback.format_exc()}")
        browser.close()
    print(f"{len(tests) - failed} of {len(tests)} tests passed")
    return 1 if failed or not tests else 0


if __name__ == "__main__":
    sys.exit(main())
