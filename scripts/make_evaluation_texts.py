#!/usr/bin/env python3
"""Writes data/python-code.txt and data/python-documentation.txt from the standard library of Python 3.11.7.

Usage: make_evaluation_texts.py (run by that Python itself)

Texts of two other kinds than WikiText-2, for `turboquant evaluate --text`: modules of the standard library, and the
documentation of the language as help() shows it. Other versions of Python have other texts, so they are refused.
"""

import hashlib
import pathlib
import platform
import sys
import sysconfig

VERSION = "3.11.7"
MODULES = ["configparser", "contextlib", "cmd", "csv", "copy"]
DOCUMENTATION_BYTES = 120_000
SHA256 = {
    "python-code.txt": "6601ebccf4cb5853ff92a369d414458105b0d0d8e9245d6cb1ca847dd82fc75a",
    "python-documentation.txt": "b7061b6bed2f1be39d5a05099c9bb7e9f4c0ca2f730f237ece657653bfdb84cd",
}


def code():
    library = pathlib.Path(sysconfig.get_paths()["stdlib"])
    return b"\n\n".join((library / f"{name}.py").read_bytes() for name in MODULES)


def documentation():
    from pydoc_data.topics import topics

    text = b""
    for _, topic in sorted(topics.items()):
        if len(text) + len(topic.encode()) > DOCUMENTATION_BYTES:
            break
        text += topic.encode() + b"\n"
    return text


def main():
    if platform.python_version() != VERSION:
        sys.exit(f"error: this is Python {platform.python_version()}; the texts are those of {VERSION}")
    data = pathlib.Path(__file__).resolve().parent.parent / "data"
    for name, text in {"python-code.txt": code(), "python-documentation.txt": documentation()}.items():
        digest = hashlib.sha256(text).hexdigest()
        if digest != SHA256[name]:
            sys.exit(f"error: {name} would be another text than the one measured on (sha256 {digest})")
        (data / name).write_bytes(text)
        print(data / name, len(text))


if __name__ == "__main__":
    main()
