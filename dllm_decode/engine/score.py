"""From logits to proposals: token, confidence, entropy and margins of chosen cells, without a softmax on the side.

One pass in fp32 per chunk of cells: maximum, argmax and log-sum-exp; what no part needs is not computed.  A float64
softmax is there as the ``reference`` precision, for comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache

import torch
from torch import Tensor

from dllm_decode import kernels
from dllm_decode.interface.scoring import Draws, ScoreRule, Scores

#: Logits of one chunk take at most about this many elements (64 MiB in fp32).
CHUNK_ELEMENTS = 1 << 24
#: The best of a row of at least ``LONG`` logits is looked for among the best of runs: torch's `argmax` is slow there.
RUN, LONG = 64, 1 << 12
#: Logits whose exponentials are summed at a time: they stay in a core's own cache between the passes.
AT_ONCE = 1 << 18


def one_pass(rule: ScoreRule) -> str | None:
    """Why the fused kernel, which reads each row of logits once, cannot follow this rule; ``None`` = it can."""
    if rule.top_p is not None or rule.top_k is not None:
        return "top-p and top-k look at the whole row first"
    if rule.float64:
        return "the reference precision is float64"
    kept = sorted(rule.needs & {"logits", "probs"})
    return f"a part of the policy reads {' and '.join(kept)}" if kept else None


def score(
    logits: Tensor,
    rule: ScoreRule,
    generator: torch.Generator | None = None,
    *,
    draws: Draws | None = None,
    noise: Tensor | None = None,
    held: Tensor | None = None,
    barred: Tensor | None = None,
    fused: bool | None = None,
) -> Scores:
    """Score cells.

    Args:
        logits: ``[M, V]``, any float dtype; overwritten.
        rule: see :class:`ScoreRule`.
        generator: random source of the Gumbel noise when the temperature is above 0.
        draws: keys of counter-based noise, for the fused kernel.
        noise: fp32 ``[M, V]``, Gumbel noise to use instead of the generator's.
        held: long ``[M]``, tokens whose probabilities are wanted too.
        barred: bool ``[M]``, cells where the rule's ``ends`` have logits of -inf too.
        fused: one pass by the fused kernel; ``None`` = on a GPU, when it can follow the rule and has its keys.
    """
    if fused is None:
        ready = one_pass(rule) is None and (rule.temperature == 0 or draws is not None)
        fused = ready and noise is None and kernels.worthwhile(logits.device, logits.dtype)
    if barred is not None:
        for end in rule.ends:
            logits[:, end].masked_fill_(barred, -torch.inf)
    if fused:
        return _one_pass(logits, rule, draws, held)
    logits = logits.double() if rule.float64 else logits.float()
    if rule.suppress:
        logits[:, list(rule.suppress)] = -torch.inf
    kept = logits.clone() if "logits" in rule.needs else None
    plain = logits
    if rule.temperature > 0 and (rule.filtered or rule.top_p is not None or rule.top_k is not None):
        plain = logits / rule.temperature  # Dream filters the tempered logits
    drawn = filter_logits(plain, rule.top_p, rule.top_k, rule.mask_id)
    source = drawn if rule.filtered else logits
    top2 = source.topk(2).values if rule.needs & {"margin"} else None
    raw2 = logits.topk(2).values if "logit_margin" in rule.needs else None

    scale = 1.0 if plain is not logits else max(rule.temperature, 1e-30)
    token = _propose(drawn, rule, scale, generator, noise)
    proposed = source.gather(1, token[:, None])[:, 0]
    if rule.needs or held is not None or source is not logits:
        lse = _alike(torch.logsumexp, source)
    else:  # greedily the highest logit is the proposal's or the mask's
        greedy = rule.temperature == 0
        lse = _spent(source, torch.maximum(proposed, source[:, rule.mask_id]) if greedy else source.amax(-1))
    kept_lse = None if kept is None else lse if source is logits else _alike(torch.logsumexp, kept)
    entropy = _entropy(source, lse) if "entropy" in rule.needs else None
    confidence = (proposed - lse).exp() + 0 * lse  # NaN also under an infinite mask
    return Scores(
        token=token,
        confidence=confidence.float(),
        entropy=None if entropy is None else entropy.float(),
        margin=None if top2 is None else ((top2[:, 0] - lse).exp() - (top2[:, 1] - lse).exp()).float(),
        logit_margin=None if raw2 is None else (raw2[:, 0] - raw2[:, 1]).float(),
        logits=None if kept is None else kept.float(),
        probs=_drawn_from(drawn, rule, scale) if "probs" in rule.needs else None,
        logsumexp=None if kept_lse is None else kept_lse.float(),
        held=None if held is None else (source.gather(1, held[:, None])[:, 0] - lse).exp().float(),
    )


def _argmax(rows: Tensor) -> Tensor:
    """Long ``[M]``: ``rows.argmax(-1)``; of long rows, which torch reads slowly, the best of runs' best."""
    whole = rows.shape[1] // RUN * RUN
    if whole < LONG:
        return rows.argmax(-1)
    best = rows[:, :whole].unflatten(1, (-1, RUN)).amax(-1)
    if whole < rows.shape[1]:
        best = torch.cat([best, rows[:, whole:].amax(-1, keepdim=True)], 1)
    first = best.argmax(-1, keepdim=True) * RUN  # of the first run that has it
    at = (first + torch.arange(RUN, device=rows.device)).clamp_(max=rows.shape[1] - 1)
    return at.gather(1, rows.gather(1, at).argmax(-1, keepdim=True))[:, 0]


def _spent(rows: Tensor, highest: Tensor) -> Tensor:
    """``[M]``: ``rows.logsumexp(-1)``, in the memory of the rows, which are lost; ``highest``: of each, ``[M]``."""
    few = max(1, AT_ONCE // max(1, rows.shape[1]))
    sums = [
        _alike(torch.sum, x.sub_(m[:, None]).exp_()) for x, m in zip(rows.split(few), highest.split(few), strict=True)
    ]
    return torch.cat(sums).log_().add_(highest)


def _alike(reduce: Callable[..., Tensor], rows: Tensor) -> Tensor:
    """``reduce(rows, -1)``; a lone row as one of two, for several threads would share it and add in another order."""
    return reduce(rows.expand(2, -1), -1)[:1] if len(rows) == 1 else reduce(rows, -1)


def _one_pass(logits: Tensor, rule: ScoreRule, draws: Draws | None, held: Tensor | None) -> Scores:
    from dllm_decode.kernels.score import score_rows

    if rule.suppress:
        logits.index_fill_(1, _on(rule.suppress, logits.device), -torch.inf)
    tempered = rule.filtered and rule.temperature > 0
    token, confidence, entropy, margin, logit_margin = score_rows(
        logits,
        rule.mask_id,
        1 / rule.temperature if tempered else 1.0,
        1.0 if tempered else rule.temperature,
        draws,
        extras=bool(rule.needs & {"entropy", "margin", "logit_margin"}),
    )
    if held is not None:  # by its distance from the proposal, whose probability is known
        both = logits.gather(1, torch.stack([held, token], 1)).float() / (rule.temperature if tempered else 1.0)
        held = (both[:, 0] - both[:, 1]).exp() * confidence
    return Scores(
        token,
        confidence,
        entropy if "entropy" in rule.needs else None,
        margin if "margin" in rule.needs else None,
        logit_margin if "logit_margin" in rule.needs else None,
        held=held,
    )


@cache
def _on(ids: tuple[int, ...], device: torch.device) -> Tensor:
    """Token ids as a tensor, uploaded once: an upload in the middle of a step would stop it."""
    return torch.tensor(ids, device=device)


def _propose(
    logits: Tensor, rule: ScoreRule, scale: float, generator: torch.Generator | None, noise: Tensor | None
) -> Tensor:
    """Argmax without the mask token, or Gumbel-max; the logits come back as they were."""
    mask = logits[:, rule.mask_id].clone()
    logits[:, rule.mask_id] = -torch.inf
    if rule.temperature > 0:
        if noise is None:
            uniform = torch.rand(logits.shape, generator=generator, dtype=torch.float32).to(logits.device)
            # argmax of logits / T - ln(-ln u), LLaDA's exp(logits) / (-ln u)^T in log space
            noise = uniform.clamp_(min=1e-30).log_().neg_().log_().mul_(-scale)
        else:
            noise = noise * scale
        token = _argmax(noise.add_(logits))
    else:
        token = _argmax(logits)
    logits[:, rule.mask_id] = mask
    return token


def _drawn_from(logits: Tensor, rule: ScoreRule, scale: float) -> Tensor:
    """Fp32 ``[M, V]``: the distribution that :func:`_propose` draws from, one-hot when greedy."""
    mask = torch.tensor([rule.mask_id], device=logits.device)
    logits = logits.index_fill(1, mask, -torch.inf)
    if rule.temperature > 0:
        return (logits / scale).softmax(-1).float()
    return torch.zeros_like(logits, dtype=torch.float32).scatter_(1, logits.argmax(-1, keepdim=True), 1.0)


def _entropy(logits: Tensor, lse: Tensor) -> Tensor:
    """Nats, ``[M]``: ``-sum p ln p``; suppressed tokens (-inf) weigh nothing."""
    # Not lse - sum p l: far from zero that is a small difference of large numbers.
    surprise = logits - lse[:, None]
    return _alike(torch.sum, surprise.exp() * -surprise.clamp(min=-1e30)).clamp(min=0)


def filter_logits(logits: Tensor, top_p: float | None, top_k: int | None, mask_id: int) -> Tensor:
    """Nucleus and top-k filter as in Dream's ``sample_tokens``: removed logits become the dtype's minimum.

    Top-p removes a token when the probability ranked before it already exceeds ``top_p`` (the one that crosses
    stays, the first always does); top-k removes those below the k-th largest (ties with it stay).  The best token
    beside the mask always stays: the mask may fill the nucleus, but it cannot be proposed.
    """
    plain = logits
    if top_p is not None and top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        before = ordered.softmax(-1).cumsum(-1).roll(1, -1)
        before[:, 0] = 0
        drop = torch.zeros_like(before, dtype=torch.bool).scatter_(1, order, before > top_p)
        logits = logits.masked_fill(drop, torch.finfo(logits.dtype).min)
    if top_k is not None:
        least = logits.topk(min(top_k, logits.shape[1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, torch.finfo(logits.dtype).min)
    if logits is plain:
        return plain
    best = plain.index_fill(1, torch.tensor([mask_id], device=plain.device), -torch.inf).argmax(-1, keepdim=True)
    return logits.scatter(1, best, plain.gather(1, best))


def chunks(
    sizes: Iterable[int], vocab_size: int, by_row: bool, elements: int = CHUNK_ELEMENTS
) -> Iterator[tuple[int, int, int]]:
    """Cut cells into chunks ``(row, start, stop)`` of bounded size.

    ``sizes`` are the cells per row, in order. With ``by_row`` no chunk crosses a row and cuts depend on the row alone,
    so that a row draws the same noise in any batch; else ``row`` is -1 and chunks are as large as they may be.
    """
    most = max(1, elements // max(1, vocab_size))
    if not by_row:
        sizes = (sum(sizes),)
    start = 0
    for row, size in enumerate(sizes):
        for low in range(0, size, most):
            yield (row if by_row else -1), start + low, start + min(low + most, size)
        start += size
