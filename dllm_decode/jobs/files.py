"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from dllm_decode.errors import DllmError


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write beside ``path``; it takes its name when the block ends well, and vanishes otherwise.

    What it holds is on the disk before it has its name, and the name before the block is left.

    Raises:
        DllmError: the folder cannot be written, or the disk is full.
    """
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        try:
            with beside.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise DllmError(
            f"cannot write {str(path)!r} ({error.strerror or error}); what was there is as it was. Make room or give "
            "a folder you may write to, and run the same command again."
        ) from error


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # some file systems cannot
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
