"""Linear layers whose weights are laid out once, on load, as the CPU's matrix product wants them.

`F.linear` in fp32 repacks a large weight in every call with a few rows, which is most of the time of an output head,
and takes other paths for other numbers of rows: a row's result depends on its batch. Over packed weights (oneDNN's
reordered format) the product is up to four times as fast, and a row gets the same result in any batch.  A small
weight keeps its type and place but lies by columns: over rows of up to a few dozen tokens that is up to twice as fast,
and results no longer depend on the batch from two rows on (by rows: from sixteen).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Smaller weights stay in the caches, and the packed call's own cost (10 us) is not made up.
LEAST_ELEMENTS = 1 << 19
#: Rows the layout is made for; the format it gives was the fastest, or even, at every number of rows tried (1 to 256).
ROWS = 32


class PackedLinear(nn.Module):
    """`x W^T + b` over a packed copy of a linear layer's weight; the layer itself can go. For inference only."""

    def __init__(self, linear: nn.Linear) -> None:
        """Pack the weight of `linear`, fp32 or bf16 on a CPU."""
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        # Plain attributes: a packed tensor has no storage to be saved, moved or counted.
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)
        self._bias = None if linear.bias is None else linear.bias.detach()

    @property
    def weight(self) -> Tensor:
        """The weight `[out, in]`, unpacked into a copy."""
        return self._packed.to_dense()

    @property
    def nbytes(self) -> int:
        """Bytes of the weight."""
        return self.out_features * self.in_features * self._packed.dtype.itemsize

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` -> `[..., out]`."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")
        return out

    def extra_repr(self) -> str:
        """Sizes, as `nn.Linear` prints them."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self._bias is not None}"


class PackedRows(nn.Module):
    """Stands where a layer stood that is now rows ``[begin, end)`` of a packed joint one."""

    def __init__(self, whole: PackedLinear, begin: int, end: int) -> None:
        super().__init__()
        self._whole, self._rows = (whole,), slice(begin, end)  # in a tuple: no submodule of three layers
        self.in_features, self.out_features = whole.in_features, end - begin

    @property
    def weight(self) -> Tensor:
        """The rows of the weight, unpacked into a copy."""
        return self._whole[0].weight[self._rows]

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` -> `[..., out]`, by way of the whole product: callers that want all parts use that."""
        return self._whole[0](x)[..., self._rows]


def can_pack(weight: Tensor) -> bool:
    """Whether a packed product of this weight exists here and pays."""
    if type(weight) not in (Tensor, nn.Parameter):  # quantised
        return False
    if weight.device.type != "cpu" or weight.numel() < LEAST_ELEMENTS or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise") or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


def by_columns(weight: Tensor) -> Tensor:
    """The same `[out, in]` with its columns one after the other; as it is where that is no gain."""
    if type(weight) not in (Tensor, nn.Parameter) or weight.device.type != "cpu" or weight.dtype != torch.float32:
        return weight
    return weight.detach().t().contiguous().t()


def pack_linears(module: nn.Module) -> int:
    """Replace every large linear layer inside a module by its packed form, one by one; returns how many.

    The old weight is let go before the next is packed, so that at most one layer is held twice.  Small ones are laid
    out by columns (those of a joint product lie so already).
    """
    count = 0
    for parent in [m for m in module.modules() if not isinstance(m, nn.Linear)]:
        for name in [name for name, child in parent.named_children() if type(child) is nn.Linear]:
            if can_pack(getattr(parent, name).weight):
                setattr(parent, name, PackedLinear(getattr(parent, name)))
                count += 1
            elif getattr(parent, name).weight.is_contiguous():
                getattr(parent, name).weight.data = by_columns(getattr(parent, name).weight)
    return count
