"""The decoding step as the papers' repositories write it, on the weights of our LLaDA: the yardstick of the bench.

Full-sequence forwards, output head on every forwarded position, float64 softmax over everything, keys cached before
RoPE and rotated again at each step, cached and new keys concatenated (prefix) or overwritten (dual).  Written from the
rules in the papers and the descriptions of the released code (Fast-dLLM arXiv 2505.22618, LLaDA arXiv 2502.09992), for
one row and a fixed number of commits per forward.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dllm_decode.models.llada import LLaDA

PastLayer = tuple[Tensor, Tensor]


class Textbook:
    """One-row LLaDA decoding in the style of the reference repositories."""

    def __init__(self, model: LLaDA, mask_id: int) -> None:
        self.model, self.mask_id = model, mask_id
        self.config: Any = model.config
        self.inner: Any = model.model.transformer

    def _rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """RoPE in fp32, tables made anew at every call."""
        size = x.shape[-1]
        inv = 1.0 / self.config.rope_theta ** (torch.arange(0, size, 2, device=x.device).float() / size)
        angles = torch.outer(positions.float(), inv)
        angles = torch.cat([angles, angles], -1)
        y = x.float()
        a, b = y.chunk(2, -1)
        return (y * angles.cos() + torch.cat([-b, a], -1) * angles.sin()).to(x.dtype)

    def forward(
        self, ids: Tensor, past: list[PastLayer] | None, window: tuple[int, int] | None
    ) -> tuple[Tensor, list[PastLayer]]:
        """Logits of every forwarded position, and keys (before RoPE) and values of all positions.

        Args:
            ids: long ``[1, T]``, the whole row, or the window's tokens when ``past`` is given.
            past: per layer keys and values ``[1, H, N, D]``; with ``window`` ``(s, e)`` its slots are overwritten.
            window: slots of ``ids`` in the row.
        """
        c, present = self.config, []
        heads, size = c.n_heads, c.d_model // c.n_heads
        x = self.inner.wte(ids)
        for layer, block in enumerate(self.inner.blocks):
            h = block.attn_norm(x)
            q, k, v = (
                f(h).view(1, -1, heads, size).transpose(1, 2) for f in (block.q_proj, block.k_proj, block.v_proj)
            )
            if past is not None and window is not None:
                old_k, old_v = past[layer]
                s, e = window
                if e < old_k.shape[2]:  # dual: replace in place
                    old_k[:, :, s:e], old_v[:, :, s:e] = k, v
                    k, v = old_k, old_v
                else:  # prefix: cut, then concatenate
                    k = torch.cat([old_k[:, :, :s], k], 2)
                    v = torch.cat([old_v[:, :, :s], v], 2)
            present.append((k, v))
            total = k.shape[2]
            q_at = torch.arange(*window) if window is not None else torch.arange(total)
            q, k = self._rotate(q, q_at), self._rotate(k, torch.arange(total))
            a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(1, -1, c.d_model)
            x = x + block.attn_out(a)
            h = block.ff_norm(x)
            x = x + block.ff_out(F.silu(block.ff_proj(h)) * block.up_proj(h))
        return self.inner.ff_out(self.inner.ln_f(x)), present

    @torch.no_grad()
    def step(
        self,
        row: Tensor,
        block: tuple[int, int],
        k: int,
        temperature: float,
        past: list[PastLayer] | None,
        cache: str,
    ) -> list[PastLayer] | None:
        """One decoding step, in place on ``row`` (long ``[1, N]``): forward, sample everywhere, commit ``k`` cells.

        Returns:
            The cache for the block's next step (``None`` without a cache).
        """
        s, e = block
        window = None if past is None else ((s, e) if cache == "dual" else (s, row.shape[1]))
        logits, present = self.forward(row if window is None else row[:, window[0] : window[1]], past, window)
        offset = 0 if window is None else window[0]
        noisy = logits
        if temperature > 0:
            noisy = logits.to(torch.float64)
            noise = torch.rand_like(noisy, dtype=torch.float64)
            noisy = noisy.exp() / (-torch.log(noise)) ** temperature
        x0 = noisy.argmax(-1)
        p = F.softmax(logits.to(torch.float64), -1)
        confidence = p.gather(-1, x0.unsqueeze(-1)).squeeze(-1)
        masked = row[:, offset : offset + x0.shape[1]] == self.mask_id
        confidence[:, e - offset :] = -torch.inf
        confidence = torch.where(masked, confidence, -torch.inf)
        _, chosen = confidence[0].topk(k)
        row[0, offset + chosen] = x0[0, chosen]
        if cache == "none":
            return None
        return present if past is None or cache == "dual" else past
