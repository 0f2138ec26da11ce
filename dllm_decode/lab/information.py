"""What committing dependent cells at once must lose, in bits (ParallelBench, arXiv 2510.04767, secs. 3-4, app. A).

Decoding in T forwards with the cells S_1, .., S_T, even an exact model of the single cells has
``KL(data || decoded) >= L_T = sum_t E[C(S_t | S_<t)] = sum_t sum_{i in S_t} H(y_i | y_{S_<t}) - H(y)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from dllm_decode.errors import DllmError
from dllm_decode.lab.oracles import Oracle


@dataclass(frozen=True)
class InformationBound:
    """The least loss of T forwards.

    Attributes:
        steps: T. ``split``: cells per forward that attain it.
        bits: L_T. For a set of equally likely sequences ``2 ** -bits <= P(valid)`` under that split and an exact
            model, with equality when every valid output is equally likely (shuffle).
        exact: the minimum over all splits; otherwise only over those that go from left to right.
    """

    steps: int
    split: tuple[int, ...]
    bits: float
    exact: bool

    @property
    def p_valid(self) -> float:
        """``2 ** -bits``."""
        return float(2.0**-self.bits)


EXCHANGEABLE = ("indep", "shuffle", "replace", "choose")  # only the sizes of the parts matter


def loss_of(oracle: Oracle, split: Sequence[int]) -> float:
    """L_T in bits of decoding ``split[0]`` cells, then ``split[1]``, ..., from left to right.

    Raises:
        DllmError: the split is not of the oracle's cells.
    """
    if sum(split) != oracle.length or min(split, default=0) < 1:
        raise DllmError(
            f"the split {tuple(split)} is not of {oracle.name}'s {oracle.length} cells; give sizes from 1 up."
        )
    marginal = _marginals(oracle)
    starts = [0, *accumulate(split)]
    bits = sum(sum(marginal[a][a:b]) for a, b in zip(starts, starts[1:], strict=False))
    return max(0.0, bits - math.log2(len(oracle.sequences)))


def information_bounds(oracle: Oracle) -> list[InformationBound]:
    """L*_T for T = 1 (the total correlation) up to one cell per forward (0)."""
    n, marginal = oracle.length, _marginals(oracle)
    total = math.log2(len(oracle.sequences))
    exact = oracle.name.partition("(")[0] in EXCHANGEABLE
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}  # cells done -> least bits so far
    out = []
    for steps in range(1, n + 1):
        new: dict[int, tuple[float, tuple[int, ...]]] = {}
        for done, (bits, split) in best.items():
            for end in range(done + 1, n + 1):
                candidate = (bits + sum(marginal[done][done:end]), (*split, end - done))
                if end not in new or candidate[0] < new[end][0] - 1e-9:
                    new[end] = candidate
        best = new
        bits, split = best[n]
        out.append(InformationBound(steps, split, max(0.0, bits - total), exact))
    return out


def _marginals(oracle: Oracle) -> list[list[float]]:
    """``H(y_cell | y_0..y_{done-1})`` in bits as ``[done][cell]``; 0 for cells before ``done``."""
    sequences, n = oracle.sequences, oracle.length
    group = torch.zeros(len(sequences), dtype=torch.long)  # which prefix a sequence begins with
    known, out = 0.0, []
    for done in range(n):
        joint = [_entropy(group * oracle.symbols + sequences[:, cell]) for cell in range(done, n)]
        out.append([0.0] * done + [bits - known for bits in joint])
        known = joint[0]
        group = (group * oracle.symbols + sequences[:, done]).unique(return_inverse=True)[1]
    return out


def _entropy(values: Tensor) -> float:
    """Bits of one draw from ``values``, long ``[S]``."""
    share = values.unique(return_counts=True)[1].double() / len(values)
    return float(-(share * torch.log2(share)).sum())
