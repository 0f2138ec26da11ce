"""Exact denoisers over finite sets of valid sequences, whose decoding errors have closed forms.

Given a partly masked canvas, keep the sequences that agree with its committed cells; the prediction at a cell is the
share of each symbol among them. What a policy then gets wrong, it gets wrong by committing dependent cells together,
and by nothing else (ParallelBench, sections 3-4 and appendix A).
"""

from __future__ import annotations

from itertools import permutations, product

import torch
import torch.nn.functional as F
from torch import Tensor

from dllm_decode.errors import DllmError
from dllm_decode.models.callable import CallableModel

FLOOR = 1e-9  # probability of what is impossible, so that logits stay finite
TIE_NOISE = 1e-4  # on logits: survives fp32, and moves a confidence by less than any threshold cares about
MAX_SEQUENCES = 100_000


class Oracle(CallableModel):
    """The exact model of "uniform over `sequences`"; symbols are 0..symbols-1, the mask id is the last one.

    The canvas is the last `length` tokens of a row; tokens before it (a prompt) do not matter.

    Attributes:
        sequences: long `[S, N]`, the valid sequences.
        length: N.
        symbols: how many symbols there are; vocabulary size - 1.
    """

    def __init__(self, name: str, sequences: Tensor, symbols: int, random_ties: bool, seed: int) -> None:
        """Prefer the functions below.

        Args:
            name: for people.
            sequences: long `[S, N]`, all different.
            symbols: size of the alphabet.
            random_ties: break ties between equally likely symbols at random, per cell and per forward; otherwise
                greedy decoding always takes the lowest symbol, which hides dependence.
            seed: of the tie breaking.
        """
        self.sequences, self.symbols, self.length = sequences, symbols, sequences.shape[1]
        self._members = F.one_hot(sequences, symbols).flatten(1).float()  # [S, N * symbols]
        self._noise = torch.Generator().manual_seed(seed) if random_ties else None
        super().__init__(self._logits, mask_id=symbols, vocab_size=symbols + 1, name=name)

    def _logits(self, tokens: Tensor) -> Tensor:
        """Long `[R, >= N]` -> log(share + 1e-9), `[R, ., symbols + 1]`; uniform where no sequence agrees."""
        prefix = tokens.shape[1] - self.length
        if prefix < 0:
            raise DllmError(f"oracle {self.name} has {self.length} cells, got rows of {tokens.shape[1]} tokens.")
        canvas = tokens[:, prefix:]
        known = F.one_hot(canvas, self.symbols + 1)[..., : self.symbols].flatten(1).float()  # masks are all zero
        agrees = (known @ self._members.T == known.sum(1, keepdim=True)).float()  # [R, S]
        share = (agrees @ self._members).view(-1, self.length, self.symbols)
        total = agrees.sum(1)[:, None, None]
        share = torch.where(total > 0, share / total.clamp(min=1), 1 / self.symbols)
        logits = (F.pad(share, (0, 1, prefix, 0)) + FLOOR).log()
        if self._noise is not None:
            logits[..., : self.symbols] += TIE_NOISE * torch.rand(logits[..., 1:].shape, generator=self._noise)
        return logits

    def is_valid(self, row: Tensor) -> bool:
        """Whether a fully committed canvas (long `[N]`, or longer with a prompt) is one of the sequences."""
        return bool(self.valid(row[None])[0])

    def valid(self, rows: Tensor) -> Tensor:
        """`is_valid` of many rows at once: long `[R, >= N]` -> bool `[R]`."""
        canvas = rows[:, -self.length :]
        return (canvas[:, None, :] == self.sequences).all(-1).any(1)

    @property
    def total_correlation(self) -> float:
        """C = sum_i H(y_i) - H(y) in bits: what committing all cells at once must lose, 0 = independent cells."""
        share = self._members.mean(0, dtype=torch.float64).view(self.length, self.symbols)
        return float(torch.special.entr(share).sum() / torch.log(torch.tensor(2.0))) - float(
            torch.log2(torch.tensor(float(len(self.sequences)), dtype=torch.float64))
        )


def _check(name: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or not low <= value <= high:
        raise DllmError(f"{name} must be an integer from {low} to {high}, got {value!r}.")


def indep(n: int, m: int, *, random_ties: bool = False, seed: int = 0) -> Oracle:
    """All m^n strings of n cells over m symbols: C = 0, right at any speed."""
    _check("indep's n", n, 1, 16)
    _check("indep's m", m, 2, 64)
    if m**n > MAX_SEQUENCES:
        raise DllmError(f"indep({n}, {m}) has {m**n} sequences; at most {MAX_SEQUENCES} are enumerated.")
    return Oracle(f"indep({n},{m})", torch.tensor(list(product(range(m), repeat=n))), m, random_ties, seed)


def shuffle(n: int, *, random_ties: bool = False, seed: int = 0) -> Oracle:
    """All n! permutations of n symbols: C = n log2 n - log2 n!."""
    _check("shuffle's n", n, 2, 8)
    return Oracle(f"shuffle({n})", torch.tensor(list(permutations(range(n)))), n, random_ties, seed)


def replace(n: int, *, random_ties: bool = False, seed: int = 0) -> Oracle:
    """0..n-1 with exactly one cell replaced by a new symbol: C = (n - 1)(log2 n - log2(n - 1))."""
    _check("replace's n", n, 2, 64)
    sequences = torch.arange(n).repeat(n, 1)
    return Oracle(f"replace({n})", sequences.fill_diagonal_(n), n + 1, random_ties, seed)


def choose(m: int, n: int, *, random_ties: bool = False, seed: int = 0) -> Oracle:
    """One of m symbols, n times: C = (n - 1) log2 m."""
    _check("choose's m", m, 2, 64)
    _check("choose's n", n, 1, 64)
    return Oracle(f"choose({m},{n})", torch.arange(m)[:, None].repeat(1, n), m, random_ties, seed)


def latin4(*, random_ties: bool = False, seed: int = 0) -> Oracle:
    """The 576 Latin squares of order 4, row by row: C = 32 - log2 576 = 22.83."""
    return Oracle("latin4", _latin_squares(), 4, random_ties, seed)


def sudoku4(clues: str = "." * 16, *, random_ties: bool = False, seed: int = 0) -> Oracle:
    """4x4 sudoku grids with these clues: C = 23.83 bits when empty, 0 when the clues leave one grid.

    Args:
        clues: 16 characters row by row, digits 1-4 (symbol d - 1) or "." for an empty cell.
        random_ties: as in `Oracle`.
        seed: as in `Oracle`.

    Raises:
        DllmError: malformed clues, or clues that no grid has.
    """
    if not isinstance(clues, str) or len(clues) != 16 or set(clues) - set("1234."):
        raise DllmError(f"sudoku4's clues must be 16 characters of 1-4 and '.', got {clues!r}.")
    grids = _latin_squares()
    boxes = grids.view(-1, 2, 2, 2, 2).transpose(2, 3).flatten(3).sort(-1).values
    grids = grids[(boxes == torch.arange(4)).all(-1).flatten(1).all(1)]
    given = torch.tensor([-1 if c == "." else int(c) - 1 for c in clues])
    grids = grids[((grids == given) | (given < 0)).all(1)]
    if not len(grids):
        raise DllmError(f"no 4x4 sudoku has the clues {clues!r}; change them.")
    return Oracle(f"sudoku4({clues})", grids, 4, random_ties, seed)


def _latin_squares() -> Tensor:
    """Long `[576, 16]`."""
    rows = torch.tensor(list(permutations(range(4))))
    squares = rows[:, None, :]  # [S, filled rows, 4]
    for _ in range(3):
        fits = (squares[:, None] != rows[None, :, None]).flatten(2).all(2)  # no column repeats a symbol
        old, new = fits.nonzero(as_tuple=True)
        squares = torch.cat([squares[old], rows[new][:, None]], dim=1)
    return squares.flatten(1)
