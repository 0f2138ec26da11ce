"""What a job was asked for: its input, cut into shards, and everything that its answers depend on."""

from __future__ import annotations

import array
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dllm_decode import __version__
from dllm_decode.config import GenerationConfig
from dllm_decode.errors import DllmError
from dllm_decode.jobs.claims import Shards
from dllm_decode.jobs.files import written_whole
from dllm_decode.jobs.lines import Line, LineError

FORMAT = 1
SHARD_LINES = 256


@dataclass(frozen=True)
class JobSettings:
    """What the answers depend on beside the input; a line may override the last four.

    Attributes:
        model: name or folder, as for :func:`load_model`. ``dtype``, ``quantize``: as there.
        fingerprint: of the checkpoint's files.
        policy, cache: as of :class:`DiffusionSampler`. ``config``: fields of :class:`GenerationConfig`.
        chat: put text prompts in the model's template; ``None`` = if it has one.
    """

    model: str = "tiny"
    dtype: str | None = None
    fingerprint: str = ""
    policy: str = "threshold"
    cache: str = "none"
    config: dict[str, Any] = field(default_factory=lambda: GenerationConfig().to_dict())
    chat: bool | None = None
    quantize: str | None = None


@dataclass(frozen=True)
class Shard:
    """A run of lines of the input: where it begins, its bytes and their checksum, its first line, how many."""

    offset: int
    size: int
    sha256: str
    first: int
    lines: int


@dataclass(frozen=True)
class Manifest:
    """A job, as its folder says.

    Attributes:
        input: path of the JSON lines. ``size``, ``sha256``: of that file.
        settings: see there. ``version``: of the program that made the job. ``created``: seconds since 1970.
        shards: in order.
    """

    input: str
    size: int
    sha256: str
    settings: JobSettings
    version: str
    created: int
    shards: tuple[Shard, ...]

    @property
    def lines(self) -> int:
        """Lines of the input."""
        return sum(shard.lines for shard in self.shards)

    def read(self, number: int) -> list[Line]:
        """The lines of a shard.

        Raises:
            DllmError: the input has changed since the job was made.
        """
        shard = self.shards[number]
        try:
            with Path(self.input).open("rb") as file:
                file.seek(shard.offset)
                data = file.read(shard.size)
        except OSError as error:
            raise DllmError(f"cannot read the job's input {self.input!r} ({error.strerror}); put it back.") from error
        if hashlib.sha256(data).hexdigest() != shard.sha256:
            raise DllmError(
                f"the job's input {self.input!r} has changed at line {shard.first} or after since the job was made; "
                "put it back as it was, or begin another job."
            )
        numbered = enumerate(data.split(b"\n"), shard.first)
        return [Line.read(text, i) for i, text in numbered if text.strip()]

    def save(self, path: Path) -> None:
        """Write the manifest."""
        head = {"format": FORMAT, **{k: v for k, v in asdict(self).items() if k != "shards"}}
        with written_whole(path) as file:
            file.write(json.dumps(head).encode() + b"\n")
            for shard in self.shards:
                file.write(
                    json.dumps([shard.offset, shard.size, shard.sha256, shard.first, shard.lines]).encode() + b"\n"
                )

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read a manifest.

        Raises:
            DllmError: missing, damaged, or of another format.
        """
        try:
            with path.open(encoding="utf-8") as file:
                head = json.loads(file.readline())
                shards = tuple(Shard(*json.loads(line)) for line in file)
            if head.pop("format") != FORMAT:
                raise ValueError("another format")
            settings = JobSettings(**head.pop("settings"))
            return cls(settings=settings, shards=shards, **head)
        except FileNotFoundError as error:
            raise DllmError(
                f"{str(path.parent)!r} is no job folder; make one with: dllm-decode batch INPUT -o FOLDER"
            ) from error
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise DllmError(
                f"the manifest {str(path)!r} is damaged ({error}); begin the job anew in another folder."
            ) from error


def create_or_resume(
    input_path: Path,
    folder: Path,
    settings: JobSettings,
    *,
    shard_lines: int = SHARD_LINES,
    check: Callable[[Line], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Manifest, bool]:
    """The job in a folder: made from an input, or found there and compared with what is asked now.

    Args:
        input_path: JSON lines.
        folder: of the job.
        settings: what is asked.
        shard_lines: lines per shard of a new job.
        check: raises if a line of a new job cannot be decoded; called for each, before anything is decoded.
        progress: hears of each line that was read.

    Returns:
        The manifest, and whether the job was there already.

    Raises:
        DllmError: a bad line (said with its number), or another job in this folder (said with what differs).
    """
    path = folder / "manifest.jsonl"
    if path.exists():
        found = Manifest.load(path)
        _compare(found, input_path, settings)
        return found, True
    if folder.exists() and any(folder.iterdir()):
        raise DllmError(f"{str(folder)!r} holds other files; give a new folder for the job, or the job's own.")
    shards, size, digest = _scan(input_path, shard_lines, check, progress)
    manifest = Manifest(os.path.abspath(input_path), size, digest, settings, __version__, int(time.time()), shards)
    Shards(folder, len(shards)).make()
    manifest.save(path)
    return manifest, False


def _compare(found: Manifest, input_path: Path, settings: JobSettings) -> None:
    """Refuse to go on with another input, model or setting, naming what differs."""
    asked, had = asdict(settings), asdict(found.settings)
    differs = [
        f"{name} is {asked[name]!r:.60}, was {had[name]!r:.60}"
        for name in asked
        if name != "config" and asked[name] != had[name]
    ]
    config, before = asked["config"], had["config"]
    differs += [
        f"{k} is {config.get(k)!r:.40}, was {before.get(k)!r:.40}"
        for k in sorted({*config, *before})
        if config.get(k) != before.get(k)
    ]
    size, digest = checksum(input_path)
    if (size, digest) != (found.size, found.sha256):
        differs.append(f"the input holds {size} bytes ({digest[:12]}), held {found.size} ({found.sha256[:12]})")
    if differs:
        raise DllmError(f"this folder holds another job: {'; '.join(differs)}. Give the same again, or a new folder.")


def checksum(path: Path) -> tuple[int, str]:
    """Bytes of a file, and their sha256."""
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
                size += len(block)
    except OSError as error:
        raise DllmError(f"cannot read {str(path)!r} ({error.strerror}); give a file of JSON lines.") from error
    return size, digest.hexdigest()


def _scan(
    path: Path, shard_lines: int, check: Callable[[Line], None] | None, progress: Callable[[int], None] | None
) -> tuple[tuple[Shard, ...], int, str]:
    """Read an input once: its shards, bytes and checksum. Lines are let go as they are read."""
    if shard_lines < 1:
        raise DllmError(f"a shard of {shard_lines} lines holds nothing; give a whole number from 1 up.")
    shards: list[Shard] = []
    whole, part = hashlib.sha256(), hashlib.sha256()
    ids = array.array("Q")  # 16 bytes of each id's digest: a million of them take 16 MB
    begun, first, count, offset = 0, 1, 0, 0
    for number, text in enumerate(_raw(path), 1):
        whole.update(text)
        part.update(text)
        offset += len(text)
        if text.strip():
            line = Line.read(text, number)
            ids.frombytes(hashlib.sha256(line.id.encode("utf-8", "surrogatepass")).digest()[:16])
            if check is not None:
                try:
                    check(line)
                except (DllmError, ValueError, TypeError) as error:
                    raise LineError(f"line {number}: {error}") from error
            count += 1
        if progress is not None:
            progress(number)
        if count == shard_lines:
            shards.append(Shard(begun, offset - begun, part.hexdigest(), first, count))
            begun, first, count, part = offset, number + 1, 0, hashlib.sha256()
    if count:
        shards.append(Shard(begun, offset - begun, part.hexdigest(), first, count))
    if not shards:
        raise DllmError(f"{str(path)!r} holds no line; write one JSON object per line.")
    _refuse_twins(path, ids)
    return tuple(shards), offset, whole.hexdigest()


def _raw(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise DllmError(f"cannot read {str(path)!r} ({error.strerror}); give a file of JSON lines.") from error


def _refuse_twins(path: Path, ids: array.array[int]) -> None:
    """Refuse an id that two lines have, naming both."""
    pairs = np.frombuffer(ids, dtype=np.dtype([("high", "u8"), ("low", "u8")]))
    order = np.argsort(pairs, order=("high", "low"), kind="stable")
    same = pairs[order[1:]] == pairs[order[:-1]]
    if not same.any():
        return
    at = int(np.flatnonzero(same)[0])
    wanted, found = {int(order[at]), int(order[at + 1])}, []
    lines = ((number, text) for number, text in enumerate(_raw(path), 1) if text.strip())
    for i, (number, text) in enumerate(lines):
        if i in wanted:
            found.append((number, Line.read(text, number).id))
    raise LineError(f"lines {found[0][0]} and {found[1][0]} have the same id {found[0][1]!r:.60}; give each its own.")
