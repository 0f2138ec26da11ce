"""The KV cache: one preallocated tensor, keys stored after RoPE, slot = the row's own absolute position."""

from __future__ import annotations

import torch
from torch import Tensor

from dllm_decode.errors import CacheError


class KVCache:
    """Keys and values of `rows` rows, each with `slots` positions, for every layer.

    A token's position never changes, so its rotated key never does either: keys are stored after RoPE and read as
    they are. Prompts start at slot 0 in every row (no left padding); how many slots of a row are visible is the
    caller's knowledge (`ForwardInput.lengths`), not the cache's.

    Attributes:
        data: `[layers, 2, rows, kv_heads, slots + 1, head_dim]`. The extra last slot takes the writes of padding
            tokens, so that a ragged write needs neither a host sync nor a data-dependent shape; nobody reads it.
        in_place: `data` holds the keys and values themselves, so that kernels and `lanes` may go around `read`.
    """

    in_place = True

    def __init__(
        self,
        *,
        layers: int,
        rows: int,
        kv_heads: int,
        slots: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        data: Tensor | None = None,
    ) -> None:
        """Allocate the cache, or take over the memory of an earlier one of the same sizes (`data`, all finite).

        Raises:
            CacheError: a size below 1, or not enough memory (the message says how much was asked for).
        """
        sizes = {"layers": layers, "rows": rows, "kv_heads": kv_heads, "slots": slots, "head_dim": head_dim}
        wrong = {name: size for name, size in sizes.items() if size < 1}
        if wrong:
            raise CacheError(f"a KV cache needs every size to be at least 1, got {wrong}.")
        self.layers, self.rows, self.kv_heads, self.slots, self.head_dim = sizes.values()
        self._lanes: list[tuple[tuple[int, int, int, int, bool], tuple[Tensor, ...]]] = []
        needed = self.bytes(**sizes, dtype=dtype)
        if data is not None:
            assert data.shape == (layers, 2, rows, kv_heads, slots + 1, head_dim) and data.dtype == dtype
            self.data = data
            return
        try:
            # Zeros, not empty: a masked slot has weight 0, and 0 * NaN from fresh memory would be NaN.
            self.data = torch.zeros(layers, 2, rows, kv_heads, slots + 1, head_dim, dtype=dtype, device=device)
        except (RuntimeError, MemoryError) as error:  # the CPU allocator raises RuntimeError, CUDA a subclass of it
            raise CacheError(
                f"not enough memory on {device} for a KV cache of {needed / 2**30:.2f} GiB ({rows} rows x {slots} "
                f"slots, {layers} layers, {kv_heads} KV heads of {head_dim}, {dtype}); use fewer rows, fewer new "
                "tokens, a narrower dtype or cache='none'."
            ) from error

    @staticmethod
    def bytes(
        *, layers: int, rows: int, kv_heads: int, slots: int, head_dim: int, dtype: torch.dtype = torch.float32
    ) -> int:
        """Bytes that a cache of this size takes, without allocating it."""
        return layers * 2 * rows * kv_heads * (slots + 1) * head_dim * dtype.itemsize

    @property
    def dtype(self) -> torch.dtype:
        """Element type of the stored keys and values."""
        return self.data.dtype

    @property
    def device(self) -> torch.device:
        """Where the tensor lies."""
        return self.data.device

    def write(self, layer: int, rows: Tensor, positions: Tensor, valid: Tensor | None, k: Tensor, v: Tensor) -> None:
        """Store fresh keys and values; only this layer's slots named here change.

        Args:
            layer: which layer.
            rows: long `[R]`, cache row of each forwarded row.
            positions: long `[R, Q]`, slot of each token.
            valid: bool `[R, Q]`, False = padding, not stored; None = all are real.
            k: `[R, kv_heads, Q, head_dim]`, after RoPE.
            v: `[R, kv_heads, Q, head_dim]`.
        """
        if valid is not None:
            positions = torch.where(valid, positions, self.slots)
        where = rows[:, None], slice(None), positions
        self._store(layer, 0, where, k.transpose(1, 2))
        self._store(layer, 1, where, v.transpose(1, 2))

    def _store(self, layer: int, part: int, where: tuple[Tensor | slice, ...], x: Tensor) -> None:
        """Put keys (part 0) or values (part 1) `[R, Q, kv_heads, head_dim]` where they belong."""
        self.data[layer, part][where] = x.to(self.dtype)

    def lanes(self, rows: slice, slots: slice, paired: bool = False) -> tuple[Tensor, ...]:
        """Views `[R, kv_heads, S, head_dim]` of a span of rows and slots: keys, values of layer 0, of layer 1, ...

        `paired`: `[2, R, kv_heads, S, head_dim]` of layer 0, of layer 1, ...
        """
        asked = rows.start, rows.stop, slots.start, slots.stop, paired
        for at, held in self._lanes:  # a block's steps ask for the same
            if at == asked:
                return held
        part = self.data[:, :, rows, :, slots]
        found = (part if paired else part.flatten(0, 1)).unbind(0)
        self._lanes = [(asked, found), *self._lanes[:3]]
        return found

    def read(self, layer: int, rows: Tensor | slice, slots: int) -> tuple[Tensor, Tensor]:
        """Keys and values `[R, kv_heads, slots, head_dim]` of rows; a slice of rows is a view, a tensor copies."""
        k, v = self.data[layer, 0, :, :, :slots], self.data[layer, 1, :, :, :slots]
        if isinstance(rows, slice):
            return k[rows], v[rows]
        return k.index_select(0, rows), v.index_select(0, rows)

    def kept(self, x: Tensor) -> Tensor:
        """`x` as it would be read back had it been written."""
        return x.to(self.dtype)
