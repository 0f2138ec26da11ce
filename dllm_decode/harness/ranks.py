"""The processes that ``accelerate launch`` or ``torchrun`` started, told by the environment: they share a folder.

Every rank is asked for everything.  Each claims shards of it and leaves what it finds as parts, and then reads all
parts, so that all know all answers and nobody waits for a rank that has died.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dllm_decode.errors import DllmError
from dllm_decode.jobs.claims import Shards, born, each, worker_name


@dataclass(frozen=True)
class Ranks:
    """This process among its equals.

    Attributes:
        rank, world_size: this process and how many there are. ``local_rank``: its number on this machine.
        folder: what they share; ``None`` = this process is alone.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    folder: Path | None = None

    @classmethod
    def read(cls, folder: str | None = None) -> Ranks:
        """Read ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK`` and ``LOCAL_WORLD_SIZE``.

        Args:
            folder: to share and to keep: what is in it is not decoded again. ``None`` = one of the launcher's own.

        Raises:
            DllmError: the variables are no numbers, or there are several machines and no folder.
        """
        size, rank = _number("WORLD_SIZE", 1), _number("RANK", 0)
        if size <= 1:
            return cls(folder=None if folder is None else Path(folder))
        if not 0 <= rank < size:
            raise DllmError(f"RANK is {rank} of WORLD_SIZE {size}; start with accelerate launch or torchrun.")
        local = _number("LOCAL_RANK", rank)
        if folder is not None:
            return cls(rank, size, local, Path(folder))
        if _number("LOCAL_WORLD_SIZE", size) != size:
            raise DllmError(
                f"{size} processes run on several machines; give work_folder=FOLDER, which all of them see, in "
                "--model_args."
            )
        launcher = os.getppid()
        shared = Path(tempfile.gettempdir()) / f"dllm-ranks-{os.getuid()}-{launcher}-{born(launcher)}"
        atexit.register(_leave, shared, rank, size)
        return cls(rank, size, local, shared)

    def device(self, asked: str | None) -> str | None:
        """The device of this rank: what was asked for, each rank its own GPU where that is a plain ``cuda``."""
        if asked in (None, "auto", "cuda", "cuda:0") and self.world_size > 1 and torch.cuda.is_available():
            return f"cuda:{self.local_rank % torch.cuda.device_count()}"
        return None if asked == "auto" else asked

    def share(self, asked: Any, count: int, do: Callable[[int], Any]) -> Iterator[Any]:
        """What ``do`` says about each of so many shards, in order, whichever rank did it.

        Args:
            asked: all that the answers depend on, as JSON takes it; ranks that are asked for other things do not mix.
            count: of the shards.
            do: does one; what it returns goes through JSON.
        """
        if self.folder is None:
            yield from map(do, range(count))
            return
        name = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]
        shards = Shards(self.folder / name, count, poll=0.1)
        shards.make()
        work = each(lambda i: shards.finish(i, [json.dumps(do(i)).encode()]))
        for _ in shards.work(worker_name(), work):
            pass
        for number in range(count):
            yield json.loads(shards.part(number).read_bytes())


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isdecimal():
        raise DllmError(f"the environment says {name}={text!r}; it must be a whole number, so correct or unset it.")
    return int(text)


def _leave(folder: Path, rank: int, size: int) -> None:
    """The last rank to leave removes the folder."""
    with suppress(OSError):
        (folder / f"{rank}.left").touch()
        if len(list(folder.glob("*.left"))) == size:
            aside = folder.with_name(f"{folder.name}.{rank}")
            folder.rename(aside)  # of two that leave at once, one succeeds
            shutil.rmtree(aside, ignore_errors=True)
