"""A job's folder as its workers see it: its shards, and how far it is."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dllm_decode.errors import DllmError
from dllm_decode.jobs.claims import STALE_AFTER, Shards
from dllm_decode.jobs.files import written_whole
from dllm_decode.jobs.manifest import Manifest


@dataclass(frozen=True)
class Progress:
    """How far a job is.

    Attributes:
        lines, done, errors: of the input; answered so far; of those, answered with an error.
        shards, finished: of the job.
        tokens: content tokens so far. ``seconds``: of work in the finished shards, all workers together.
        workers: names of those that have given a sign of life lately.
        rate: lines per second over the last shards; 0 = unknown.
    """

    lines: int
    done: int
    errors: int
    shards: int
    finished: int
    tokens: int
    seconds: float
    workers: tuple[str, ...]
    rate: float

    @property
    def complete(self) -> bool:
        """Whether every shard is finished."""
        return self.finished == self.shards

    @property
    def seconds_left(self) -> float | None:
        """At the present rate; ``None`` = unknown."""
        return (self.lines - self.done) / self.rate if self.rate else None


class JobFolder(Shards):
    """A job on disk.

    Attributes:
        manifest: of the job. The others: see :class:`Shards`.
    """

    def __init__(self, path: Path, manifest: Manifest, stale_after: float = STALE_AFTER) -> None:
        super().__init__(path, len(manifest.shards), stale_after)
        self.manifest = manifest
        self._stats: dict[int, dict[str, Any]] = {}

    @classmethod
    def open(cls, path: Path, stale_after: float = STALE_AFTER) -> JobFolder:
        """The job in a folder.

        Raises:
            DllmError: there is none, or the folder cannot be written.
        """
        job = cls(path, Manifest.load(path / "manifest.jsonl"), stale_after)
        for folder in (job.claims, job.parts):
            if not os.access(folder, os.W_OK | os.X_OK):
                raise DllmError(f"{str(folder)!r} cannot be written; give a job folder you may write to.")
        return job

    def answered(self, shard: int, lines: list[bytes], stats: dict[str, Any]) -> None:
        """Finish a shard whose answers and figures these are."""
        with written_whole(self.part(shard).with_suffix(".json")) as file:
            file.write(json.dumps({**stats, "at": time.time()}).encode())
        self.finish(shard, lines)

    def progress(self) -> Progress:
        """How far the job is, from the finished parts alone."""
        finished = self.finished()
        for shard in finished - self._stats.keys():
            with suppress(OSError, ValueError):
                self._stats[shard] = json.loads(self.part(shard).with_suffix(".json").read_text())
        stats = [self._stats[s] for s in finished if s in self._stats]
        at = sorted((s["at"], s["lines"]) for s in stats)[-50:]
        span = at[-1][0] - at[0][0] if len(at) > 1 else 0.0
        shards = self.manifest.shards
        return Progress(
            lines=self.manifest.lines,
            done=sum(shards[s].lines for s in finished if s < len(shards)),
            errors=sum(s["errors"] for s in stats),
            shards=len(shards),
            finished=len(finished),
            tokens=sum(s["tokens"] for s in stats),
            seconds=sum(s["seconds"] for s in stats),
            workers=self.alive(),
            rate=sum(lines for _, lines in at[1:]) / span if span > 0 else 0.0,
        )
