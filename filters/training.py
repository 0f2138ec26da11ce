"""Training a filter: BCE and AdamW on records, as in Learn2PD (arXiv 2509.25188), in seconds instead of minutes.

The reference starts at random weights, makes 40,000 full-batch epochs over all cells and keeps the last weights.  Here
training starts at a threshold rule, learns from the cells that can be committed, in mini-batches, and the weights with
the lowest validation loss are kept: few records suffice.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from filters.files import FilterError
from filters.network import FilterNetwork
from filters.records import Records


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: passes over the records. ``batch``: records per step; ``None`` = all of them.
        lr, weight_decay: AdamW's; the learning rate falls linearly to 0 if ``decays``.
        keep_best: keep the weights with the lowest validation loss; otherwise the last ones.
        gated: start at a filter that takes a cell by its own number, as a threshold does; otherwise at random.
        committed: learn from the block's committed cells too, where nothing is left to decide.
        hidden: units between the layers; ``None`` = the block width.
        seed: of the first weights and the order of records.
    """

    epochs: int = 300
    batch: int | None = 256
    lr: float = 0.003
    weight_decay: float = 0.01
    decays: bool = True
    keep_best: bool = True
    gated: bool = True
    committed: bool = False
    hidden: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch", 1), ("hidden", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise FilterError(f"{name} is {value}; give a whole number from {least} up.")
        if not self.lr > 0:
            raise FilterError(f"lr is {self.lr}; give a number above 0 (the reference uses 0.003).")


#: The released notebook's: full batches, constant learning rate, random start, all cells, last weights.
REFERENCE_RECIPE = Recipe(epochs=40_000, batch=None, decays=False, keep_best=False, gated=False, committed=True)


@dataclass(frozen=True)
class Fit:
    """A trained network and how training went.

    Attributes:
        network: the weights kept. ``epoch``: after which they were reached, from 1.
        losses: ``(epoch, training loss, validation loss)`` at every evaluation; the latter on open cells.
        seconds: wall time.
    """

    network: FilterNetwork
    epoch: int
    losses: list[tuple[int, float, float]] = field(repr=False)
    seconds: float

    @property
    def valid_loss(self) -> float:
        """Validation loss of the kept weights."""
        return next(valid for epoch, _, valid in self.losses if epoch == self.epoch)


def loss_of(network: FilterNetwork, records: Records, committed: bool = False) -> Tensor:
    """Mean binary cross-entropy over the open cells, or over all cells of the blocks (as in the reference)."""
    counts = records.inside if committed else records.open
    losses = F.binary_cross_entropy_with_logits(
        network(records.features), records.right.float(), weight=counts.float(), reduction="sum"
    )
    return losses / counts.sum().clamp(min=1)


def start_gated(network: FilterNetwork) -> None:
    """Make a network take a cell by its own number: ``sigmoid(9 z - 6)`` for a confidence z, 0.95 at 1, 0.5 at 2/3.

    What was there before stays as noise, a hundredth as large.  Steeper starts rank the surest cells worse afterwards.
    """
    for linear, gain, bias in ((network.linear1, 3.0, 0.0), (network.linear2, 3.0, -6.0)):
        linear.weight.mul_(0.01).add_(gain * torch.eye(*linear.weight.shape))
        linear.bias.fill_(bias)


def fit(
    train: Records, valid: Records, recipe: Recipe | None = None, progress: Callable[[int], None] | None = None
) -> Fit:
    """Train a network.

    Args:
        train: what to learn from.
        valid: what to choose the epoch by; records of other prompts.
        recipe: see :class:`Recipe`.
        progress: called with the number of epochs done since the last call.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the matrices are so small that threads only wait for each other
    try:
        return _fit(train, valid, recipe if recipe is not None else Recipe(), progress)
    finally:
        torch.set_num_threads(threads)


def _fit(train: Records, valid: Records, recipe: Recipe, progress: Callable[[int], None] | None) -> Fit:
    began = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = FilterNetwork(train.width, recipe.hidden)
        if recipe.gated:
            with torch.no_grad():
                start_gated(network)
        order = torch.Generator().manual_seed(recipe.seed)
    optim = torch.optim.AdamW(network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    batch = min(recipe.batch or len(train), len(train))
    every = max(1, recipe.epochs // 100)
    losses: list[tuple[int, float, float]] = []
    best, kept, kept_epoch = float("inf"), {}, 0
    for epoch in range(1, recipe.epochs + 1):
        total = 0.0
        shuffled = torch.randperm(len(train), generator=order)
        for at in range(0, len(train), batch):
            part = train if batch == len(train) else train.take(shuffled[at : at + batch])
            loss = loss_of(network, part, recipe.committed)
            optim.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optim.step()
            total += float(loss.detach()) * len(part)
        if recipe.decays:
            for group in optim.param_groups:
                group["lr"] = recipe.lr * (1 - epoch / recipe.epochs)
        if epoch % every == 0 or epoch == recipe.epochs:
            with torch.no_grad():
                measured = float(loss_of(network, valid))
            losses.append((epoch, total / len(train), measured))
            if measured < best or not recipe.keep_best:
                best, kept_epoch = measured, epoch
                kept = {name: value.clone() for name, value in network.state_dict().items()}
            if progress is not None:
                progress(every if epoch % every == 0 else epoch % every)
    return Fit(FilterNetwork.of(kept), kept_epoch, losses, time.perf_counter() - began)


@dataclass(frozen=True)
class Measures:
    """How a score does as a judge of open cells, at one threshold.

    Attributes:
        threshold: accept what is strictly above.
        precision: share of accepted proposals that are right; 1 if none is accepted.
        recall: share of right proposals that are accepted.
        false_positives: share of accepted proposals that are wrong: the irreversible mistakes.
        false_positive_rate: share of wrong proposals that are accepted.
        accepted: accepted cells per forward.
    """

    threshold: float
    precision: float
    recall: float
    false_positives: float
    false_positive_rate: float
    accepted: float


def measure(score: Tensor, records: Records, threshold: float) -> Measures:
    """Judge a score (fp32 ``[N, width]``, e.g. a filter's probability or the plain confidence) on the open cells."""
    accepted = records.open & (score > threshold)
    taken, right = int(accepted.sum()), int((accepted & records.right).sum())
    good, bad = int((records.open & records.right).sum()), int((records.open & ~records.right).sum())
    wrong = taken - right
    return Measures(
        threshold=threshold,
        precision=right / taken if taken else 1.0,
        recall=right / good if good else 0.0,
        false_positives=wrong / taken if taken else 0.0,
        false_positive_rate=wrong / bad if bad else 0.0,
        accepted=taken / max(1, len(records)),
    )


def thresholds(count: int = 500) -> Tensor:
    """Rising candidates from 0.5 (below, a proposal is more likely wrong than right) to 0.999999, dense near 1."""
    spread = 1 - torch.logspace(math.log10(0.5), -6, count, dtype=torch.float64)
    return spread.mul(1e7).round().div(1e7)


def choose_threshold(score: Tensor, records: Records, max_false_positives: float) -> Measures:
    """The lowest threshold at which false positives stay within a share of what is accepted.

    Args:
        score: fp32 ``[N, width]``.
        records: the validation split.
        max_false_positives: the share of accepted proposals that may be wrong.

    Returns:
        The measures there; a threshold of 1 (accept nothing) if no candidate will do.
    """
    if not 0 < max_false_positives < 1:
        raise FilterError(f"max_false_positives is {max_false_positives}; give a share between 0 and 1, such as 0.01.")
    inside, right = score[records.open], records.right[records.open]
    ranked, order = inside.double().sort(descending=True)
    wrong = (~right[order]).cumsum(0)
    candidates = thresholds()
    taken = torch.searchsorted(-ranked, -candidates, right=False)  # how many lie strictly above
    share = torch.where(taken > 0, wrong[(taken - 1).clamp(min=0)] / taken.clamp(min=1), 0.0)
    good = (taken > 0) & (share <= max_false_positives)
    lowest = float(candidates[good.to(torch.uint8).argmax()]) if bool(good.any()) else 1.0
    return measure(score, records, lowest)


@dataclass(frozen=True)
class Calibration:
    """How often proposals were right, by what was said of them; one entry per tenth of probability that occurs.

    Attributes:
        said: mean probability. ``held``: share of right ones. ``count``: open cells.
    """

    said: list[float]
    held: list[float]
    count: list[int]

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance between said and held, weighted by count."""
        total = sum(self.count)
        gaps = (n * abs(s - h) for s, h, n in zip(self.said, self.held, self.count, strict=True))
        return sum(gaps) / total if total else 0.0


def calibration(score: Tensor, records: Records, bins: int = 10) -> Calibration:
    """Calibration of a score on the open cells, in ``bins`` equal bins."""
    said, held = score[records.open].double(), records.right[records.open].double()
    which = (said * bins).long().clamp(max=bins - 1)
    count = torch.bincount(which, minlength=bins)
    there = count > 0
    size = count[there].double()
    return Calibration(
        (torch.bincount(which, said, minlength=bins)[there] / size).tolist(),
        (torch.bincount(which, held, minlength=bins)[there] / size).tolist(),
        count[there].tolist(),
    )
