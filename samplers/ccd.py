"""CCD and CCD-DS: commit where the prediction stays the same as the context grows (arXiv 2512.02044)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from samplers.contract.data import Decision, PolicyError, Prediction, Setting, View
from samplers.contract.fields import bounded
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
class CCD(Policy):
    """Coherent contextual decoding: rank cells by the entropy of their prediction averaged over recent contexts.

    pbar is the mean of a cell's last d predictive distributions, kept for the V best cells of each
    forward.  Candidates are the cells among the V best at each of the last d forwards; the ``budget`` of them with the
    lowest entropy H(pbar) are committed.  CCD-DS (``adaptive``) commits every candidate whose likeliest token was the
    same at all d, or with ``eps`` every one with H(pbar) < eps; if there is none, as before.  Without candidates, or
    before d forwards, the ``budget`` best cells are committed.  History ends with the block.

    This is the paper's rule.  The authors' code has another one, which averages nothing.

    Args:
        budget: cells per forward (b).
        adaptive: CCD-DS.
        history: forwards averaged over (d), the current one included; default 3 for Dream, 2 for LLaDA.
        candidates: best cells kept per forward (V).
        eps: CCD-DS by entropy, in nats, instead of by unchanged tokens.
        score: what "best" means: confidence (default for LLaDA), entropy (default for Dream) or margin.
        token: commit the likeliest token of pbar (``marginal``) or the ``current`` proposal; default marginal, current
            at a temperature above 0.
    """

    budget: int = bounded(1, 1)
    adaptive: bool = False
    history: int | None = bounded(None, 1)
    candidates: int = bounded(4, 1)
    eps: float | None = None
    score: Literal["confidence", "entropy", "margin"] | None = None
    token: Literal["marginal", "current"] | None = None

    def __post_init__(self) -> None:
        if self.eps is not None and not (self.eps > 0 and self.adaptive):
            raise PolicyError(
                f"eps is {self.eps}; it is a positive number of nats that says what CCD-DS commits: "
                "use adaptive=True with it."
            )

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
        return frozenset({str(self.score)} & {"margin", "entropy"} | {"logits"})

    def begin(self, view: View) -> Memory:  # noqa: D102
        rows, device = len(view.start), view.start.device

        def empty(*shape: int) -> Tensor:
            return torch.full((rows, *shape), -1, device=device)

        assert self.history is not None
        held, kept = self.history - 1, min(self.candidates, view.tokens.shape[1])
        probs = tuple(torch.zeros(rows, kept, view.vocab_size, device=device) for _ in range(held))
        tokens = empty(held, kept)
        return History(tokens, probs, tokens.float(), tokens, torch.zeros_like(view.start))

    def decide(self, view: View, prediction: Prediction, memory: History) -> tuple[Decision, Memory]:  # noqa: D102
        score = prediction.sureness(str(self.score))
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


@dataclass(frozen=True)
class CCDDS(CCD):
    """CCD-DS: CCD that commits every cell whose prediction is consistent; see :class:`CCD`."""

    adaptive: bool = True
