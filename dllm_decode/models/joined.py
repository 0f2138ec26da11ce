"""Linear layers that read the same input, as one product: q, k and v; gate and up.

One matrix product over all their rows instead of two or three: fewer launches on a GPU, and on a CPU less of what
every small operation costs.  The layers keep their names, and their weights become views of the joint one, so that
nothing is held twice and a checkpoint is saved as it was read.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dllm_decode.models.packed import PackedLinear, PackedRows, by_columns, can_pack


class JointLinear:
    """The one product that stands for several layers; no module, so that only the layers are saved and counted."""

    def __init__(self, product: nn.Module, parts: Sequence[nn.Module], sizes: Sequence[int]) -> None:
        """``product``: `[..., in]` -> `[..., sum(sizes)]`, whose pieces are the outputs of ``parts``."""
        self.product, self.parts, self.sizes = product, tuple(parts), list(sizes)
        plain = isinstance(product, nn.Linear) and product.bias is None
        self._columns = product.weight.detach().t() if plain else None  # type: ignore[operator]

    def stands_for(self, modules: Sequence[nn.Module]) -> bool:
        """Whether these are still the layers that were joined, over the same memory, and no gradients are wanted.

        An adapter may have replaced one, a copy of the model or weights assigned to it have memory of their own.
        """
        first = modules[0]
        if any(mine is not now for mine, now in zip(self.parts, modules, strict=True)) or torch.is_grad_enabled():
            return False
        if not isinstance(self.product, nn.Linear):
            return True
        # asked now: weights that go to other processes move into shared memory, views and whole together
        held = self.product.weight if self._columns is None else self._columns
        return bool(first.weight.data_ptr() == held.data_ptr())  # type: ignore[operator]

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """The parts' outputs, views of one tensor."""
        return self.whole(x).split(self.sizes, dim=-1)

    def whole(self, x: Tensor) -> Tensor:
        """`[M, in]` -> `[M, sum(sizes)]`: the parts' outputs side by side."""
        if self._columns is None:
            out: Tensor = self.product(x)
            return out
        return torch.mm(x, self._columns)  # what the layer does, without its way there


def join(parent: nn.Module, names: Sequence[str]) -> JointLinear | None:
    """Join the linear layers of these dotted names, packed where that pays; ``None`` = not plain ones alike.

    One alone is its own product, over small weights on a CPU, where the way to it costs.
    """
    linears = [parent.get_submodule(name) for name in names]
    if any(type(linear) is not nn.Linear for linear in linears):
        return None
    weights = [linear.weight for linear in linears if isinstance(linear.weight, Tensor)]
    biases = [linear.bias for linear in linears if isinstance(linear.bias, Tensor)]
    if len({(w.dtype, w.device, w.shape[1]) for w in weights}) > 1 or len(biases) not in (0, len(linears)):
        return None
    sizes = [len(weight) for weight in weights]
    if len(linears) == 1:
        if weights[0].device.type != "cpu" or can_pack(weights[0]):
            return None
        linears[0].weight.data = by_columns(weights[0])
        return JointLinear(linears[0], linears, sizes)
    with torch.no_grad():
        whole = nn.Linear(weights[0].shape[1], sum(sizes), bias=bool(biases), device="meta")
        for name, pieces in (("weight", weights), ("bias", biases)):
            if not pieces:
                continue
            joint = torch.cat([piece.detach() for piece in pieces])
            if joint.dim() > 1 and not can_pack(joint):
                joint = by_columns(joint)
            setattr(whole, name, nn.Parameter(joint, requires_grad=False))
            for piece, view in zip(pieces, joint.split(sizes), strict=True):
                piece.data = view
        if not can_pack(whole.weight):
            return JointLinear(whole, linears, sizes)
        packed, begin, parts = PackedLinear(whole), 0, []
        for name, size in zip(names, sizes, strict=True):
            parts.append(PackedRows(packed, begin, begin + size))
            holder, _, last = name.rpartition(".")
            setattr(parent.get_submodule(holder), last, parts[-1])
            begin += size
        return JointLinear(packed, parts, sizes)
