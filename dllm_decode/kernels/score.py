"""Scores of logit rows in one pass: argmax, confidence, entropy, top-2 margins, and Gumbel noise that counts.

The noise of a token is a function of (row's seed, step, cell, branch, token id) through Philox-4x32-10, so it is the
same whatever else is in the batch and in whatever order things run.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dllm_decode.interface.scoring import Draws

#: Token ids of one step of the pass: four runs of `RUN`, one per number that a Philox call returns.
RUN = 1024


@triton.jit
def _gumbel(bits):
    """-ln(-ln u) of 32 random bits, u uniform in (0, 1): the upper 23 bits, in the middle of their interval."""
    u = ((bits >> 9).to(tl.float32) + 0.5) * (1.0 / 8388608.0)
    return -tl.log(-tl.log(u))


@triton.jit
def _take(z, offer, ids, top, second, weight, moment, best, choice):
    """Take one number per lane into the lane's running top two, softmax sums and proposal.

    ``weight`` is sum e^(z - top), ``moment`` is sum (z - top) e^(z - top).
    """
    new = tl.maximum(top, z)
    base = tl.where(new == float("-inf"), 0.0, new)
    shrink, grow = tl.exp(top - base), tl.exp(z - base)
    # (top - base) e^(top - base) is 0 at -inf, not NaN.
    moment = moment * shrink + weight * shrink * tl.where(top == float("-inf"), 0.0, top - base)
    moment += grow * tl.where(z == float("-inf"), 0.0, z - base)
    weight = weight * shrink + grow
    second = tl.maximum(second, tl.minimum(top, z))
    better = offer > best  # ids rise within a lane, so the first of equals stays
    best = tl.where(better, offer, best)
    choice = tl.where(better, ids, choice)
    return new, second, weight, moment, best, choice


@triton.jit
def score_row(
    logits,
    seeds,
    steps,
    cells,
    branches,
    tokens,
    confidences,
    entropies,
    margins,
    raw_margins,
    stride,
    vocabulary,
    mask_id,
    scale,
    heat,
    noisy: tl.constexpr,
    extras: tl.constexpr,
    run: tl.constexpr,
):
    """One row of logits: softmax of ``logits * scale``, proposal by the largest of that plus ``heat`` times noise."""
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, run)
    top = tl.full([run], float("-inf"), tl.float32)
    second = tl.full([run], float("-inf"), tl.float32)
    best = tl.full([run], float("-inf"), tl.float32)
    weight = tl.zeros([run], tl.float32)
    moment = tl.zeros([run], tl.float32)
    choice = tl.zeros([run], tl.int32)
    source = logits + row * stride
    seed, step, cell, branch = 0, 0, 0, 0
    if noisy:
        seed = tl.load(seeds + row)
        step = tl.load(steps + row).to(tl.int32)
        cell = tl.load(cells + row).to(tl.int32)
        branch = tl.load(branches + row).to(tl.int32)
    for start in tl.range(0, vocabulary, 4 * run, num_stages=3):
        id0 = start + lane
        id1, id2, id3 = id0 + run, id0 + 2 * run, id0 + 3 * run
        z0 = tl.load(source + id0, mask=id0 < vocabulary, other=float("-inf")).to(tl.float32) * scale
        z1 = tl.load(source + id1, mask=id1 < vocabulary, other=float("-inf")).to(tl.float32) * scale
        z2 = tl.load(source + id2, mask=id2 < vocabulary, other=float("-inf")).to(tl.float32) * scale
        z3 = tl.load(source + id3, mask=id3 < vocabulary, other=float("-inf")).to(tl.float32) * scale
        o0 = tl.where(id0 == mask_id, float("-inf"), z0)
        o1 = tl.where(id1 == mask_id, float("-inf"), z1)
        o2 = tl.where(id2 == mask_id, float("-inf"), z2)
        o3 = tl.where(id3 == mask_id, float("-inf"), z3)
        if noisy:
            count = start // 4 + lane
            none = count * 0
            b0, b1, b2, b3 = tl.philox(seed, count, none + cell, none + step, none + branch)
            o0 += heat * _gumbel(b0)
            o1 += heat * _gumbel(b1)
            o2 += heat * _gumbel(b2)
            o3 += heat * _gumbel(b3)
        top, second, weight, moment, best, choice = _take(z0, o0, id0, top, second, weight, moment, best, choice)
        top, second, weight, moment, best, choice = _take(z1, o1, id1, top, second, weight, moment, best, choice)
        top, second, weight, moment, best, choice = _take(z2, o2, id2, top, second, weight, moment, best, choice)
        top, second, weight, moment, best, choice = _take(z3, o3, id3, top, second, weight, moment, best, choice)

    most = tl.max(top, 0)
    base = tl.where(most == float("-inf"), 0.0, most)
    shrink = tl.exp(top - base)
    total = tl.sum(weight * shrink, 0)
    token = tl.min(tl.where(best == tl.max(best, 0), choice, 2147483647), 0)
    token = tl.minimum(token, vocabulary - 1)  # NaN logits equal nothing: any id will do, if it is one
    proposed = tl.load(source + token).to(tl.float32) * scale
    tl.store(tokens + row, token.to(tl.int64))
    tl.store(confidences + row, tl.exp(proposed - base) / total)
    if extras:
        mean = tl.sum(shrink * (moment + weight * tl.where(top == float("-inf"), 0.0, top - base)), 0) / total
        tl.store(entropies + row, tl.maximum(tl.log(total) - mean, 0.0))
        # The runner-up is another lane's best, or the second of the lane that holds the best.
        winner = tl.min(tl.where(top == most, lane, run), 0)
        other = tl.max(tl.where(lane == winner, second, top), 0)
        tl.store(margins + row, (1.0 - tl.exp(other - base)) / total)
        tl.store(raw_margins + row, (most - other) / scale)


def score_rows(
    logits: Tensor,
    mask_id: int,
    scale: float = 1.0,
    heat: float = 0.0,
    draws: Draws | None = None,
    extras: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Score rows of logits in one pass.

    Args:
        logits: ``[M, V]``, fp32, fp16 or bf16.
        mask_id: never proposed, but part of the softmax.
        scale: the softmax is that of ``logits * scale``.
        heat: the proposal is the largest of ``logits * scale + heat * Gumbel noise``.
        draws: needed when ``heat`` is above 0.
        extras: also compute entropy and margins.

    Returns:
        Token long ``[M]``; probability of it, entropy in nats, top-1 minus top-2 probability, top-1 minus top-2 logit
        (before ``scale``), fp32 ``[M]`` each, the last three undefined without ``extras``.
    """
    count, vocabulary = logits.shape
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    noisy = heat > 0
    if noisy and draws is None:
        raise ValueError("noise needs draws: the seed, step, cell and branch of each row.")
    token = torch.empty(count, dtype=torch.long, device=logits.device)
    numbers = torch.empty(4, count, dtype=torch.float32, device=logits.device)
    keys = (token,) * 4 if draws is None else (draws.seed, draws.step, draws.cell, draws.branch)
    if count:
        score_row[(count,)](
            logits,
            *keys,
            token,
            *numbers,
            logits.stride(0),
            vocabulary,
            mask_id,
            scale,
            heat,
            noisy=noisy,
            extras=extras,
            run=RUN,
            num_warps=8,
            enable_fp_fusion=True,
        )
    return token, numbers[0], numbers[1], numbers[2], numbers[3]
