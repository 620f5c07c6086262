"""Prompts of conversations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from turboquant._native import LanguageModel


def apply_chat_template(
    model: LanguageModel, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True
) -> str:
    """The prompt of a conversation: messages are dicts with "role" and "content". Generate with the ids of
    model.encode(prompt, add_special=False), because the template writes the begin token itself. Error: the model has no
    chat template, or what the template raises."""
    return model.render_chat(json.dumps([dict(message) for message in messages]), add_generation_prompt)
