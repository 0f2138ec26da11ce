"""How many canvases a forward carries: a fixed number, or the one with the least expected cost per step (FreeDave)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from samplers.contract.data import Prediction, View

#: Number of canvases -> cost of a forward with 1, 2, ... of them per row, relative to one.
RowCosts = Callable[[int], tuple[float, ...]]

#: What is believed of a draft whose predecessors hold, before any was seen, and how many drafts that belief weighs.
PRIOR, WEIGHT = 0.7, 4.0
#: What a forward leaves of the weight of all that was seen before it.
MEMORY = 0.9


def linear(slope: float) -> RowCosts:
    """Costs that grow by ``slope`` of the first canvas's with each further one."""
    return lambda most: tuple(1 + slope * more for more in range(most))


@dataclass(frozen=True)
class Budget:
    """Chooses the number of canvases, per row and forward.

    With a cost of c(n) for n canvases, and a chance a_i that the i-th draft holds if those before it do, n canvases
    make 1 + a_1 + a_1 a_2 + ... + a_1 ... a_(n-1) steps; the n of the least cost per step is taken.  The chances are
    the shares seen so far of this row at each place of the chain, under a prior, with a memory that fades.  (The rule
    of adaptive speculative decoding, for chains of canvases.)

    Attributes:
        most: the largest number. ``costs``: see :data:`RowCosts`; ``None`` = always ``most``.
    """

    most: int
    costs: RowCosts | None = None

    def begin(self, view: View) -> Tensor:
        """Fp32 ``[B, 2, most]``: drafts that were tried, and those that held, by their place in the chain."""
        return torch.zeros(len(view.start), 2, self.most, device=view.start.device)

    def choose(self, seen: Tensor) -> Tensor:
        """Long ``[B]``: canvases of the next forward."""
        if self.costs is None or self.most == 1:
            return torch.full_like(seen[:, 0, 0], self.most, dtype=torch.long)
        tried, held = seen[:, :, : self.most - 1].unbind(1)
        chance = (held + WEIGHT * PRIOR) / (tried + WEIGHT)
        steps = 1 + torch.nn.functional.pad(chance.cumprod(-1).cumsum(-1), (1, 0))
        cost = torch.tensor(self.costs(self.most), device=seen.device)
        return (cost / steps).argmin(-1) + 1

    def learn(self, seen: Tensor, prediction: Prediction, last: Tensor) -> Tensor:
        """What was seen, and how far a chain got: it ended on branch ``last``, long ``[B]``."""
        if self.costs is None:
            return seen
        place = torch.arange(1, self.most + 1, device=seen.device)
        forwarded = prediction.predicted.any(-1).view(-1, prediction.branches).sum(-1, keepdim=True)
        held = (place <= last[:, None]) & (place < forwarded)
        tried = (place <= last[:, None] + 1) & (place < forwarded)
        return MEMORY * seen + torch.stack([tried, held], 1)
