"""What a policy part is, and several of them acting as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property, reduce
from operator import or_
from typing import Any, Literal

import torch
from torch import Tensor

from samplers.contract.data import Decision, PolicyError, Prediction, Query, Setting, View
from samplers.contract.fields import Checked
from samplers.contract.memory import Memory, move_cells
from samplers.contract.setting import Scope as Scope
from samplers.contract.turns import fill_last, turn_by_turn

#: What a forward will probably commit: cells from a confidence on (and always the best), or so many of the best.
Forecast = tuple[Literal["threshold", "top"], float]
ROLES = ("begin", "block_length", "query", "rescore", "decide", "finish")
ALONE = {"decide": "decide what to commit", "block_length": "set the block length", "query": "send queries"}


class Policy(Checked):
    """Base of all policy parts: a frozen dataclass whose fields are the paper's hyper-parameters.

    A part overrides the roles it plays and no other.  Parts compose with ``|``.

    Beside the roles a part may override these declarations, as class attributes or properties.
    """

    @property
    def needs(self) -> frozenset[str]:
        """What else to compute: ``entropy``, ``margin``, ``logit_margin``, ``logits``, ``probs``, ``attention``."""
        return frozenset()

    @property
    def attention_layers(self) -> int:
        """With ``attention`` among the needs: how many of the last layers it is the mean of."""
        return 0

    @property
    def scope(self) -> Scope:
        """Cells to predict at each forward; with a part that plays ``block_length`` an opening one covers the rest."""
        return Scope.OPEN

    @property
    def waits(self) -> int:
        """Forwards that a block may be given beside one per cell although they commit nothing; a guard, no promise."""
        return 0

    @property
    def recalls(self) -> int:
        """How many earlier forwards of a row, of earlier blocks too, the part reads in ``prediction.before``."""
        return 0

    @property
    def revises(self) -> bool:
        """The part may change or revoke committed cells (not those of finished blocks: they are settled)."""
        return False

    @property
    def starts(self) -> int | None:
        """With how many cells a row begins, if the part puts more in later; ``None`` = with all it was asked for."""
        return None

    @property
    def remembers(self) -> Literal["rows", "cells"] | None:
        """What its memory is of: the row alone, or cells too (the second axis of every tensor that has one).

        ``None`` = of something else: the part cannot stand beside one that puts cells in.
        """
        return None if "begin" in self.roles else "rows"

    @property
    def forecast(self) -> Forecast | None:
        """What each forward commits, as far as confidences alone decide it: ``("threshold", t)`` or ``("top", k)``.

        Lets the engine begin the next forward before the policy has decided; it never decides anything, so a wrong
        forecast costs time and nothing else.
        """
        return None

    @property
    def widest_block(self) -> int | None:
        """The most cells a block may have under this part; ``None`` = any. Adaptive block lengths are capped there."""
        return None

    def bind(self, setting: Setting) -> Policy:
        """Resolve what depends on the model, cache or tokenizer; raise :class:`PolicyError` if it cannot work."""
        return self

    def begin(self, view: View) -> Memory:
        """Make the part's memory for all rows, before the first forward."""
        return None

    def block_length(self, view: View, prediction: Prediction, memory: Memory) -> Tensor | None:
        """Long ``[B]``: the length of the block now opening; asked once per block, on its opening prediction."""
        return None

    def move(self, view: View, memory: Memory, source: Tensor) -> Memory:
        """The memory after cells were put into the rows of ``view``.

        ``source``, long ``[B, G]``: where each cell stood before, -1 = it is new.
        """
        return move_cells(memory, source, self.begin(view)) if self.remembers == "cells" else memory

    def query(self, view: View, memory: Memory) -> Query | None:
        """What to forward next, or ``None`` for the plain canvas.

        Asked before every forward.  With a cache, or beside a part that plays ``block_length``, either all rows of
        ``view`` open a block (``view.block_step`` is 0) or none does, and a forward that opens one is of the canvas
        itself: canvases in its place are refused.
        """
        return None

    def rescore(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Prediction, Memory]:
        """Change the prediction before it is decided on."""
        return prediction, memory

    def decide(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Decision, Memory]:
        """Choose the cells to write; exactly one part of a composition plays this role."""
        return Decision(torch.zeros_like(view.masked), view.tokens), memory

    def finish(
        self, view: View, prediction: Prediction, decision: Decision, memory: Memory
    ) -> tuple[Decision, Memory]:
        """Have the last word on a decision: stop a row, cut it, fill it."""
        return decision, memory

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles this part plays."""
        kind: Any = type(self)  # to the type checker a class that defines __eq__ is not hashable
        return _roles_of(kind)

    def __or__(self, other: Policy) -> Policy:
        if not isinstance(other, Policy):
            return NotImplemented
        return Composition.of(self, other)


@cache
def _roles_of(kind: type) -> tuple[str, ...]:
    return tuple(r for r in ROLES if getattr(kind, r) is not getattr(Policy, r))


@dataclass(frozen=True)
class Composition(Policy):
    """Several parts acting as one policy; their memory is the tuple of the parts' memories.

    Order matters only where a role is played in turn: ``rescore`` and ``finish`` run left to right.
    """

    parts: tuple[Policy, ...] = ()

    @classmethod
    def of(cls, *policies: Policy) -> Composition:
        """Flatten policies and compositions into one composition."""
        parts: list[Policy] = []
        for policy in policies:
            parts.extend(policy.parts if isinstance(policy, Composition) else (policy,))
        return cls(tuple(parts))

    @cached_property
    def _players(self) -> dict[str, list[int]]:
        return {role: [i for i, part in enumerate(self.parts) if role in part.roles] for role in ROLES}

    def playing(self, role: str) -> list[int]:
        """Indices of the parts that play ``role``."""
        return self._players[role]

    def check(self) -> Composition:
        """Refuse a composition that cannot decode: not exactly one decider, or clashing parts."""
        names = [type(p).__name__ for p in self.parts]
        for role, what in ALONE.items():
            players = [names[i] for i in self.playing(role)]
            if len(players) > 1:
                raise PolicyError(f"{' and '.join(players)} both {what}; keep one of them.")
        if not self.playing("decide"):
            who = "|".join(names) or "the empty policy"
            raise PolicyError(f"no part of {who} decides what to commit; add a decider such as Threshold() or TopK().")
        adding = [type(part).__name__ for part in self.parts if part.starts is not None]
        lasting = [type(part).__name__ for part in self.parts if part.remembers is None]
        if adding and lasting:
            raise PolicyError(
                f"{adding[0]} puts cells into a row, which moves those that {lasting[0]} remembers by their place; "
                "keep one of them."
            )
        if len(set(names)) < len(names):
            twice = next(n for n in names if names.count(n) > 1)
            raise PolicyError(f"{twice} appears twice in {'|'.join(names)}; keep one of them.")
        return self

    def beside(self, part: Policy) -> Composition:
        """This and ``part``, unless a part of its kind is here already."""
        return self if any(isinstance(p, type(part)) for p in self.parts) else Composition.of(self, part)

    def bind(self, setting: Setting) -> Composition:  # noqa: D102
        measures = next((type(self.parts[i]).__name__ for i in self.playing("block_length")), None)
        setting = replace(setting, measures=measures)
        return Composition(tuple(part.bind(setting) for part in self.parts)).check()

    @cached_property
    def needs(self) -> frozenset[str]:  # noqa: D102
        return frozenset().union(*(part.needs for part in self.parts))

    @cached_property
    def attention_layers(self) -> int:  # noqa: D102
        return max((part.attention_layers for part in self.parts), default=0)

    @cached_property
    def scope(self) -> Scope:  # noqa: D102
        return reduce(or_, (p.scope for p in self.parts), Scope.OPEN)

    @cached_property
    def opening_scope(self) -> Scope:
        """Cells to predict when a block opens: whoever measures blocks reads all masks."""
        return self.scope | Scope.REST if self.playing("block_length") else self.scope

    @cached_property
    def waits(self) -> int:  # noqa: D102
        return sum(p.waits for p in self.parts)

    @cached_property
    def recalls(self) -> int:  # noqa: D102
        return max((p.recalls for p in self.parts), default=0)

    @cached_property
    def revises(self) -> bool:  # noqa: D102
        return any(p.revises for p in self.parts)

    @cached_property
    def starts(self) -> int | None:  # noqa: D102
        return min((p.starts for p in self.parts if p.starts is not None), default=None)

    @property
    def forecast(self) -> Forecast | None:  # noqa: D102
        if {"query", "rescore"} & set(self.roles) or self.scope != Scope.OPEN or self.starts is not None:
            return None
        return next((self.parts[i].forecast for i in self.playing("decide")), None)

    @property
    def widest_block(self) -> int | None:  # noqa: D102
        return min((p.widest_block for p in self.parts if p.widest_block is not None), default=None)

    @cached_property
    def roles(self) -> tuple[str, ...]:  # noqa: D102
        return tuple(dict.fromkeys(r for part in self.parts for r in part.roles))

    def begin(self, view: View) -> Memory:  # noqa: D102
        return tuple(part.begin(view) for part in self.parts)

    def block_length(self, view: View, prediction: Prediction, memory: Memory) -> Tensor | None:  # noqa: D102
        for i in self.playing("block_length"):
            length = self.parts[i].block_length(view, prediction, memory[i])
            return length if length is None else length.clamp(min=1, max=self.widest_block)
        return None

    def move(self, view: View, memory: Memory, source: Tensor) -> Memory:  # noqa: D102
        return tuple(part.move(view, mine, source) for part, mine in zip(self.parts, memory, strict=True))

    def query(self, view: View, memory: Memory) -> Query | None:  # noqa: D102
        for i in self.playing("query"):
            return self.parts[i].query(view, memory[i])
        return None

    def rescore(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Prediction, Memory]:  # noqa: D102
        return self._in_turn("rescore", memory, prediction, lambda part, p, m: part.rescore(view, p, m))

    def decide(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Decision, Memory]:  # noqa: D102
        (i,) = self.playing("decide")
        decision, mine = self.parts[i].decide(view, prediction, memory[i])
        return decision, (*memory[:i], mine, *memory[i + 1 :])

    def finish(  # noqa: D102
        self, view: View, prediction: Prediction, decision: Decision, memory: Memory
    ) -> tuple[Decision, Memory]:
        if not self.playing("finish"):
            return decision, memory
        if decision.turn is not None and prediction.branches > 1:
            return turn_by_turn(self._finish, view, prediction, decision, memory)
        done, memory = self._finish(view, prediction, decision, memory)
        return replace(done, order=fill_last(done, done.write & ~decision.write, prediction)), memory

    def _finish(
        self, view: View, prediction: Prediction, decision: Decision, memory: Memory
    ) -> tuple[Decision, Memory]:
        return self._in_turn("finish", memory, decision, lambda part, d, m: part.finish(view, prediction, d, m))

    def _in_turn(
        self, role: str, memory: Memory, value: Any, call: Callable[[Policy, Any, Memory], tuple[Any, Memory]]
    ) -> tuple[Any, Memory]:
        memories = list(memory)
        for i in self.playing(role):
            value, memories[i] = call(self.parts[i], value, memories[i])
        return value, tuple(memories)
