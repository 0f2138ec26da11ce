"""What a forward must cost: floating-point operations, bytes, and the time a machine needs for them.

The formulas every speed figure of this project is compared with.  For R rows of T forwarded tokens that see S key
slots, with H head positions per row::

    flop  = 2 P_trunk R T + 4 L d_attention R T S + 2 P_head R H
    bytes = w (P_trunk + P_head) + kv R (S + T)
    floor = max(flop / gemm rate, bytes / bandwidth)

``P_trunk`` counts the blocks' matrices, ``P_head`` the output head, ``w`` bytes per weight, ``kv`` cache bytes per
token over all layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Machine:
    """Measured rates: ``flops`` of a matrix product per second, ``bandwidth`` of memory in bytes per second."""

    flops: float
    bandwidth: float


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes.

    Attributes:
        layers, width, heads, kv_heads, inner, vocabulary: as in its config.
        itemsize: bytes per weight and per cached number.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    inner: int
    vocabulary: int
    itemsize: int

    @classmethod
    def of(cls, config: Any, itemsize: int) -> Shape:
        """Read a LLaDA or Dream config."""
        return cls(
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.intermediate_size,
            config.embedding_rows,
            itemsize,
        )

    @property
    def kv_width(self) -> int:
        """Numbers per token and layer in the keys (as many in the values)."""
        return self.kv_heads * (self.width // self.heads)

    @property
    def trunk(self) -> int:
        """Weights of all blocks."""
        return self.layers * self.width * (2 * self.width + 2 * self.kv_width + 3 * self.inner)

    @property
    def head(self) -> int:
        """Weights of the output head; the embedding is as large."""
        return self.width * self.vocabulary

    @property
    def kv_bytes(self) -> int:
        """Cache bytes per token."""
        return 2 * self.layers * self.kv_width * self.itemsize

    def flop(self, rows: int, tokens: int, keys: int, heads: int) -> float:
        """Operations of one forward; ``tokens``, ``keys`` and ``heads`` are per row."""
        attention = 4 * self.layers * self.width * tokens * keys
        return rows * (2.0 * self.trunk * tokens + attention + 2.0 * self.head * heads)

    def bytes(self, rows: int, tokens: int, keys: int, cached: bool) -> float:
        """Bytes one forward must move."""
        kv = self.kv_bytes * rows * (keys + tokens) if cached else 0
        return float(self.itemsize * (self.trunk + self.head) + kv)

    def floor(self, machine: Machine, rows: int, tokens: int, keys: int, heads: int, cached: bool) -> float:
        """Seconds one forward needs at least."""
        return max(
            self.flop(rows, tokens, keys, heads) / machine.flops,
            self.bytes(rows, tokens, keys, cached) / machine.bandwidth,
        )
