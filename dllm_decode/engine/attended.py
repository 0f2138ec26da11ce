"""The attention a model was watched for, as a policy sees it: by cell and slot."""

from __future__ import annotations

import torch
from torch import Tensor

from dllm_decode.interface.inputs import AttentionWatch
from samplers import View
from samplers.contract import Attention


def attention_of(
    watch: AttentionWatch, sure: Tensor, prompt: Tensor, queries: Tensor, offset: Tensor, view: View
) -> Attention:
    """What a forward of whole rows was watched for.

    Args:
        watch: with the model's maps.
        sure: fp32 ``[M]``, the confidences at ``prompt``.
        prompt: bool ``[R, P]``, the slots before each row's first cell.
        queries: long ``[R]``, tokens of each row.
        offset: long ``[R]``, slot of its first cell.
        view: the rows' view.
    """
    maps = torch.stack(watch.maps).mean(0)[: len(prompt)].to(prompt.device)
    wide = maps.shape[1]
    real = torch.arange(wide, device=maps.device) < queries[:, None]
    cell = (view.index + offset[:, None]).clamp(max=wide - 1)
    confidence = maps.new_zeros(len(prompt), wide)
    confidence[:, : prompt.shape[1]][prompt] = sure
    return Attention(
        weights=maps.gather(1, cell[:, :, None].expand(-1, -1, wide)) * view.valid[:, :, None],
        received=(maps * real[:, :, None]).sum(1) / queries[:, None],
        confidence=confidence,
        prompt=offset,
    )
