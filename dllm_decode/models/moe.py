"""Mixtures of experts: which experts a token goes to, and their outputs, weighted and summed.

Checkpoints store three matrices per expert; here they are stacked (:func:`stack_experts` tells transformers how).
"""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Concatenate, MergeModulelist, WeightConverter, WeightRenaming


def wide(x: Tensor, weight: Tensor) -> Tensor:
    """`x` times the transposed matrix, in fp32 whatever narrower dtype both have."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return F.linear(x.to(dtype), weight.to(dtype))


class Router(nn.Module):
    """Softmax over all experts in fp32, then the best ones; normalised, their weights sum to 1 (SDAR-MoE)."""

    def __init__(self, width: int, experts: int, best: int, *, normalise: bool) -> None:
        """``width``: of a token. ``best``: experts per token."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, width))
        self.best, self.normalise = best, normalise

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[T, width]` -> chosen experts long `[T, best]` and their weights fp32 `[T, best]`."""
        weights, chosen = wide(x, self.weight).softmax(-1).topk(self.best, dim=-1)
        if self.normalise:
            weights = weights / weights.sum(-1, keepdim=True)
        return chosen, weights


class GroupedRouter(nn.Module):
    """LLaDA2: sigmoid scores in fp32; a bias and groups of experts say which are chosen, the score alone how much."""

    def __init__(self, width: int, experts: int, best: int, groups: int, best_groups: int, scale: float) -> None:
        """``groups`` of consecutive experts, of which the ``best_groups`` count; ``scale``: of the weights."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, width))
        self.register_buffer("expert_bias", torch.zeros(experts, dtype=torch.float32))
        self.best, self.groups, self.best_groups, self.scale = best, groups, best_groups, scale

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[T, width]` -> chosen experts long `[T, best]` and their weights fp32 `[T, best]`."""
        score = wide(x, self.weight).sigmoid()
        ranked = score + self.expert_bias  # type: ignore[operator]
        by_group = ranked.unflatten(-1, (self.groups, -1))
        kept = by_group.topk(2, dim=-1).values.sum(-1).topk(self.best_groups, dim=-1).indices
        dropped = torch.ones(by_group.shape[:2], dtype=torch.bool, device=x.device).scatter_(1, kept, False)
        chosen = by_group.masked_fill(dropped[:, :, None], -torch.inf).flatten(1).topk(self.best, dim=-1).indices
        weights = score.gather(1, chosen)
        return chosen, weights / (weights.sum(-1, keepdim=True) + 1e-20) * self.scale


class Experts(nn.Module):
    """All experts' matrices, stacked: `gate_up_proj [E, 2 inner, width]`, `down_proj [E, width, inner]`."""

    def __init__(self, count: int, width: int, inner: int) -> None:
        """``count`` experts, each down(silu(gate(x)) * up(x)) with ``inner`` numbers inside."""
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(count, 2 * inner, width))
        self.down_proj = nn.Parameter(torch.empty(count, width, inner))

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Weighted sum of the chosen experts, added up in fp32.

        Args:
            x: `[T, width]`.
            chosen: long `[T, k]`.
            weights: fp32 `[T, k]`.

        Returns:
            `[T, width]`, x's dtype.
        """
        expert, order = chosen.flatten().sort(stable=True)
        experts = torch.arange(len(self.gate_up_proj), device=x.device)
        ends = torch.searchsorted(expert, experts, right=True, out_int32=True)  # bincount would wait for the device
        rows = x[order // chosen.shape[1]]
        said = self._grouped(rows, ends) if x.device.type == "cuda" else self._looped(rows, ends)
        dtype = torch.promote_types(x.dtype, torch.float32)
        # Back in the tokens' order, so that the sum is over a fixed axis: atomic sums come out in any order on a GPU.
        back = torch.empty(said.shape, dtype=dtype, device=x.device).index_copy_(0, order, said.to(dtype))
        return (back.unflatten(0, chosen.shape) * weights.to(dtype)[..., None]).sum(1).to(x.dtype)

    def _looped(self, rows: Tensor, ends: Tensor) -> Tensor:
        """Rows `[N, width]` sorted by expert, one product after the other, only of the experts that are asked."""
        said, begin = [], 0
        for expert, end in enumerate(ends.tolist()):
            if end > begin:
                gate, up = F.linear(rows[begin:end], self.gate_up_proj[expert]).chunk(2, dim=-1)
                said.append(F.linear(F.silu(gate) * up, self.down_proj[expert]))
                begin = end
        return torch.cat(said) if said else rows

    def _grouped(self, rows: Tensor, ends: Tensor) -> Tensor:
        """The same in one grouped product per projection, without the host knowing how many rows an expert gets."""
        if rows.dtype != torch.bfloat16 or not hasattr(F, "grouped_mm"):
            return self._looped(rows, ends)
        gate, up = F.grouped_mm(rows, self.gate_up_proj.mT, offs=ends).chunk(2, dim=-1)
        return F.grouped_mm(F.silu(gate) * up, self.down_proj.mT, offs=ends)


class Mixture(nn.Module):
    """A router and its experts, under the names that checkpoints share."""

    def __init__(self, router: nn.Module, experts: Experts) -> None:
        """``router``: `[T, width]` -> experts and weights."""
        super().__init__()
        self.gate, self.experts = router, experts

    def forward(self, x: Tensor) -> Tensor:
        """`[..., width]` -> the same shape."""
        tokens = x.flatten(0, -2)
        out: Tensor = self.experts(tokens, *self.gate(tokens))
        return out.view_as(x)


def stack_experts(class_name: str) -> None:
    """Tell transformers that the model class of this name has stacked experts, and its checkpoints one by one."""
    at = "mlp.experts.*."
    merge: list[WeightConverter | WeightRenaming] = [
        WeightConverter(
            [f"{at}gate_proj.weight", f"{at}up_proj.weight"],
            "mlp.experts.gate_up_proj",
            operations=[MergeModulelist(dim=0), Concatenate(dim=1)],
        ),
        WeightConverter(f"{at}down_proj.weight", "mlp.experts.down_proj", operations=[MergeModulelist(dim=0)]),
    ]
    register_checkpoint_conversion_mapping(class_name, merge, overwrite=True)


def stored_shapes(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Names and shapes as a checkpoint stores them: one entry per expert."""
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        stacked = re.fullmatch(r"(.*\.experts)\.(gate_up_proj|down_proj)", name)
        if stacked is None:
            found[name] = shape
            continue
        count, rows, columns = shape
        parts = ("down_proj",) if stacked[2] == "down_proj" else ("gate_proj", "up_proj")
        for expert in range(count):
            for part in parts:
                found[f"{stacked[1]}.{expert}.{part}.weight"] = (rows // len(parts), columns)
    return found


def stacked_place(stored: str) -> tuple[str, tuple[int, int, int] | None]:
    """The parameter that a stored tensor belongs to and, of a stack, its place: expert, piece, pieces per expert."""
    one = re.fullmatch(r"(.*\.experts)\.(\d+)\.(gate|up|down)_proj\.weight", stored)
    if one is None:
        return stored, None
    if one[3] == "down":
        return f"{one[1]}.down_proj", (int(one[2]), 0, 1)
    return f"{one[1]}.gate_up_proj", (int(one[2]), ("gate", "up").index(one[3]), 2)
