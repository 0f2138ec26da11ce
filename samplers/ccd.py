"""CCD and CCD-DS: commit where the prediction stays the same as the context grows (arXiv 2512.02044)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from samplers.contract.data import Decision, PolicyError, Prediction, Setting, View
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy
from samplers.contract.select import rank, top
from samplers.distributions import Distributions, Mean


@dataclass(frozen=True)
class History:
    """The V best cells of the last d - 1 forwards of the block, newest first.

    Attributes:
        cells: long ``[B, d-1, V]``; -1 = fewer than V.
        probs: d - 1 times fp32 ``[B, V, X]``, their distributions.
        least: fp32 ``[B, d-1, V]``, lower bounds of their entropies in nats.
        likeliest: long ``[B, d-1, V]``, their likeliest tokens, if CCD-DS compares them.
        steps: long ``[B]``, how many forwards of this block are held.
    """

    cells: Tensor
    probs: tuple[Tensor, ...]
    least: Tensor
    likeliest: Tensor
    steps: Tensor


@dataclass(frozen=True)
class Buffer:
    """What the released code keeps of the previous forward: its runners-up and what they predicted.

    Attributes:
        cells: long ``[B, V]``, -1 = none. ``tokens``: long ``[B, V]``, their proposals.
        size: long ``[B]``, how many there may be.
    """

    cells: Tensor
    tokens: Tensor
    size: Tensor


@dataclass(frozen=True)
class CCD(Policy):
    """Coherent contextual decoding: rank cells by the entropy of their prediction averaged over recent contexts.

    ``mode="paper"``: pbar is the mean of a cell's last d predictive distributions, kept for the V best cells of each
    forward.  Candidates are the cells among the V best at each of the last d forwards; the ``budget`` of them with the
    lowest entropy H(pbar) are committed.  CCD-DS (``adaptive``) commits every candidate whose likeliest token was the
    same at all d, or with ``eps`` every one with H(pbar) < eps; if there is none, as before.  Without candidates, or
    before d forwards, the ``budget`` best cells are committed.  History ends with the block.

    ``mode="released"``: the authors' code, a rule of its own.  If the best cell was a runner-up at the forward before,
    commit the best ones among former runners-up whose token is still the same; otherwise the best cell.

    Args:
        budget: cells per forward (b).
        adaptive: CCD-DS.
        history: forwards averaged over (d), the current one included; default 3 for Dream, 2 for LLaDA.
        candidates: best cells kept per forward (V).
        eps: CCD-DS by entropy, in nats, instead of by unchanged tokens.
        score: what "best" means: confidence (default for LLaDA), entropy (default for Dream) or margin.
        token: commit the likeliest token of pbar (``marginal``) or the ``current`` proposal; default marginal, current
            at a temperature above 0.
        mode: see above.
        expand_ratio: released mode: at most ``budget * (1 + expand_ratio)`` runners-up are kept.
    """

    budget: int = 1
    adaptive: bool = False
    history: int | None = None
    candidates: int = 4
    eps: float | None = None
    score: Literal["confidence", "entropy", "margin"] | None = None
    token: Literal["marginal", "current"] | None = None
    mode: Literal["paper", "released"] = "paper"
    expand_ratio: float = 4.0

    def __post_init__(self) -> None:
        for name, least in (("budget", 1), ("history", 1), ("candidates", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise PolicyError(f"{name} is {value}; give a whole number from {least} up.")
        for name, choices in (
            ("score", (None, "confidence", "entropy", "margin")),
            ("token", (None, "marginal", "current")),
            ("mode", ("paper", "released")),
        ):
            if getattr(self, name) not in choices:
                allowed = ", ".join(c for c in choices if c)
                raise PolicyError(f"{name} is {getattr(self, name)!r}; choose one of {allowed}.")
        if self.eps is not None and not (self.eps > 0 and self.adaptive and self.mode == "paper"):
            raise PolicyError(
                f"eps is {self.eps}; it is a positive number of nats that says what CCD-DS commits in paper mode: "
                "use adaptive=True and mode=paper with it."
            )
        if not self.expand_ratio >= 0:
            raise PolicyError(f"expand_ratio is {self.expand_ratio}; give a number from 0 up (the code uses 4).")

    def bind(self, setting: Setting) -> CCD:  # noqa: D102
        dream = setting.family == "dream"
        return replace(
            self,
            history=self.history or (3 if dream else 2),
            score=self.score or ("entropy" if dream else "confidence"),
            token=self.token or ("current" if setting.temperature > 0 else "marginal"),
        )

    @property
    def needs(self) -> frozenset[str]:  # noqa: D102
        logits = {"logits"} if self.mode == "paper" else set()
        return frozenset({str(self.score)} & {"margin", "entropy"} | logits)

    def begin(self, view: View) -> Memory:  # noqa: D102
        rows, device = len(view.start), view.start.device

        def empty(*shape: int) -> Tensor:
            return torch.full((rows, *shape), -1, device=device)

        if self.mode == "released":
            return Buffer(empty(self.longest), empty(self.longest), torch.ones_like(view.start))
        assert self.history is not None
        held, kept = self.history - 1, min(self.candidates, view.tokens.shape[1])
        probs = tuple(torch.zeros(rows, kept, view.vocab_size, device=device) for _ in range(held))
        tokens = empty(held, kept)
        return History(tokens, probs, tokens.float(), tokens, torch.zeros_like(view.start))

    def decide(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Decision, Memory]:  # noqa: D102
        score = self.ranking(prediction)
        if self.mode == "released":
            return self._released(view, prediction, score, memory)
        return self._marginal(view, prediction, score, memory)

    def ranking(self, prediction: Prediction) -> Tensor:
        """Fp32 ``[B, G]``: the base score, larger is surer."""
        if self.score == "entropy":
            assert prediction.entropy is not None
            return -prediction.entropy
        if self.score == "margin":
            assert prediction.margin is not None
            return prediction.margin
        return prediction.confidence

    def _marginal(self, view: View, prediction: Prediction, score: Tensor, memory: History) -> tuple[Decision, Memory]:
        places = rank(score, prediction.open)
        best = places.sort(dim=-1, stable=True).indices[:, : min(self.candidates, places.shape[1])]  # [B, V]
        real = prediction.open.gather(1, best)
        token = prediction.token.gather(1, best)
        now = Distributions(prediction, best, real)
        steps = memory.steps.masked_fill(view.block_step == 0, 0)

        met = memory.cells[:, :, :, None] == best[:, None, None, :]  # [B, d-1, V then, V now]
        held = memory.cells.shape[1]
        candidate = real & met.any(2).all(1) & (steps >= held)[:, None]
        where = met.to(torch.uint8).argmax(2)  # [B, d-1, V]
        mean = Mean(now, memory.probs, where, token, view.mask_id)
        # The entropy of a mean is at least the mean of the entropies.
        least = (now.least + memory.least.gather(2, where).sum(1)) / (held + 1)

        same, likeliest = torch.zeros_like(candidate), token
        if self.eps is not None:
            mean.measure(candidate & (least < self.eps))
            same = candidate & (mean.entropy < self.eps)
        elif self.adaptive:
            likeliest = now.likeliest(token, view.mask_id)
            same = candidate & (memory.likeliest.gather(2, where) == likeliest[:, None]).all(1)
        search = candidate & ~same.any(-1, keepdim=True)
        rivals = search & (search.sum(-1, keepdim=True) > self.budget)
        # Ahead by its lower bound, and by its upper bound behind no other's lower one: then the rest need no numbers.
        ahead = top(-least, rivals, self.budget)
        close = rivals & ~ahead & (least <= mean.most(ahead).amax(-1, keepdim=True))
        mean.measure(ahead & close.any(-1, keepdim=True))
        mean.measure(close & (least <= mean.entropy.masked_fill(~ahead, -torch.inf).amax(-1, keepdim=True)))
        entropy = torch.where(mean.entropy.isinf(), least, mean.entropy)
        chosen = same | top(-entropy, search, self.budget)

        plain = ~candidate.any(-1, keepdim=True)
        spread = torch.zeros_like(prediction.open).scatter(1, best, chosen)
        write = torch.where(plain, places < self.budget, spread) & prediction.open
        values = prediction.token
        if self.token != "current":
            agreed = same if self.eps is None else torch.zeros_like(same)  # the mean's likeliest is each one's then
            values = values.scatter(1, best, torch.where(agreed, likeliest, mean.likeliest(chosen & ~agreed)))
        order = torch.where(plain, -score, torch.zeros_like(score).scatter(1, best, entropy))

        def push(new: Tensor, old: Tensor) -> Tensor:
            return torch.cat([new[:, None], old], 1)[:, :held]

        return Decision(write, values, order=order), History(
            push(best.masked_fill(~real, -1), memory.cells),
            (now.probs, *memory.probs)[:held],
            push(now.least, memory.least),
            push(likeliest, memory.likeliest),
            (steps + 1).clamp(max=held),
        )

    @property
    def longest(self) -> int:
        """The most runners-up the released code keeps."""
        return self.budget + int(self.budget * self.expand_ratio)

    def _released(self, view: View, prediction: Prediction, score: Tensor, memory: Buffer) -> tuple[Decision, Memory]:
        step, left = view.block_step, prediction.open.sum(-1)
        cells = view.end - view.start
        size = memory.size.masked_fill(left <= 0.1 * cells, 1)
        size = torch.where(step < 4, 1, (size + 1).clamp(max=self.longest))
        places = rank(score, prediction.open)
        first = places < self.budget
        width = places.shape[1]
        held = memory.cells.masked_fill((step == 0)[:, None] | (memory.cells < 0), width)
        before = torch.full((len(held), width + 1), -1, device=held.device).scatter_(1, held, memory.tokens)[:, :width]

        runner_up = before >= 0
        consistent = runner_up & (before == prediction.token) & (places < size[:, None])
        warm = (step >= 5) & (step < cells // self.budget - 1)
        count = consistent.sum(-1)
        matched = (warm & (first & runner_up).any(-1) & (count >= self.budget))[:, None]
        agreed = consistent if self.adaptive else top(score, consistent, self.budget)
        write = torch.where(matched, agreed, first)

        # The next runners-up: right behind what was committed, or the best that remain of a wider circle.
        circle = torch.where(matched[:, 0], 2 * size + count, self.budget + size)
        nth = rank(score, prediction.open & ~write & (places < circle[:, None]))
        nth = nth.masked_fill((nth >= size[:, None]) | (step < 3)[:, None], self.longest)
        slots = torch.full((len(nth), self.longest + 1), -1, device=nth.device)
        cells = slots.scatter(1, nth.clamp(max=self.longest), view.index.expand_as(nth))[:, : self.longest]
        tokens = prediction.token.gather(1, cells.clamp(min=0))
        return Decision(write, prediction.token, order=-score), Buffer(cells, tokens, size)


@dataclass(frozen=True)
class CCDDS(CCD):
    """CCD-DS: CCD that commits every cell whose prediction is consistent; see :class:`CCD`."""

    adaptive: bool = True
