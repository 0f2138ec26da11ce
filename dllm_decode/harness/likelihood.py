"""log p(text | prefix) of a masked-diffusion model, by LLaDA's Monte-Carlo estimate (arXiv 2502.09992, app. B.5).

With L target tokens, draw a number of masks l uniformly from 1..L and a set of l of them; the estimate is
``L/l * sum of log p(token | prefix, tokens not masked)`` over the masked ones.  Its mean is a lower bound of the
log-likelihood (the one the model was trained on), the same for all targets in meaning, so that choices can be ranked.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.engine.score import CHUNK_ELEMENTS
from dllm_decode.errors import DllmError
from dllm_decode.interface.inputs import ForwardInput
from dllm_decode.interface.model import DenoisingModel

Pair = tuple[Sequence[int], Sequence[int]]


def mask_sets(length: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which target tokens to mask in each forward, and the weight of its sum of log-probabilities.

    The numbers of masks are spread evenly over 1..length from one uniform draw (LLaDA's low-discrepancy sampling,
    without its rounding to even numbers: each number is exactly equally likely), so that ``count`` forwards vary much
    less than ``count`` independent ones.  If there are no more than ``count`` different sets, all of them are taken
    with their probabilities and the result has no variance at all.

    Args:
        length: target tokens L, at least 1.
        count: Monte-Carlo samples.
        generator: random source.

    Returns:
        bool ``[n, L]`` and fp64 ``[n]``, n at most ``count``.
    """
    if length < 64 and 2**length - 1 <= count:
        numbers = torch.arange(1, 2**length)
        masked = (numbers[:, None] >> torch.arange(length)) & 1 == 1
        sizes = masked.sum(-1).tolist()
        weights = [1 / (size * math.comb(length, size)) for size in sizes]  # 1/L for the size, 1/C for the set, L/size
        return masked, torch.tensor(weights, dtype=torch.float64)
    offset = float(torch.rand((), generator=generator, dtype=torch.float64))
    size = 1 + (((offset + torch.arange(count, dtype=torch.float64) / count) % 1) * length).long().clamp(
        max=length - 1
    )
    rank = torch.rand(count, length, generator=generator).argsort(-1).argsort(-1)
    return rank < size[:, None], length / (size.double() * count)


@dataclass(frozen=True)
class Likelihood:
    """Estimates of log-likelihoods, in nats.

    Attributes:
        model: what predicts. ``mc_num``: Monte-Carlo samples per target (LLaDA uses 128, and 1 for one-token targets).
        batch_size: rows per forward. ``seed``: of the masks; a target's masks depend on the seed and on its own and
            its prefix's tokens alone, not on what is estimated with it.
        guidance: classifier-free guidance scale w, as in decoding; 0 = off.
    """

    model: DenoisingModel
    mc_num: int = 128
    batch_size: int = 32
    seed: int = 0
    guidance: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("mc_num", 1), ("batch_size", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise DllmError(f"{name} is {value!r}; give a whole number from {least} up.")
        if self.model.attention_block is not None:
            raise DllmError(
                f"{self.model.name!r} is block-causal: a masked block of a target would need the true blocks before "
                "it beside the masked ones, which is not built; likelihoods need a full-attention model."
            )

    @torch.no_grad()
    def estimate(self, pairs: Sequence[Pair], on_done: Callable[[int, float], None] | None = None) -> list[float]:
        """Estimate log p(target | prefix) of pairs ``(prefix ids, target ids)``; an empty target has 0.

        Args:
            pairs: in any order.
            on_done: called with the index and the estimate of each pair as soon as it is known.

        Raises:
            DllmError: a pair is longer than the model was made for, or holds its mask token.
        """
        for prefix, target in pairs:
            self._check(prefix, target)
        sums, left = [0.0] * len(pairs), [0] * len(pairs)
        batch: list[tuple[int, Tensor, float]] = []

        def flush() -> None:
            for (index, _, weight), value in zip(batch, self._forward(pairs, batch), strict=True):
                sums[index] += weight * value
                left[index] -= 1
                if not left[index] and on_done is not None:
                    on_done(index, sums[index])
            batch.clear()

        for row in self._rows(pairs, left):
            batch.append(row)
            if len(batch) == self.batch_size:
                flush()
        if batch:
            flush()
        if on_done is not None:
            for index, (_, target) in enumerate(pairs):
                if not target:
                    on_done(index, 0.0)
        return sums

    def _check(self, prefix: Sequence[int], target: Sequence[int]) -> None:
        most = self.model.max_length
        if most is not None and len(prefix) + len(target) > most:
            raise DllmError(
                f"{len(prefix)} + {len(target)} tokens are to be scored, but {self.model.name} was made for {most} in "
                "all; shorten the prefix."
            )
        if self.model.mask_id in target:
            raise DllmError(f"a text to be scored holds the mask token {self.model.mask_id}; remove it.")

    def _rows(self, pairs: Sequence[Pair], left: list[int]) -> Iterator[tuple[int, Tensor, float]]:
        """All forwards, pairs of similar length next to each other: index, bool ``[L]`` and weight."""
        for index in sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1])):
            prefix, target = pairs[index]
            if not target:
                continue
            # A CPU generator reads 32 bits of its seed.
            name = zlib.crc32(repr((self.seed, list(prefix), list(target))).encode())
            masked, weights = mask_sets(len(target), self.mc_num, torch.Generator().manual_seed(name))
            left[index] = len(masked)
            for row, weight in zip(masked, weights.tolist(), strict=True):
                yield index, row, weight

    def _forward(self, pairs: Sequence[Pair], batch: list[tuple[int, Tensor, float]]) -> list[float]:
        """Per row the sum of log-probabilities of its masked tokens."""
        model, mask = self.model, self.model.mask_id
        whole, hidden_prompts, cells, wanted, owner = [], [], [], [], []
        width = max(len(pairs[index][0]) + len(pairs[index][1]) for index, _, _ in batch)
        for row, (index, masked, _) in enumerate(batch):
            prefix, target = pairs[index]
            noised = torch.tensor(list(target)).masked_fill(masked, mask).tolist()
            whole.append([*prefix, *noised])
            hidden_prompts.append([mask] * len(prefix) + noised)
            slots = [len(prefix) + at for at in masked.nonzero()[:, 0].tolist()]
            # a shifted model scores slot s at slot s - 1, slot 0 at itself
            cells += [row * width + max(slot - model.shift, 0) for slot in slots]
            wanted += [target[slot - len(prefix)] for slot in slots]
            owner += [row] * len(slots)
        scored = torch.tensor(cells, device=model.device)
        conditional = model.hidden(self._input(whole, width), scored)
        unconditional = None if not self.guidance else model.hidden(self._input(hidden_prompts, width), scored)
        targets = torch.tensor(wanted, device=model.device)
        found = []
        for part in torch.arange(len(cells), device=model.device).split(max(1, CHUNK_ELEMENTS // model.vocab_size)):
            logits = model.head(conditional[part]).float()
            if unconditional is not None:
                free = model.head(unconditional[part]).float()
                logits = free + (self.guidance + 1) * (logits - free)
            found.append(logits.gather(1, targets[part, None])[:, 0] - logits.logsumexp(-1))
        values = torch.zeros(len(batch), dtype=torch.float64)
        return values.index_add(0, torch.tensor(owner), torch.cat(found).double().cpu()).tolist()

    def _input(self, rows: list[list[int]], width: int) -> ForwardInput:
        device = self.model.device
        lengths = torch.tensor([len(row) for row in rows], device=device)
        tokens = torch.tensor([row + [self.model.pad_id] * (width - len(row)) for row in rows], device=device)
        index = torch.arange(width, device=device)
        return ForwardInput(tokens, torch.where(index < lengths[:, None], index, 0), lengths, lengths)


def decodes_to(
    model: DenoisingModel, pairs: Sequence[Pair], batch_size: int, config: GenerationConfig, start_id: int
) -> list[bool]:
    """Whether static decoding after each prefix, on a canvas of the target's length, gives the target.

    Args:
        model: what decodes.
        pairs: prefix and target ids; an empty target is always given.
        batch_size: rows forwarded together.
        config: of the generation; sampling, blocks and early stop are left out.
        start_id: stands for an empty prefix.
    """
    plain = config.replace(early_stop=False, temperature=0.0, top_p=None, top_k=None, block_length=None)
    sampler = DiffusionSampler(model, "topk:k=1", "none", plain)
    found = [True] * len(pairs)
    by_length: dict[int, list[int]] = {}
    for index in sorted(range(len(pairs)), key=lambda i: len(pairs[i][0])):
        by_length.setdefault(len(pairs[index][1]), []).append(index)
    by_length.pop(0, None)
    for length, members in by_length.items():
        for at in range(0, len(members), batch_size):
            batch = members[at : at + batch_size]
            prompts = [list(pairs[i][0]) or [start_id] for i in batch]
            result = sampler.generate(prompts, max_new_tokens=length)
            for i, tokens in zip(batch, result.sequences, strict=True):
                found[i] = tokens == list(pairs[i][1])
    return found
