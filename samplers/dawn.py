"""DAWN: commit together what the attention says does not depend on each other."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from samplers.contract.data import Decision, PolicyError, Prediction, Setting, View
from samplers.contract.fields import bounded
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy, Scope
from samplers.contract.select import best


@dataclass(frozen=True)
class Dawn(Policy):
    """Dependency-aware parallel decoding (DAWN, arXiv 2602.06953).

    Cell i depends on j if it pays j at least ``edge`` of its attention (mean over heads and the last ``layers``), j
    not being a sink, which receives more than ``sink`` on average.  A forward commits

    1. strong cells: confidence at least ``strong``;
    2. induced cells: at least ``induce``, and dependent on an anchor, a decided token (of the prompt or before the
       block's end) whose place the model is at least ``strong`` sure of, whatever it holds;
    3. of the cells of at least ``low`` that depend on none both strong and induced: the most confident, without those
       linked to it, and so on;

    or the best cell.  ``sink`` is an absolute level: in a row shorter than its inverse every slot can be one.

    Args:
        sink, edge, induce, low: ``None`` = as released: LLaDA 0.01, 0.07, 0.7, 0.75; Dream 0.03, 0.10 (base models:
            0.05), 0.75, 0.8.
        strong: in the released code for both families.
        layers: how many of the last layers, 4 in the released code.
    """

    sink: float | None = bounded(None, 0)
    edge: float | None = bounded(None, 0)
    induce: float | None = bounded(None, 0)
    low: float | None = bounded(None, 0)
    strong: float = bounded(0.9, 0)
    layers: int = bounded(4, 1, note="released: 4")
    needs = frozenset({"attention"})
    scope = Scope.ALL

    def bind(self, setting: Setting) -> Dawn:  # noqa: D102
        if not setting.attention:
            raise PolicyError(
                f"Dawn reads the attention among all tokens of a row, which this model does not show under "
                f"cache={setting.cache!r}; use a native model and cache='none'."
            )
        if setting.temperature > 0:
            raise PolicyError(
                f"Dawn compares proposals with the likeliest tokens, which temperature {setting.temperature:g} does "
                "not propose; use temperature=0."
            )
        released = (0.03, 0.10, 0.75, 0.8) if setting.family == "dream" else (0.01, 0.07, 0.7, 0.75)
        names = ("sink", "edge", "induce", "low")
        given = {n: v for n, v in zip(names, released, strict=True) if getattr(self, n) is None}
        return replace(self, **given)  # type: ignore[arg-type]

    @property
    def attention_layers(self) -> int:  # noqa: D102
        return self.layers

    def decide(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Decision, Memory]:  # noqa: D102
        sure, masks, attention = prediction.confidence, prediction.open, prediction.attention
        assert attention is not None and self.sink is not None and self.edge is not None
        assert self.induce is not None and self.low is not None
        slot = torch.arange(attention.received.shape[1], device=sure.device)
        cell = (view.index + attention.prompt[:, None]).clamp(max=len(slot) - 1)  # each cell's slot
        decided = ~view.masked & (view.index < view.end[:, None]) & view.valid & (sure >= self.strong)
        anchors = (attention.confidence >= self.strong).scatter_reduce(1, cell, decided, "amax")

        columns = masks.view(torch.uint8).amax(0).nonzero()  # what follows is of open cells alone
        part = slice(int(columns[0]), int(columns[-1]) + 1) if len(columns) else slice(0)
        opened, sureness, here = masks[:, part], sure[:, part], cell[:, part]
        links = attention.weights[:, part] >= self.edge
        links &= (attention.received <= self.sink)[:, None] & (slot != here[:, :, None])
        among = links.gather(2, here[:, None].expand(-1, here.shape[1], -1)) & opened[:, None]  # cell on cell
        strong = opened & (sureness >= self.strong)
        induced = opened & (sureness >= self.induce) & (links & anchors[:, None]).any(-1)
        near = (among & (strong & induced)[:, None]).any(-1)
        weak = opened & (sureness >= self.low) & ~strong & ~induced & ~near
        write = torch.zeros_like(masks)
        write[:, part] = strong | induced | _independent(sureness, weak, among | among.transpose(1, 2))
        best_one = best(sure, masks) & ~write.any(-1, keepdim=True)
        return Decision(write | best_one, prediction.token, order=-sure, accepted=write), memory


def _independent(score: Tensor, where: Tensor, linked: Tensor) -> Tensor:
    """Bool ``[B, G]``: the highest of ``where``, then the highest not ``linked`` (``[B, G, G]``) to it, and so on."""
    taken = torch.zeros_like(where)
    while bool(where.any()):
        one = best(score, where)
        taken = taken | one
        where = where & ~one & ~(linked & one[:, :, None]).any(1)
    return taken
