"""Whole distributions of a few cells, and their mean over forwards (CCD).

Cells are worked out one at a time: the rows of one, of a number per token id, fit into a CPU's cache.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from samplers.contract.data import Prediction

LOG2_E = 1 / math.log(2)


class Distributions:
    """What one forward predicts at V cells per row.

    Attributes:
        probs: fp32 ``[B, V, X]``; zeros where there is no cell.
        least: fp32 ``[B, V]``, a lower bound of the entropy in nats, less than 0.001 below it; 0 where is no cell.
    """

    def __init__(self, prediction: Prediction, cells: Tensor, real: Tensor) -> None:
        """The softmax of the logits at those of the cells (long ``[B, V]``) that are ``real``."""
        logits, whole = prediction.logits, prediction.logsumexp
        assert logits is not None and whole is not None and prediction.cells is not None
        flat = torch.arange(len(cells), device=cells.device)[:, None] * prediction.token.shape[1] + cells
        at = torch.searchsorted(prediction.cells, flat[real])
        self.probs = logits.new_empty(*cells.shape, logits.shape[1])
        self.least = torch.zeros_like(real, dtype=logits.dtype)
        self._logits, self._whole = logits, whole
        self._slack = 1e-5 * (1 + whole.abs())  # logits around 30 are summed with an error around 1e-4
        self._source = torch.zeros_like(cells).masked_scatter_(real, at).tolist()
        places = self.probs.flatten(0, 1).unbind()
        for place in (~real).flatten().nonzero()[:, 0].tolist():
            places[place].zero_()
        shift, expected = (whole[at] * -LOG2_E).unbind(), []
        for place, source, bias in zip(real.flatten().nonzero()[:, 0].tolist(), at.tolist(), shift, strict=True):
            line, p = logits[source], places[place]
            # e^(logit - logsumexp): on a CPU exp2 takes a fifth of the time of exp.
            torch.add(bias, line, alpha=LOG2_E, out=p).exp2_()
            expected.append(_expected(p, line))
        if expected:
            self.least[real] = whole[at] - torch.stack(expected) - self._slack[at]

    def likeliest(self, guess: Tensor, mask_id: int) -> Tensor:
        """Long ``[B, V]``: the likeliest token beside the mask, which is ``guess`` more often than not."""
        found = guess.clone()
        right = self.probs.gather(-1, guess[..., None])[..., 0] >= self.probs.amax(-1)
        for row, slot in (~right).nonzero().tolist():
            found[row, slot] = _argmax(self.probs[row, slot], mask_id)
        return found

    def most(self, mean: Tensor, row: int, slot: int) -> Tensor:
        """Fp32 ``[]``: an upper bound of the entropy of ``mean`` ``[X]``, near it if it is near the cell's own.

        It is the cross entropy with the cell's own distribution (Gibbs' inequality).
        """
        source = self._source[row][slot]
        return self._whole[source] - _expected(mean, self._logits[source]) + self._slack[source]


class Mean:
    """The mean of cells' distributions over the last forwards, worked out for those cells that matter.

    Attributes:
        entropy: fp32 ``[B, V]``, in nats; infinite where it was not measured.
    """

    def __init__(
        self, now: Distributions, held: tuple[Tensor, ...], where: Tensor, guess: Tensor, mask_id: int
    ) -> None:
        """Nothing measured yet.

        Args:
            now: of the last forward.
            held: fp32 ``[B, V, X]`` each, of earlier ones.
            where: long ``[B, d-1, V]``, the place of each cell in these.
            guess: long ``[B, V]``, tokens that are the likeliest more often than not.
            mask_id: never the likeliest.
        """
        self._now, self._held, self._where = now, held, where.tolist()
        self._guess, self._mask_id = guess, mask_id
        self._known: dict[tuple[int, int], Tensor] = {}
        self.entropy = torch.full_like(now.least, torch.inf)

    def __getitem__(self, place: tuple[int, int]) -> Tensor:
        """Fp32 ``[X]``: the mean at one cell."""
        if place not in self._known:
            row, slot = place
            mean = self._now.probs[row, slot]
            for k, probs in enumerate(self._held):
                mean = mean.lerp(probs[row, self._where[row][k][slot]], 1 / (k + 2))
            self._known[place] = mean
        return self._known[place]

    def most(self, cells: Tensor) -> Tensor:
        """Fp32 ``[B, V]``: upper bounds of the entropies of the cells (bool ``[B, V]``), elsewhere -inf."""
        bounds = torch.full_like(self.entropy, -torch.inf)
        found = [self._now.most(self[row, slot], row, slot) for row, slot in cells.nonzero().tolist()]
        if found:
            bounds[cells] = torch.stack(found)
        return bounds

    def measure(self, cells: Tensor) -> None:
        """Measure the entropy of those of the cells (bool ``[B, V]``) where that has not been done."""
        cells = cells & self.entropy.isinf()
        entropies = []
        for row, slot in cells.nonzero().tolist():
            mean = self[row, slot]
            entropies.append(-mean.dot(mean.clamp(min=torch.finfo(mean.dtype).tiny).log_()))
        if entropies:
            self.entropy[cells] = torch.stack(entropies)

    def likeliest(self, cells: Tensor) -> Tensor:
        """Long ``[B, V]``: the likeliest tokens beside the mask at the cells (bool ``[B, V]``), elsewhere guesses."""
        guess = self._guess.tolist()
        for row, slot in cells.nonzero().tolist():
            mean = self[row, slot]
            if bool(mean[guess[row][slot]] < mean.amax()):
                guess[row][slot] = _argmax(mean, self._mask_id)
        return torch.tensor(guess, device=cells.device)


def _expected(p: Tensor, logits: Tensor) -> Tensor:
    """Fp32 ``[]``: the mean of ``logits`` ``[X]`` under ``p`` ``[X]``; tokens at -inf have no probability."""
    mean = p.dot(logits)
    return p.dot(logits.clamp(min=torch.finfo(p.dtype).min)) if bool(mean.isnan()) else mean


def _argmax(p: Tensor, mask_id: int) -> int:
    """Argmax of ``p`` ``[X]`` beside the mask token."""
    return int(p.index_fill(-1, torch.tensor([mask_id], device=p.device), -1.0).argmax(-1))
