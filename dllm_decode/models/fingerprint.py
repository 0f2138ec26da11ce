"""What tells one checkpoint from another without reading its weights."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from dllm_decode.models.loading import find_folder

#: Read whole: they are small, and every answer depends on them.
WHOLE = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
)


def checkpoint_fingerprint(name_or_path: str | Path) -> str:
    """A short text that two different checkpoints do not share, for all but malice.

    It covers config and tokenizer whole, and of each file of weights the name, the size, the header (names, types and
    places of all tensors) and some bytes from its middle and end.

    Raises:
        LoadError: there is no such checkpoint.
    """
    folder, digest = find_folder(name_or_path), hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name in WHOLE:
            digest.update(path.name.encode() + path.read_bytes())
        elif path.suffix == ".safetensors":
            size = path.stat().st_size
            digest.update(f"{path.name} {size}".encode())
            with path.open("rb") as file:
                header = file.read(8)
                digest.update(
                    header + file.read(min(struct.unpack("<Q", header)[0], 1 << 24) if len(header) == 8 else 0)
                )
                for at in (size // 2, max(0, size - 4096)):
                    file.seek(at)
                    digest.update(file.read(4096))
    return digest.hexdigest()[:24]
