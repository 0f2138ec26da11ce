"""Files of this room: written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError


class FilterError(ValueError):
    """A filter is missing, damaged, or does not fit; the message is one sentence."""


def write_whole(files: Mapping[Path, Callable[[Path], object]]) -> None:
    """Write files beside their places and rename them once all are there; makes the folders.

    Args:
        files: by path, what writes the file to another path.

    Raises:
        FilterError: one cannot be written; what was there is still there.
    """
    fresh = {path: path.with_name(f".{path.name}.{os.getpid()}.part") for path in files}
    try:
        for path, write in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write(fresh[path])
        for path, beside in fresh.items():
            beside.replace(path)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise FilterError(
            f"cannot write {str(path)!r} ({why}); what was there is unchanged; choose another place."
        ) from error
    finally:
        for beside in fresh.values():
            with suppress(OSError):
                beside.unlink(missing_ok=True)
