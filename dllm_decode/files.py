"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

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
