"""Files that are written whole or not at all, and JSON that can be written again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from dllm_decode.errors import WriteError


def write_whole(path: str | Path, contents: str | bytes) -> None:
    """Write a file beside its place and rename it there: whatever happens, the old one or the new one is whole.

    Raises:
        WriteError: it cannot be written; what was there is still there.
    """
    path = Path(path)
    data = contents.encode() if isinstance(contents, str) else contents
    fresh = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if path.exists() and not path.is_file():  # a pipe or a device
            path.write_bytes(data)
            return
        try:
            fresh.write_bytes(data)
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(
            f"cannot write {str(path)!r} ({error.strerror}); what was there is unchanged; choose another place."
        ) from error


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text of whole characters: an escape may stand for half of one, which no file can hold.

    Raises:
        ValueError: no JSON, nested without end, or half a character in a string.
    """
    text = text.decode() if isinstance(text, bytes) else text
    try:
        found = json.loads(text)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    return found
