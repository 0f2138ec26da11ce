"""What a row's tokens look at, for the parts that ask."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Attention:
    """What a row's tokens look at, prompt included: the mean over heads and the last layers.

    Slot ``prompt + g`` of a row is its cell g; the slots before are its prompt.

    Attributes:
        weights: fp32 ``[B, G, N]``, from each cell to each slot; rows sum to 1. ``received``: fp32 ``[B, N]``, the
            mean of what all tokens of the row pay to a slot.
        confidence: fp32 ``[B, N]``, the top probability at each slot of the prompt, whatever it holds; 0 behind it.
        prompt: long ``[B]``, slots of the prompt.
    """

    weights: Tensor
    received: Tensor
    confidence: Tensor
    prompt: Tensor
