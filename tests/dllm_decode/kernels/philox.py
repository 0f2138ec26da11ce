"""Philox in plain torch: what the kernel's noise is compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from dllm_decode.interface.scoring import Draws
from dllm_decode.kernels.score import RUN


def philox(counter: list[Tensor], k0: Tensor, k1: Tensor) -> list[Tensor]:
    """Philox-4x32-10 in plain torch: four counter words and two key words, all in int64, to four 32-bit numbers."""
    low = 0xFFFFFFFF

    def high_low(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
        # A 32 x 32 bit product overflows signed 64 bits: by halves of b.
        lower, upper = a * (b & 0xFFFF), a * (b >> 16)
        middle = (lower >> 16) + upper
        return (middle >> 16) & low, ((middle & 0xFFFF) << 16) | (lower & 0xFFFF)

    c = counter
    for _ in range(10):
        high_b, low_b = high_low(0xCD9E8D57, c[2])
        high_a, low_a = high_low(0xD2511F53, c[0])
        c = [high_b ^ c[1] ^ k0, low_b, high_a ^ c[3] ^ k1, low_a]
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return c


def philox_noise(draws: Draws, vocabulary: int) -> Tensor:
    """The Gumbel noise that ``score_rows`` adds, fp32 ``[M, vocabulary]``.

    Token id t is the ``(t % 4096) // 1024``-th number of the Philox block with counter
    ``(t // 4096 * 1024 + t % 1024, cell, step, branch)`` and key ``seed``.
    """
    ids, count = torch.arange(vocabulary, device=draws.seed.device), len(draws.seed)
    low = 0xFFFFFFFF
    words = [((ids // (4 * RUN)) * RUN + ids % RUN)[None].expand(count, -1)]
    words += [x[:, None].expand(-1, vocabulary) & low for x in (draws.cell, draws.step, draws.branch)]
    numbers = philox(words, (draws.seed & low)[:, None], ((draws.seed >> 32) & low)[:, None])
    bits = torch.stack(numbers).gather(0, ((ids % (4 * RUN)) // RUN)[None, None].expand(1, count, -1))[0]
    uniform = ((bits >> 9).float() + 0.5) * (1.0 / 8388608.0)
    return -(-uniform.log()).log()
