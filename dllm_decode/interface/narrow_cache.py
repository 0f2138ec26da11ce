"""A KV cache in 8 bits: codes, and one scale per slot and head beside them.

Quantised where it is written and widened where it is read, so that nobody else need know. Symmetric, and each head of
each token on its own: what a slot holds depends on nothing but its key, so a row's answer depends on no other row's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dllm_decode.interface.cache import KVCache

#: name -> what a code is read as, and the code that the largest number of a head gets
CODES = {"int8": (torch.int8, 127.0), "fp8": (torch.float8_e4m3fn, 448.0)}


def narrow(x: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Codes and scales of numbers.

    Args:
        x: `[..., head_dim]`, any floating dtype.
        kind: of :data:`CODES`.

    Returns:
        Codes, int8 `[..., head_dim]` (of fp8 the bits), and scales `[...]` in x's dtype. In int8 no number is further
        than half a scale from its own, and a scale is the head's largest number / 127.
    """
    dtype, most = CODES[kind]
    least = torch.finfo(x.dtype).tiny  # of a head of zeros; zero would divide zero
    scales = (x.abs().amax(-1) / most).clamp_min_(least)  # rounded to x's dtype before it is used, as it is read back
    steps = (x.float() / scales.float()[..., None]).clamp_(-most, most)
    return (steps.round_() if kind == "int8" else steps).to(dtype).view(torch.int8), scales


def widen(codes: Tensor, scales: Tensor, kind: str) -> Tensor:
    """The numbers that codes stand for, `[..., head_dim]` in the scales' dtype."""
    return codes.view(CODES[kind][0]).to(scales.dtype).mul_(scales[..., None])


class NarrowCache(KVCache):
    """Keys and values in 8 bits.

    Attributes:
        data: int8, see :class:`KVCache`; codes.
        scales: `[layers, 2, rows, kv_heads, slots + 1]`, in the dtype in which the model computes.
        kind: of :data:`CODES`.
    """

    in_place = False

    def __init__(
        self,
        kind: str,
        *,
        layers: int,
        rows: int,
        kv_heads: int,
        slots: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        """Allocate; `dtype` is what is written and read.

        Raises:
            CacheError: as :class:`KVCache`.
        """
        super().__init__(
            layers=layers,
            rows=rows,
            kv_heads=kv_heads,
            slots=slots,
            head_dim=head_dim,
            dtype=torch.int8,
            device=device,
        )
        self.kind, self.scales = kind, torch.zeros(self.data.shape[:-1], dtype=dtype, device=device)

    def _store(self, layer: int, part: int, where: tuple[Tensor | slice, ...], x: Tensor) -> None:
        self.data[layer, part][where], self.scales[layer, part][where] = narrow(x.to(self.scales.dtype), self.kind)

    def read(self, layer: int, rows: Tensor | slice, slots: int) -> tuple[Tensor, Tensor]:
        """As :meth:`KVCache.read`; always a copy."""
        codes, scales = (x[layer, :, :, :, :slots] for x in (self.data, self.scales))
        if isinstance(rows, slice):
            codes, scales = codes[:, rows], scales[:, rows]
        else:
            codes, scales = codes.index_select(1, rows), scales.index_select(1, rows)
        k, v = widen(codes, scales, self.kind)
        return k, v

    def kept(self, x: Tensor) -> Tensor:
        """`x` as it would be read back: tokens of drafts, which are not written, are seen as those that are."""
        return widen(*narrow(x.to(self.scales.dtype), self.kind), self.kind)
