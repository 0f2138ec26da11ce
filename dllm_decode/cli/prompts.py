"""Where ``generate`` gets its prompts from."""

from __future__ import annotations

import json
import sys
from typing import Any

from dllm_decode.cli.common import read_text
from dllm_decode.errors import DllmError
from dllm_decode.interface.content import content_text

#: A text, or chat messages.
Prompt = str | list[dict[str, str]]


def read_prompts(prompt: str | None, file: str | None) -> list[Prompt]:
    """Prompts of the argument, of a file (one per line; ``.jsonl``: JSON per line), or of standard input (one prompt).

    Raises:
        DllmError: none given, both given, unreadable, or empty.
    """
    if prompt is not None and file is not None:
        raise DllmError("both a PROMPT and -f were given; give one of them.")
    if file is not None:
        return _of_file(file)
    if prompt is None or prompt == "-":
        if prompt is None and sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty():
            raise DllmError("no prompt was given; give PROMPT, -f FILE, or pipe a text in.")
        prompt = read_text("-", "standard input").rstrip("\n")
        if not prompt.strip():
            raise DllmError("standard input is empty; give PROMPT, -f FILE, or pipe a text in.")
    if not prompt.strip():
        raise DllmError("the prompt is empty; give some text.")
    return [prompt]


def _of_file(path: str) -> list[Prompt]:
    lines = read_text(path, "prompts file").splitlines()
    prompts: list[Prompt] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            prompts.append(_of_json(line, path, number) if path.endswith((".jsonl", ".ndjson")) else line)
    if not prompts:
        raise DllmError(f"{'standard input' if path == '-' else repr(path)} holds no prompt; write one per line.")
    return prompts


def _of_json(line: str, path: str, number: int) -> Prompt:
    try:
        found: Any = json.loads(line)
    except ValueError:
        found = None
    if isinstance(found, dict):
        found = found.get("prompt", found.get("messages"))
    if isinstance(found, str) and found.strip():
        return found
    if isinstance(found, list) and found and all(isinstance(m, dict) for m in found):
        return found
    raise DllmError(
        f"line {number} of {path!r} is no prompt; write a JSON string, a list of chat messages, or an object with "
        "'prompt' or 'messages'."
    )


def shown(prompt: Prompt) -> str:
    """The prompt as a reader sees it: chat messages by their last content."""
    return prompt if isinstance(prompt, str) else content_text(prompt[-1].get("content", ""))
