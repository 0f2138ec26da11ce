"""A job's folder as its workers see it: claims on shards, finished parts, and how far the job is."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dllm_decode.errors import DllmError
from dllm_decode.jobs.files import written_whole
from dllm_decode.jobs.manifest import Manifest

#: Seconds without a sign of life after which a claim may be taken over.
STALE_AFTER = 60.0


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


@dataclass
class JobFolder:
    """A job on disk.

    A claim is a file made exclusively; its owner touches it as it works.  Whether one is stale is judged by what an
    observer sees not change over its own monotonic clock, so that no clock needs to be right.  A claim taken over
    wrongly costs work and nothing else: both workers write the same part.
    """

    path: Path
    manifest: Manifest
    stale_after: float = STALE_AFTER
    _seen: dict[int, tuple[object, float]] = field(default_factory=dict)
    _stats: dict[int, dict[str, Any]] = field(default_factory=dict)
    _finished: set[int] = field(default_factory=set)

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

    @property
    def claims(self) -> Path:
        """Folder of the claims."""
        return self.path / "claims"

    @property
    def parts(self) -> Path:
        """Folder of the finished shards."""
        return self.path / "parts"

    def part(self, shard: int) -> Path:
        """The file of a finished shard."""
        return self.parts / f"{shard:08d}.jsonl"

    def finished(self) -> set[int]:
        """Shards that are done."""
        if len(self._finished) < len(self.manifest.shards):
            names = (entry.name for entry in os.scandir(self.parts))
            self._finished = {int(n[:-6]) for n in names if n.endswith(".jsonl") and n[:-6].isdecimal()}
        return self._finished

    def claim(self, shard: int, worker: str) -> bool:
        """Try to get a shard for a worker: free, or held by one that has died or fallen silent."""
        if self.part(shard).exists():
            return False
        path = self.claims / f"{shard:08d}"
        if path.exists():
            if not self._silent(shard, path):
                return False
            aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
            try:
                path.rename(aside)  # of several that take over at once, one succeeds
            except OSError:
                return False
            with suppress(OSError):
                aside.unlink()
        try:
            with path.open("x", encoding="utf-8") as file:
                json.dump(self._identity(worker), file)
        except FileExistsError:
            return False
        except OSError as error:
            raise DllmError(
                f"cannot claim a shard in {str(self.claims)!r} ({error.strerror}); make room, then go on."
            ) from error
        if self.part(shard).exists():  # it was finished in between
            self.release(shard)
            return False
        return True

    def renew(self, shard: int) -> None:
        """Give a sign of life."""
        with suppress(OSError):
            os.utime(self.claims / f"{shard:08d}")

    def release(self, shard: int) -> None:
        """Give a shard back."""
        with suppress(OSError):
            (self.claims / f"{shard:08d}").unlink()

    def finish(self, shard: int, lines: list[bytes], stats: dict[str, Any]) -> None:
        """Write a shard's part, whole or not at all, and give the claim back."""
        with written_whole(self.part(shard).with_suffix(".json")) as file:
            file.write(json.dumps({**stats, "at": time.time()}).encode())
        with written_whole(self.part(shard)) as file:
            file.writelines(lines)
        self.release(shard)

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
            workers=self._alive(),
            rate=sum(lines for _, lines in at[1:]) / span if span > 0 else 0.0,
        )

    def _alive(self) -> tuple[str, ...]:
        found = set()
        for entry in list(os.scandir(self.claims)):
            if not entry.name.startswith("."):
                with suppress(OSError, ValueError):
                    held = json.loads(Path(entry.path).read_text())
                    if not _gone(held) and abs(time.time() - entry.stat().st_mtime) < self.stale_after:
                        found.add(held["worker"])
        return tuple(sorted(found))

    def _silent(self, shard: int, path: Path) -> bool:
        """Whether the owner of a claim has died on this machine, or nothing of the claim has changed for too long."""
        try:
            sign = (path.stat().st_mtime_ns, path.stat().st_ino)
            held = json.loads(path.read_text())
        except (OSError, ValueError):
            sign, held = (0, 0), {}  # gone, or just being made
        if held and _gone(held):
            return True
        now, before = time.monotonic(), self._seen.get(shard)
        if before is None or before[0] != sign:
            self._seen[shard] = (sign, now)
            return False
        return now - before[1] > self.stale_after

    @staticmethod
    def _identity(worker: str) -> dict[str, Any]:
        return {"worker": worker, "host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid())}


def _born(pid: int) -> str:
    """When a process of this machine began, in its own ticks: a number that is used again is another process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _gone(held: dict[str, Any]) -> bool:
    """Whether the owner was a process of this machine that does not run any more."""
    if held.get("host") != socket.gethostname() or not held.get("born"):
        return False
    return _born(int(held["pid"])) != held["born"]
