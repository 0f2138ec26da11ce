"""Between the engine's thread and a client: what is new, merged where the client is slow."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from contextlib import suppress

from dllm_decode.engine.events import StepEvent
from dllm_decode.engine.request import Outcome

KEPT = 64  #: drafts kept for a reader; older ones are dropped and counted


class Channel:
    """What one client's rows have to say.

    Text needs the latest canvas of a row only, so events merge; drafts are kept up to a bound.  The engine waits
    for nobody.

    Attributes:
        outcomes: by row, of those that have ended. ``dropped``: drafts that a slow reader did not get.
        first: seconds (monotonic) at which the first settled cell was there.
    """

    def __init__(self, rows: int, drafts: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._lock = threading.Lock()
        self._latest: dict[int, StepEvent] = {}
        self._drafts: deque[StepEvent] = deque(maxlen=KEPT)
        self._keeps_drafts = drafts
        self.rows, self.dropped = rows, 0
        self.outcomes: dict[int, Outcome] = {}
        self.first: float | None = None

    def step(self, event: StepEvent) -> None:
        """Called by the engine."""
        with self._lock:
            if event.settled and self.first is None:
                self.first = time.monotonic()
            self._latest[event.row] = event
            if self._keeps_drafts:
                self.dropped += len(self._drafts) == KEPT
                self._drafts.append(event)
        self._tell()

    def done(self, outcome: Outcome) -> None:
        """Called by the engine."""
        with self._lock:
            self.outcomes[outcome.request.row] = outcome
        self._tell()

    def _tell(self) -> None:
        with suppress(RuntimeError):  # the server is gone
            self._loop.call_soon_threadsafe(self._wake.set)

    @property
    def finished(self) -> bool:
        """Whether all rows have ended."""
        return len(self.outcomes) == self.rows

    async def wait(self, timeout: float | None = None) -> bool:
        """Until there is something new; whether there is."""
        try:
            await asyncio.wait_for(self._wake.wait(), timeout)
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    def take(self) -> tuple[dict[int, StepEvent], list[StepEvent], dict[int, Outcome]]:
        """The latest event of each row, the drafts, and the outcomes so far."""
        with self._lock:
            latest, drafts = self._latest, list(self._drafts)
            self._latest = {}
            self._drafts.clear()
            return latest, drafts, dict(self.outcomes)
