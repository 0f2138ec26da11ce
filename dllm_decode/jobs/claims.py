"""Work cut into shards, shared by workers that know nothing but a folder: who does which, and what is done.

A worker claims a shard by making a file exclusively, touches the file as it works, and leaves the shard's part, which
appears whole or not at all.  Nobody waits for a worker that has died: its claim is taken over.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dllm_decode.errors import DllmError
from dllm_decode.jobs.files import written_whole

Take = Callable[[], int | None]  #: claims a shard and gives its number; ``None`` = there is none to have now
#: Seconds without a sign of life after which a claim may be taken over.
STALE_AFTER = 60.0


def each(do: Callable[[int], None]) -> Callable[[Take], Iterator[int]]:
    """Work that does one shard after the other, for :meth:`Shards.work`."""

    def work(take: Take) -> Iterator[int]:
        while (shard := take()) is not None:
            do(shard)
            yield shard

    return work


def worker_name() -> str:
    """A name for this process, for people; unique."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"


@dataclass
class Shards:
    """Numbered shards of some work in a folder.

    Whether a claim is stale is judged by what an observer sees not change over its own monotonic clock, so that no
    clock needs to be right.  A claim taken over wrongly costs work and nothing else: a part holds the same bytes
    whoever makes it.

    Attributes:
        path: the folder. ``count``: of the shards. ``stale_after``: seconds, see :data:`STALE_AFTER`.
        poll: seconds between looks at the folder while others finish.
    """

    path: Path
    count: int
    stale_after: float = STALE_AFTER
    poll: float = 0.5
    _seen: dict[int, tuple[object, float]] = field(default_factory=dict, repr=False)
    _finished: set[int] = field(default_factory=set, repr=False)

    def make(self) -> None:
        """Make the folders that are not there.

        Raises:
            DllmError: they cannot be made.
        """
        try:
            for folder in (self.claims, self.parts):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DllmError(
                f"cannot make the folder {str(self.path)!r} ({error.strerror}); give one you may write to."
            ) from error

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
        if len(self._finished) < self.count:
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

    def finish(self, shard: int, lines: Iterable[bytes]) -> None:
        """Write a shard's part, whole or not at all, and give the claim back."""
        with written_whole(self.part(shard)) as file:
            file.writelines(lines)
        self.release(shard)

    def work(
        self,
        worker: str,
        do: Callable[[Take], Iterator[int]],
        shards: Iterable[int] | None = None,
        wait: bool = True,
    ) -> Iterator[int]:
        """Do shards until every one is finished, by whomever.

        Args:
            worker: a name.
            do: takes shards, calls :meth:`finish` for each, and gives its number then; see also :func:`each`.
            shards: only these; ``None`` = all.
            wait: stay while others hold the last ones, to take over those whose owner dies.

        Yields:
            The number of each shard that this worker has done.
        """
        wanted, held, again = set(range(self.count) if shards is None else shards), set[int](), 0.0

        def take() -> int | None:
            nonlocal again
            if time.monotonic() < again:
                return None
            left = (shard for shard in sorted(wanted - self.finished()) if shard not in held)
            claimed = next((shard for shard in left if self.claim(shard, worker)), None)
            if claimed is None:
                again = time.monotonic() + self.poll  # looking costs a listing
            else:
                held.add(claimed)
            return claimed

        try:
            with self._signs_of_life(held):
                while wanted - self.finished():
                    any_done = False
                    for shard in do(take):
                        held.discard(shard)
                        any_done = True
                        yield shard
                    if not any_done:
                        if not wait:
                            return
                        time.sleep(self.poll)
        finally:
            for shard in held:
                self.release(shard)

    @contextmanager
    def _signs_of_life(self, held: set[int]) -> Iterator[None]:
        """Touch claims while their shards are done."""
        over = threading.Event()

        def touch() -> None:
            while not over.wait(self.stale_after / 6):
                for shard in list(held):
                    self.renew(shard)

        thread = threading.Thread(target=touch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def alive(self) -> tuple[str, ...]:
        """Workers that have given a sign of life lately."""
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
        return {"worker": worker, "host": socket.gethostname(), "pid": os.getpid(), "born": born(os.getpid())}


def born(pid: int) -> str:
    """When a process of this machine began, in its own ticks: a number that is used again is another process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _gone(held: dict[str, Any]) -> bool:
    """Whether the owner was a process of this machine that does not run any more."""
    if held.get("host") != socket.gethostname() or not held.get("born"):
        return False
    return born(int(held["pid"])) != held["born"]
