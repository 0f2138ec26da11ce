"""PC-Sampler: prefer early cells and rare tokens over what is likely anywhere (arXiv 2508.13021)."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from samplers.contract.data import Decision, PolicyError, Prediction, Setting, View
from samplers.contract.fields import bounded
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy
from samplers.contract.select import top
from samplers.topk import TopK

#: Tables that ship with the package, by the model's name.
SHIPPED = Path(__file__).parent / "tables"


@dataclass(frozen=True, eq=False)
class TokenTable:
    """How often each token occurs in a text.

    Attributes:
        frequency: fp64 ``[V]``, share of the text's tokens; of one that does not occur 1 / (tokens of the text).
        name: where it comes from.
    """

    frequency: Tensor
    name: str = "table"

    def __str__(self) -> str:
        return self.name

    @classmethod
    def load(cls, path: str | Path, vocab_size: int) -> TokenTable:
        """Read a table that ``scripts/token_table.py`` or PC-Sampler's authors made.

        JSON with ``num_token``, the tokens of the text, and ``p_baseline_dict``, from token id to how often it occurs.

        Raises:
            PolicyError: no such file, or no table for this vocabulary.
        """
        try:
            said = json.loads(Path(path).read_text(encoding="utf-8"))
            total, counts = int(said["num_token"]), {int(k): float(v) for k, v in said["p_baseline_dict"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise PolicyError(
                f"{str(path)!r} is no table of token counts ({type(error).__name__}); "
                "make one with scripts/token_table.py."
            ) from error
        if total < 1 or any(not 0 < count <= total for count in counts.values()):
            raise PolicyError(f"{str(path)!r} counts {total} tokens, and of one less than none or more than all.")
        if counts and not 0 <= min(counts) <= max(counts) < vocab_size:
            raise PolicyError(
                f"{str(path)!r} counts token {max(counts)}, but the model has {vocab_size}; "
                "make a table with this model's tokenizer."
            )
        frequency = torch.full((vocab_size,), 1 / total, dtype=torch.float64)
        frequency[list(counts)] = torch.tensor(list(counts.values()), dtype=torch.float64) / total
        return cls(frequency, str(path))


@dataclass(frozen=True)
class PcSampler(Policy):
    """Commit the ``k`` cells of highest ``exp(-decay * distance) * min(alpha, -confidence * ln(frequency + 1e-9))``.

    *Distance* is the cell's from the block's start, *frequency* the proposed token's in a reference text: confidence
    in what is frequent anywhere, such as padding and punctuation, says little.

    Args:
        table: counts of tokens (see :meth:`TokenTable.load`); ``None`` = the one that ships for this model.
        decay: lambda; 0 = position does not matter. The authors': 0.25, Sudoku 0, Countdown 0.5 or 1.
        alpha: the most that confidence and rarity count.
        k: cells per forward. Ignored when ``steps`` is given.
        steps: forwards per block, over which its masks are split evenly, the remainder to the first.
    """

    table: str | TokenTable | None = None
    decay: float = bounded(0.25, 0)
    alpha: float = bounded(10.0, 0)
    k: int = bounded(1, 1)
    steps: int | None = bounded(None, 1)
    remembers = "rows"

    def bind(self, setting: Setting) -> PcSampler:  # noqa: D102
        if isinstance(self.table, TokenTable):
            return self
        path = Path(self.table or SHIPPED / f"{Path(setting.model_name).name}.json")
        if self.table is None and not path.is_file():
            known = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.json")))
            raise PolicyError(
                f"no table of token counts ships for model {setting.model_name!r} (there are: {known}); "
                "make one with scripts/token_table.py and give table=FILE."
            )
        return replace(self, table=TokenTable.load(path, setting.vocab_size))

    def begin(self, view: View) -> Memory:
        """Long ``[B]``: the masks the current block held when it opened."""
        return torch.zeros_like(view.start)

    def decide(self, view: View, prediction: Prediction, memory: Tensor) -> tuple[Decision, Memory]:  # noqa: D102
        assert isinstance(self.table, TokenTable)  # bound
        frequency = self.table.frequency.to(prediction.token.device)[prediction.token]
        worth = (-prediction.confidence * (frequency + 1e-9).log()).clamp(max=self.alpha)
        score = torch.exp(-self.decay * (view.index - view.start[:, None]).double()) * worth
        left = prediction.open.sum(-1)
        opened = torch.where(view.block_step == 0, left, memory)
        count = self.k if self.steps is None else TopK(steps=self.steps).quota(view.block_step, left, opened)
        return Decision(top(score, prediction.open, count), prediction.token, order=-score), opened
