"""The decoding step as the papers' repositories write it, on the weights of our models: the yardstick of the bench.

Full-sequence forwards, output head on every forwarded position, float64 softmax over everything, keys cached before
RoPE and rotated again at each step, cached and new keys concatenated (prefix) or overwritten (dual).  Written from the
rules in the papers and the descriptions of the released code (Fast-dLLM arXiv 2505.22618, LLaDA arXiv 2502.09992), for
rows of one length and a fixed number of commits per forward.  Dream's shift is left out: it costs nothing.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dllm_decode.models.decoder import BidirectionalLM

PastLayer = tuple[Tensor, Tensor]


class Textbook:
    """LLaDA and Dream decoding in the style of the reference repositories."""

    def __init__(self, model: BidirectionalLM, mask_id: int) -> None:
        self.model, self.mask_id = model, mask_id
        self.config: Any = model.config

    def _rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """RoPE in fp32, tables made anew at every call."""
        size = x.shape[-1]
        inv = 1.0 / self.config.rope_theta ** (torch.arange(0, size, 2, device=x.device).float() / size)
        angles = torch.outer(positions.to(x.device).float(), inv)
        angles = torch.cat([angles, angles], -1)
        y = x.float()
        a, b = y.chunk(2, -1)
        return (y * angles.cos() + torch.cat([-b, a], -1) * angles.sin()).to(x.dtype)

    def forward(
        self, ids: Tensor, past: list[PastLayer] | None, window: tuple[int, int] | None
    ) -> tuple[Tensor, list[PastLayer]]:
        """Logits of every forwarded position, and keys (before RoPE) and values of all positions.

        Args:
            ids: long ``[B, T]``, the whole rows, or the window's tokens when ``past`` is given.
            past: per layer keys and values ``[B, H, N, D]``; with ``window`` ``(s, e)`` its slots are overwritten.
            window: slots of ``ids`` in the row.
        """
        present: list[PastLayer] = []
        size = self.model.head_dim
        embedding, blocks, norm, head = self.model._parts(self.model)
        x = embedding(ids)
        for layer, block in enumerate(blocks):
            (first_norm, second_norm), (gate, up, down) = block._norms(block), block._mlp(block)
            q_proj, k_proj, v_proj = (named(block) for named in block._qkv)
            o_proj = block._output(block)
            h = first_norm(x)
            q, k, v = (f(h).unflatten(-1, (-1, size)).transpose(1, 2) for f in (q_proj, k_proj, v_proj))
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
            if (group := q.shape[1] // k.shape[1]) > 1:
                k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
            x = x + o_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
            h = second_norm(x)
            x = x + down(F.silu(gate(h)) * up(h))
        return head(norm(x)), present

    @torch.no_grad()
    def step(
        self,
        row: Tensor,
        block: tuple[int, int],
        k: int,
        temperature: float,
        past: list[PastLayer] | None,
        cache: str,
        threshold: float | None = None,
    ) -> list[PastLayer] | None:
        """One decoding step, in place on ``row`` (long ``[B, N]``): forward, sample everywhere, commit ``k`` cells.

        With a ``threshold`` the cells whose probability reaches it are committed too (Fast-dLLM).

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
        for i in range(len(row)):
            _, chosen = confidence[i].topk(k)
            row[i, offset + chosen] = x0[i, chosen]
            if threshold is not None:
                sure = (confidence[i] >= threshold).nonzero()[:, 0]
                row[i, offset + sure] = x0[i, sure]
        if cache == "none":
            return None
        return present if past is None or cache == "dual" else past
