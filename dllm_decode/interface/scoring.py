"""How proposals are asked for and what comes back: spoken by the engine and by the fused kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class ScoreRule:
    """How proposals are made from logits.

    Attributes:
        mask_id: never proposed, but part of the softmax (as in the references).
        suppress: ids whose logits are -inf. ``ends``: those whose are in cells where the text cannot end.
        temperature, top_p, top_k: sampling; see :class:`~dllm_decode.config.GenerationConfig`.
        filtered: read the confidence after temperature, top-p and top-k (Dream) instead of before (LLaDA).
        needs: extra quantities, see :class:`samplers.contract.data.Policy`.
        float64: the reference precision.
    """

    mask_id: int
    suppress: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    filtered: bool = False
    needs: frozenset[str] = frozenset()
    float64: bool = False


@dataclass(frozen=True)
class Scores:
    """Per scored cell, ``[M]``: token long, the rest fp32; ``logits``, ``probs`` ``[M, V]``; ``None`` = not needed.

    ``logsumexp`` is that of the ``logits`` and comes with them; ``held`` is the probability of a token asked for.
    """

    token: Tensor
    confidence: Tensor
    entropy: Tensor | None = None
    margin: Tensor | None = None
    logit_margin: Tensor | None = None
    logits: Tensor | None = None
    probs: Tensor | None = None
    logsumexp: Tensor | None = None
    held: Tensor | None = None

    def to(self, device: torch.device) -> Scores:
        """The same on another device."""
        extras = {f.name: getattr(self, f.name) for f in fields(self)[2:]}
        moved = {name: None if x is None else x.to(device) for name, x in extras.items()}
        return Scores(self.token.to(device), self.confidence.to(device), **moved)

    @classmethod
    def cat(cls, pieces: Sequence[Scores]) -> Scores:
        """Concatenate the scores of consecutive chunks."""

        def join(name: str) -> Tensor | None:
            parts = [getattr(p, name) for p in pieces]
            return None if parts[0] is None else parts[0] if len(parts) == 1 else torch.cat(parts)

        token, confidence = join("token"), join("confidence")
        assert token is not None and confidence is not None
        return cls(token, confidence, *(join(f.name) for f in fields(cls)[2:]))


@dataclass(frozen=True)
class Draws:
    """What counter-based noise depends on, and nothing else: long ``[M]`` each.

    Attributes:
        seed: of the row. ``step``: its forwards so far. ``cell``: the cell. ``branch``: the draft, 0 = the canvas.
    """

    seed: Tensor
    step: Tensor
    cell: Tensor
    branch: Tensor

    def __getitem__(self, part: slice) -> Draws:
        return Draws(self.seed[part], self.step[part], self.cell[part], self.branch[part])

    def to(self, device: torch.device) -> Draws:
        """The same on another device."""
        return Draws(*(x.to(device) for x in (self.seed, self.step, self.cell, self.branch)))

    @classmethod
    def cat(cls, pieces: Sequence[Draws]) -> Draws:
        """Concatenate."""
        return cls(*(torch.cat([getattr(p, f.name) for p in pieces]) for f in fields(cls)))
