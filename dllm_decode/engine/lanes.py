"""Requests that wait, sorted by the pool they could share."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from dllm_decode.engine.pool import Pool, alike
from dllm_decode.engine.request import Request

LEAST_SLOTS, LEAST_CELLS = 512, 128  #: the smallest class of places; each next one is twice as long


@dataclass(eq=False)
class Ticket:
    """A request on its way.

    Attributes:
        request: what is asked. ``came``, ``began``: seconds of the clock; ``began`` is ``None`` while it waits.
        deadline: seconds of the clock, or ``None``. ``place``: where it stands in its lane's pool.
    """

    request: Request
    came: float
    deadline: float | None = None
    began: float | None = None
    place: int | None = None


@dataclass(eq=False)
class Lane:
    """Requests of one setting and size class, and the pool they share while it has one.

    Attributes:
        like: one of its requests. ``slots``, ``cells``: of its places. ``bytes``: what a pool of it takes.
        waiting: in the order they came. ``live``: by place.
        served: tokens forwarded, level with the others when it became busy. ``idle_since``: seconds of the clock.
        counted: how much of the pool's counters is in the scheduler's.
    """

    like: Request
    slots: int
    cells: int
    bytes: int
    pool: Pool | None = None
    waiting: deque[Ticket] = field(default_factory=deque)
    live: dict[int, Ticket] = field(default_factory=dict)
    served: int = 0
    idle_since: float = 0.0
    counted: Counter[str] = field(default_factory=Counter)

    @property
    def room(self) -> int:
        """Free places of a pool at work that nobody waits for yet; 0 where nobody is decoded."""
        return len(self.pool.free) - len(self.waiting) if self.pool is not None and self.live else 0

    def alike(self, request: Request) -> bool:
        """Whether the request is of this lane's setting, whatever its size."""
        return alike(self.like, request)


def size_class(request: Request, longest: int | None) -> tuple[int, int]:
    """Slots and cells of the places that hold a request, for a model made for rows up to ``longest``."""
    slots = _class_of(len(request.ids), LEAST_SLOTS, longest)
    return slots, min(slots, _class_of(request.cells, LEAST_CELLS, None))


def _class_of(length: int, least: int, most: int | None) -> int:
    """The smallest of ``least``, twice that, ... that holds a length; ``most`` if that is less."""
    size = least
    while size < length:
        size *= 2
    return size if most is None else max(length, min(size, most))
