#!/usr/bin/env python3
"""Makes tests/data/text: what Hugging Face's own Python packages make of tokenizers and chat templates.

Usage: make_text_fixtures.py SMOLLM2_FOLDER     a Hugging Face folder of SmolLM2 with tokenizer.json and
                                                tokenizer_config.json

Needs the packages tokenizers, transformers and jinja2. Written are
  smollm2_tokenizer.json     SmolLM2's tokenizer without white space, merges in the older form "a b"
  fallback_tokenizer.json    a small tokenizer in Llama 2's style: spaces as U+2581, byte fallback, begin token
  tokenizer_golden.json      for each: texts with ids and decoded text, and random ids with decoded text
  chat_golden.json           templates (those of tests/data/text/templates and SmolLM2's) with chats and what they
                             render to, and small pieces of Jinja with their result
"""
import json
import random
import sys
from pathlib import Path

from tokenizers import Tokenizer
from transformers.utils.chat_template_utils import _compile_jinja_template, render_jinja_template

OUT = Path(__file__).resolve().parent.parent / "tests" / "data" / "text"

TEXTS = r"""
Hello, world!
The quick brown fox jumps over the lazy dog.
 leading space
trailing space 
  two  spaces   three    four
I'll, you've, they're, it's, we'd, can't, I'm
DON'T SHOUT, IT'S RUDE
CamelCaseIdentifier snake_case_identifier kebab-case-identifier SCREAMING_CASE
def f(x):\n    return x ** 2 + 1\n
for (int i = 0; i < n; ++i) { sum += a[i]; }
#include <vector>\n\nint main() {\n\treturn 0;\n}
SELECT name, COUNT(*) FROM users WHERE age >= 21 GROUP BY name;
<html><body class="main">&nbsp;text</body></html>
{"key": [1, 2.5, null, true], "nested": {"a": "b"}}
https://example.org/path/to?query=1&other=%20#anchor
user.name+tag@example.co.uk
/usr/local/bin/python3 -m venv .venv && source .venv/bin/activate
C:\\Windows\\System32\\cmd.exe
$ git commit -m "fix: off-by-one" --amend
fn main() -> Result<(), Box<dyn Error>> { Ok(()) }
lambda x: (x if x else None)
x = [i for i in range(10) if i % 2 == 0]
\\documentclass{article} \\begin{equation} E = mc^2 \\end{equation}
0
1234567890
3.14159265358979
1,000,000.00
-42 +7 1e-10 0xFF 0b1010
2024-02-29T23:59:59Z
(555) 123-4567
٠١٢٣٤٥٦٧٨٩ १२३ ①②③ Ⅳ ½ ²
日本語のテキストです。
今日はいい天気ですね！
中文字符，没有空格的句子。
繁體中文與標點符號「引號」
한국어 문장입니다.
ㅎㅎ ㅋㅋㅋ
日本語とEnglishが混ざった文 with 漢字
𠮷野家 𩸽
Привет, мир! Ёлка
Ελληνικά κείμενα με τόνους
עברית מימין לשמאל
العربية من اليمين إلى اليسار
فارسی ۱۲۳ اردو
Mixed עברית and English العربية text
हिन्दी में वाक्य
বাংলা ভাষা
தமிழ் எழுத்து
ภาษาไทยไม่มีช่องว่าง
ພາສາລາວ မြန်မာ ខ្មែរ
ქართული ენა Հայերեն
አማርኛ ᏣᎳᎩ ᓀᐦᐃᔭᐍᐏᐣ
Tiếng Việt có dấu
Zażółć gęślą jaźń
Þórður æ ø å ß ÿ Œ
İstanbul ıstanbul
😀
😀😃😄😁
👍🏽 👋🏿 🤞🏻
👨‍👩‍👧‍👦 family
👩🏾‍💻 coder 🏳️‍🌈 flag 🏴‍☠️
🇩🇪🇫🇷🇯🇵 flags
1️⃣2️⃣3️⃣ #️⃣
❤️ ❤ ♥ ☺️
text😀text😀text
🧑‍🚀🪐🛰️
🫠🫡🫥🪿
e\u0301 vs é, n\u0303 vs ñ
Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f\u0334\u0319\u0324\u031e\u0349 zalgo
a\u0308\u0301\u0323b
\u0301 combining first
ﬁ ﬂ ligatures ﷺ
ｆｕｌｌｗｉｄｔｈ １２３
ℌ𝔢𝔩𝔩𝔬 𝓦𝓸𝓻𝓵𝓭 𝟙𝟚𝟛
∀x ∈ ℝ: ∃y > x, ∑ᵢ aᵢ² ≤ ∞
∫₀^∞ e^{-x²} dx = √π/2
α + β ≠ γ ⇒ ¬(p ∧ q) ⊕ r
$\\frac{a}{b} \\times \\sqrt{2}$
a ≈ b ± 0.5 · 10⁻³ °C µm
“curly quotes” ‘single’ „low“ «guillemets»
em—dash en–dash minus− hyphen‐ soft\u00adhyphen
ellipsis… bullet• dagger† section§ ¶
€100 £50 ¥1000 ₹500 ₿1
© ® ™ ℠
┌─┬─┐│ │ │└─┴─┘ █▓▒░
→ ← ↑ ↓ ↔ ⇒ ⟶
♔♕♖♗♘♙ ♩♪♫ ☀☁☂
\t
\ttab\tseparated\tvalues
\t\t\tdeep indent
\n
\n\n\n
line one\nline two\nline three
windows\r\nline\r\nends\r\n
old mac\rline ends\r
mixed \t \n \r\n whitespace \t\n
                    twenty spaces
    four\n        eight\n            twelve
a\u00a0non-breaking\u00a0space
thin\u2009space em\u2003space ideographic\u3000space
zero\u200bwidth\u200cjoiners\u200dhere\u2060
\u200e\u200fmarks \u202eoverride\u202c \u2066isolate\u2069
\ufeffbyte order mark
line\u2028separator\u2029paragraph next\u0085line
\u0000nul
bell\u0007 backspace\u0008 escape\u001b[31mred\u001b[0m delete\u007f
\u0001\u0002\u0003\u001c\u001d\u001e\u001f
vertical\u000btab form\u000cfeed
c1 \u0080\u0090\u009f controls
replacement \ufffd character
ends with replacement \ufffd
\ufffd\ufffd\ufffd
noncharacters \ufffe \uffff \ufdd0
private \ue000 \uf8ff use
<|im_start|>
<|im_end|>
<|endoftext|>
<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n
<|im_start|><|im_start|><|im_end|><|im_end|>
text<|endoftext|>more text
 <|im_start|> spaces around <|im_end|> 
<|im_start |> <|im_start> <im_start|> almost
<|IM_START|> upper
<repo_name> <file_sep> <reponame> <filename>
<gh_stars> <issue_start> <issue_comment> <issue_closed>
<jupyter_start> <jupyter_text> <jupyter_code> <jupyter_output> <jupyter_script> <empty_output>
<s> </s> <unk> <pad> [CLS] [SEP] [MASK]
<think>hmm</think> <tool_call>{}</tool_call>
Ġ Ċ ĉ Ā ł
▁ ▁▁ <0x0A> <0xE2>
aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft
pneumonoultramicroscopicsilicovolcanoconiosis
supercalifragilisticexpialidocious antidisestablishmentarianism
!!!???...,,,;;;:::
---===+++***
((((((((((
)]}>})])>
@#$%^&*()_+-=[]{}|;':",./<>?`~
"'"'"'
_____
a_b_c __init__ __main__
A.B.C. U.S.A. Ph.D. e.g. i.e.
1st 2nd 3rd 4th 21st
3D 4K 5G H2O CO2 B2B
x1y2z3 abc123def 123abc
'quoted' `code` ```block```
# Heading\n\n* item\n* item\n\n1. one\n2. two
| a | b |\n|---|---|\n| 1 | 2 |
> quote\n>> nested
[link](https://example.org) ![image](a.png)
**bold** *italic* ~~strike~~
To be, or not to be, that is the question:\nWhether 'tis nobler in the mind to suffer
Il était une fois, dans un royaume lointain…
Es war einmal ein König, der hatte drei Töchter.
Había una vez un niño que soñaba.
Era uma vez, coração ação.
C'era una volta
Det var en gång
Olipa kerran
Bir varmış bir yokmuş
Dawno, dawno temu
Il y a 25 ans, l'œuvre coûtait 3 €
q
Q
 
.
\u00e9
\ud83e\udd16
\u4e2d
Ω
""".strip("\n").split("\n")


def texts():
    """200 texts: the list above (JSON escapes resolved), then made ones."""
    given = []
    for line in TEXTS:
        given.append(json.loads('"' + line.replace('"', '\\"') + '"') if "\\" in line else line)
    given.append("")
    given += ["x" * 3000, "ab" * 500, "é" * 300, "漢" * 200, "😀" * 100, " " * 200, "\n" * 100, "\t" * 50, "7" * 120]
    given.append("".join(chr(c) for c in range(1, 128)))
    given.append("".join(chr(c) for c in range(0xA0, 0x250)))
    rng = random.Random(7)
    pools = ["abcdefgh ", "AbC019_-. \n", "日本語中文漢字かな ", "😀👍🏽👨\u200d👩é\u0301ñ ", "()[]{}<>=+-*/;\n\t ",
             "שלוםمرحبا 12", "\u0000\u0001\u001f\u007f\u0085\u00a0a ", "<|im_start|>end "]
    while len(given) < 200:
        pool = rng.choice(pools) + rng.choice(pools)
        given.append("".join(rng.choice(pool) for _ in range(rng.randint(3, 60))))
    assert len(given) == 200, len(given)
    return given


def fallback_tokenizer():
    """Llama 2's kind of tokenizer with a vocabulary of a few words."""
    words = ["▁", "a", "b", "c", "d", "e", "h", "l", "o", "r", "w", "t", "n", "i", ".", "é", "日",
             "he", "ll", "llo", "hello", "▁hello", "▁w", "or", "ld", "orld", "▁world", "▁a", "▁▁", "▁t", "he", "▁the"]
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    for word in words:
        vocab.setdefault(word, len(vocab))
    merges = ["h e", "l l", "ll o", "he llo", "▁ hello", "▁ w", "o r", "l d", "or ld", "▁w orld", "▁ a", "▁ ▁", "▁ t",
              "▁t he"]
    special = [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                "special": True} for i, t in enumerate(["<unk>", "<s>", "</s>"])]
    begin = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    return {
        "version": "1.0",
        # Settings that must have no effect.
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 6}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "<unk>"},
        "added_tokens": special,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                       {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": None,
        "post_processor": {"type": "TemplateProcessing", "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
                           "pair": [begin, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                           "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                    {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                  "vocab": vocab, "merges": [m.split(" ") for m in merges]},
    }


def with_decoder(name):
    """The small tokenizer with another decoder."""
    decoders = {"metaspace": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
                "wordpiece": {"type": "WordPiece", "prefix": "##", "cleanup": True}, "none": None}
    return fallback_tokenizer() | {"decoder": decoders[name], "truncation": None, "padding": None}


def golden(tokenizer, all_texts, rng, vocabulary, n_random):
    tokenizer.no_truncation()
    tokenizer.no_padding()
    out = {"texts": [], "random": []}
    for text in all_texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        special = tokenizer.encode(text, add_special_tokens=True).ids
        out["texts"].append({"text": text, "ids": ids, "ids_special": special,
                             "decoded": tokenizer.decode(special, skip_special_tokens=False),
                             "decoded_skip": tokenizer.decode(special, skip_special_tokens=True)})
    for _ in range(n_random):
        ids = [rng.choice(vocabulary) for _ in range(rng.randint(1, 40))]
        out["random"].append({"ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False),
                              "decoded_skip": tokenizer.decode(ids, skip_special_tokens=True)})
    return out


SNIPPETS = [
    "{{ none }} {{ true }} {{ false }} {{ 1 }} {{ 1.5 }} {{ 2.0 }} {{ missing }}|",
    "{{ [1, 'a', none, true] }} {{ {'a': 1, 'b': [2.5]} }} {{ ('x', 1) }} {{ [\"it's\"] }}",
    "{{ 'a' ~ 1 ~ none ~ true ~ [1] }}",
    "{{ d | tojson }} {{ d | tojson(indent=2) }} {{ d | tojson(indent=4) }}",
    "{{ d | tojson(ensure_ascii=True) }} {{ d | tojson(sort_keys=true) }} {{ d | tojson(separators=(',', ':')) }}",
    "{{ '<&>\\'\"é\\n' | tojson }} {{ 1.0 | tojson }} {{ 1e20 | tojson }} {{ 0.00001 | tojson }} {{ none | tojson }}",
    "{{ [] | tojson(indent=2) }} {{ {} | tojson(indent=2) }} {{ [1, [2, {}]] | tojson(indent=1) }} {{ (1, 2) | tojson }}",
    "{{ '  strip me \\n'.strip() }}|{{ ' l'.lstrip() }}|{{ 'r '.rstrip() }}|{{ 'xxaxx'.strip('x') }}",
    "{{ 'a,b,c'.split(',') }} {{ 'a b  c'.split() }} {{ 'a,b,c'.split(',', 1) }} {{ 'a</think>b'.split('</think>')[-1] }}",
    "{{ 'a.b.c'.rsplit('.', 1) }} {{ 'k=v=w'.partition('=') }} {{ 'k=v=w'.rpartition('=')[0] }}",
    "{{ 'abc'.startswith('ab') }} {{ 'abc'.endswith(('x', 'c')) }} {{ 'abc'.find('c') }} {{ 'abc'.index('b') }}",
    "{{ 'abc'.upper() }} {{ 'ABC'.lower() }} {{ 'abc def'.title() }} {{ 'abc'.capitalize() }} {{ 'a-b'.replace('-', '+') }}",
    "{{ 'prefix-x'.removeprefix('prefix-') }} {{ 'x.json'.removesuffix('.json') }} {{ '7'.zfill(3) }} {{ 'a\\nb'.splitlines() }}",
    "{{ ', '.join(['a', 'b']) }} {{ ['a', 'b'] | join(', ') }} {{ '{} is {}'.format('a', 1) }} {{ '%s=%d' | format('a', 3) }}",
    "{{ 'abc'[0] }} {{ 'abc'[-1] }} {{ 'abc'[1:] }} {{ 'abc'[::-1] }} {{ l[1:] }} {{ l[::-1] }} {{ l[-1] }} {{ l[:-1] }}",
    "{{ d.get('name') }} {{ d.get('nope', 'default') }} {{ d.keys() | list }} {{ (d.values() | list)[:4] }} {{ (d.items() | list)[:4] }}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %} {% for k, v in d | items %}{{ k }}{% endfor %} {% for k in d %}{{ k }},{% endfor %}",
    "{% for k, v in d | dictsort %}{{ k }} {% endfor %}{{ d | length }} {{ l | length }} {{ 'é😀' | length }}",
    "{{ d is mapping }} {{ l is mapping }} {{ d is sequence }} {{ l is sequence }} {{ 'a' is sequence }} {{ 1 is sequence }}",
    "{{ d is iterable }} {{ l is iterable }} {{ 'a' is iterable }} {{ 1 is iterable }} {{ 'a' is string }} {{ l is string }}",
    "{{ none is none }} {{ missing is defined }} {{ d.name is defined }} {{ d.nope is defined }} {{ missing is none }} {{ d['nope'] is undefined }}",
    "{{ true is boolean }} {{ 1 is number }} {{ 1 is integer }} {{ 1.5 is float }} {{ true is true }} {{ 3 is odd }} {{ 4 is divisibleby 2 }}",
    "{{ 'a' in d }} {{ 'name' in d }} {{ 'x' not in l }} {{ 'b' in 'abc' }} {{ 1 in l }}",
    "{% set ns = namespace(found=false, n=0) %}{% for x in l %}{% if x == 2 %}{% set ns.found = true %}{% endif %}{% set ns.n = ns.n + x %}{% endfor %}{{ ns.found }} {{ ns.n }}",
    "{% set x = 1 %}{% for i in l %}{% set x = i %}{% endfor %}{{ x }}",
    "{% for x in l %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 3 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex0 }}{{ loop.previtem }}{{ loop.nextitem }} {% endfor %}",
    "{% for x in l if x > 1 %}{{ x }}{% else %}none{% endfor %}{% for x in [] %}{% else %}empty{% endfor %}",
    "{% macro m(a, b='B') %}[{{ a }}{{ b }}]{% endmacro %}{{ m('x') }}{{ m('x', b='y') }}",
    "{% macro wrap() %}<{{ caller() }}>{% endmacro %}{% call wrap() %}in{% endcall %}",
    "{% set block %}captured {{ l[0] }}{% endset %}{{ block | upper }} {% filter upper %}f{% endfilter %}",
    "{{ 'yes' if l else 'no' }} {{ 'yes' if missing }} {{ missing | default('d') }} {{ '' | default('d', true) }} {{ none or 'x' }}",
    "{{ l | map('string') | join('-') }} {{ users | map(attribute='name') | list }} {{ users | selectattr('age', 'gt', 30) | map(attribute='name') | first }}",
    "{{ users | rejectattr('admin') | list | length }} {{ users | selectattr('admin', 'equalto', true) | list | length }} {{ users | sort(attribute='age') | map(attribute='name') | join }}",
    "{{ l | first }} {{ l | last }} {{ l | sum }} {{ l | max }} {{ l | reverse | list }} {{ [3, 1, 2] | sort }} {{ [1, 1, 2] | unique | list }}",
    "{{ ' x ' | trim }} {{ 'a\\nb' | indent(2) }} {{ 'a\\nb' | indent(2, true) }} {{ '5' | int + 1 }} {{ 2.7 | int }} {{ 2.567 | round(1) }} {{ 5 | float }}",
    "{{ 7 // 2 }} {{ 7 / 2 }} {{ 7 % 3 }} {{ 2 ** 5 }} {{ -3 }} {{ 'ab' * 2 }} {{ [1] + [2] }} {{ 1 == 1.0 }} {{ 'a' < 'b' }}",
    "{{ not true and false }} {{ not (true and false) }} {{ (1 if true else 2) == 1 }} {{ (l[0] == 1) != (l[1] == 1) }}",
    "{{ range(3) | list }} {% for i in range(2, 8, 3) %}{{ i }}{% endfor %} {{ dict(a=1, b='x') }} {{ 'é' | upper }} {{ 'a' 'b' }}",
    "a\n  {% if true %}\n  b\n  {% endif %}\n  c {%- if true %} d {% endif -%} e\n{# comment #}\nf {#- c -#} g\n",
    "line\n    {%+ if true %}keep{% endif +%}\nnext\n\n",
    "crlf\r\n{% if true %}\r\nx\r\n{% endif %}\r\n",
    "{% generation %}a{{ l[0] }}{% endgeneration %}|{%- generation -%} b {%- endgeneration -%}|\n{% generation %}\nc\n{% endgeneration %}\nd",
    "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}{{ '{% generation %}' }}{# {% generation %} #}{% raw %}{% generation %}{% endraw %}",
    "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a }}",
    "{{ d.name.upper() }} {{ d['name'] }} {{ d.list[0] }} {{ d['list'] | length }} {{ users[0].name }} {{ users[-1]['name'] }}",
    "{{ '{{' }} {% raw %}{{ not }} {% if %}{% endraw %}",
    "{{ \"\\t\" }}|{{ '\\u00e9' }}|{{ 'a\\\\b' }}|{{ \"it's\" }}",
    "{{ l | tojson | length }} {{ 'x' | string }} {{ 1 | string + 'a' }} {{ [1, 2] | string }} {{ 'abc' | list }} {{ 'a b' | replace(' ', '_') }}",
    "{{ l.index(2) }} {{ l.count(2) }} {{ 'aXbX'.count('X') }} {{ 'abc'.isalpha() }} {{ '12'.isdigit() }} {{ 'AB'.isupper() }} {{ 'a b'.isspace() }}",
    "{{ messages is defined }} {{ tools is none }} {{ tools is defined }} {{ documents is none }} {{ bos_token }}{{ eos_token }}",
    "{{ users | groupby('admin') | length }} {{ users | map(attribute='nope', default='-') | join }} {{ [[1, 'a'], [2, 'b']] | map('last') | join }}",
]

SNIPPET_VARIABLES = {
    "d": {"name": "Zoë", "b": 2, "a": {"x": None, "y": [1, 2.5, True]}, "list": ["p", "q"], "quote": "\"\\/\u007f\u2028"},
    "l": [1, 2, 3],
    "users": [{"name": "ann", "age": 41, "admin": True}, {"name": "bob", "age": 29, "admin": False}],
}

TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "Current weather in a \"city\" <now>",
     "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "Name, e.g. Zürich"},
                    "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}, "days": {"type": "integer", "default": 1}},
                    "required": ["city"]}}},
    {"type": "function", "function": {"name": "add", "description": "Adds numbers", "parameters": {"type": "object",
     "properties": {"a": {"type": "number"}, "b": {"type": "number"}}, "required": ["a", "b"]}}},
]

CHATS = {
    "one": [{"role": "user", "content": "Hi!"}],
    "system": [{"role": "system", "content": "  Be brief. \n"}, {"role": "user", "content": "What's 1+1? <b>&\"'</b>"},
               {"role": "assistant", "content": "<think>\nsmall\n</think>\n\n2"}, {"role": "user", "content": "日本語 😀\n\nok"}],
    "tools": [{"role": "system", "content": "Use tools."}, {"role": "user", "content": "Weather in Zürich?"},
              {"role": "assistant", "content": None, "tool_calls": [{"id": "abcdefghi", "type": "function", "function": {
                  "name": "get_weather", "arguments": {"city": "Zürich", "days": 2, "exact": True, "extra": None, "f": 0.5}}}]},
              {"role": "tool", "tool_call_id": "abcdefghi", "name": "get_weather", "content": "{\"temp\": 21.5}"},
              {"role": "tool", "tool_call_id": "abcdefghj", "name": "get_weather", "content": "cloudy"},
              {"role": "assistant", "content": "21.5 degrees"}, {"role": "user", "content": "Thanks"}],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "Look: "}, {"type": "image"}, {"type": "text", "text": "?"}]}],
    "wrong_order": [{"role": "assistant", "content": "I start"}, {"role": "user", "content": "no"}],
    "empty": [],
}
VARIABLES = [{}, {"tools": TOOLS}, {"enable_thinking": False, "date_string": "26 Jul 2024"}]


def render(template, chat, variables, bos, eos, prompt):
    """(text, None) or (None, message) as transformers renders it."""
    try:
        rendered, _ = render_jinja_template([chat], chat_template=template, add_generation_prompt=prompt,
                                            **({"bos_token": bos, "eos_token": eos} | variables))
        return rendered[0], None
    except Exception as error:  # the message is what the test compares
        return None, str(error) if type(error).__name__ == "TemplateError" else ""


def chat_golden(smollm2_config):
    templates = {path.stem: path.read_text() for path in sorted((OUT / "templates").glob("*.jinja"))}
    templates["smollm2"] = smollm2_config["chat_template"]
    out = {"templates": templates, "chats": CHATS, "variables": VARIABLES, "cases": [], "snippets": [],
           "snippet_variables": SNIPPET_VARIABLES, "smollm2_tokens": [smollm2_config["bos_token"], smollm2_config["eos_token"]]}
    for name, template in templates.items():
        bos, eos = out["smollm2_tokens"] if name == "smollm2" else ("<s>", "</s>")
        for chat_name, chat in CHATS.items():
            # transformers drops null members when it is given a chat, before the template sees it.
            plain = [{k: v for k, v in message.items() if v is not None} for message in chat]
            for i, variables in enumerate(VARIABLES):
                for prompt in (False, True):
                    text, error = render(template, plain, variables, bos, eos, prompt)
                    out["cases"].append({"template": name, "chat": chat_name, "variables": i, "bos": bos, "eos": eos,
                                         "prompt": prompt} | ({"text": text} if error is None else {"error": error}))
    for snippet in SNIPPETS:
        text = _compile_jinja_template(snippet).render(messages=[], tools=None, documents=None, bos_token="<s>",
                                                       eos_token="</s>", **SNIPPET_VARIABLES)
        out["snippets"].append({"source": snippet, "text": text})
    return out


def write(name, value):
    path = OUT / name
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(path.name, path.stat().st_size, "bytes")


def main():
    folder = Path(sys.argv[1])
    smollm2 = json.loads((folder / "tokenizer.json").read_text())
    smollm2["model"]["merges"] = [m if isinstance(m, str) else " ".join(m) for m in smollm2["model"]["merges"]]
    write("smollm2_tokenizer.json", smollm2)
    write("fallback_tokenizer.json", fallback_tokenizer())

    rng = random.Random(11)
    all_texts = texts()
    tokenizer = Tokenizer.from_file(str(OUT / "smollm2_tokenizer.json"))
    # Half of the random ids are single bytes, so that characters break in every way.
    size = tokenizer.get_vocab_size()
    single = [i for i in range(size) if len(tokenizer.id_to_token(i)) == 1]
    result = {"smollm2": golden(tokenizer, all_texts, rng, single * (size // len(single)) + list(range(size)), 100)}
    tokenizer = Tokenizer.from_str(json.dumps(fallback_tokenizer()))
    small = ["hello world", " hello  world", "  ", "héllo wörld", "日本 😀😀 a", "😀", "a\nb\r\n", "", "<s>hello</s> a",
             "hello<s> world", "e\u0301 " * 5, "the world.", "▁"]
    common = [tokenizer.token_to_id(f"<0x{b:02X}>") for b in (0xF0, 0x9F, 0x98, 0x80, 0xC3, 0xA9, 0x0A)] * 4
    words = list(range(3)) + list(range(259, tokenizer.get_vocab_size())) * 2
    result["fallback"] = golden(tokenizer, small, rng, common + words, 200)
    for name in ("metaspace", "wordpiece", "none"):
        tokenizer = Tokenizer.from_str(json.dumps(with_decoder(name)))
        result[name] = golden(tokenizer, small, rng, words, 40) | {"decoder": with_decoder(name)["decoder"]}
    write("tokenizer_golden.json", result)
    write("chat_golden.json", chat_golden(json.loads((folder / "tokenizer_config.json").read_text())))


if __name__ == "__main__":
    main()
