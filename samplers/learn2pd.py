"""Learn2PD: a small network says which proposals are final (arXiv 2509.25188)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from filters import FilterBank, FilterError, LearnedFilter
from samplers.contract.data import Decision, PolicyError, Prediction, Setting, View
from samplers.contract.fields import bounded
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy, Scope
from samplers.contract.select import commit


@dataclass(frozen=True)
class Learn2PD(Policy):
    """Commit every open cell whose proposal the filter takes for final, and always the most confident one.

    The filter reads one number per cell of the block, committed cells included, and no token: a cell is accepted when
    its probability is strictly above ``threshold``.

    Args:
        filter: a trained filter, its file, or ``None``: the one that ships for this model and block length.
        threshold: tau; default what the filter's card says (the paper: 0.96 for LLaDA, 0.9 for Dream).
    """

    filter: str | LearnedFilter | None = None
    threshold: float | None = bounded(None, 0, 1, note="the paper uses 0.96")

    @property
    def scope(self) -> Scope:  # noqa: D102
        return Scope.BLOCK

    @property
    def needs(self) -> frozenset[str]:  # noqa: D102
        learned = self.filter
        entropic = isinstance(learned, LearnedFilter) and learned.feature == "negative_entropy"
        return frozenset({"entropy"} if entropic else ())

    @property
    def widest_block(self) -> int | None:  # noqa: D102
        return self.filter.width if isinstance(self.filter, LearnedFilter) else None

    def bind(self, setting: Setting) -> Learn2PD:
        """Find the filter, and refuse blocks it cannot read."""
        limits = [n for n in (setting.block_length, setting.max_new_tokens) if n is not None]
        if not limits:
            raise PolicyError("Learn2PD reads blocks of a fixed width; set block_length.")
        widest = min(limits)
        try:
            if isinstance(self.filter, LearnedFilter):
                learned = self.filter
            elif self.filter is not None:
                learned = LearnedFilter.load(self.filter)
            else:
                learned = FilterBank().find(setting.model_name, widest)
        except FilterError as error:
            raise PolicyError(str(error)) from error
        if widest > learned.width:
            raise PolicyError(
                f"blocks have {widest} cells, but {learned} reads at most {learned.width}; "
                f"set block_length={learned.width} or less in the configuration, or give a wider filter."
            )
        return replace(self, filter=learned, threshold=learned.threshold if self.threshold is None else self.threshold)

    def decide(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Decision, Memory]:  # noqa: D102
        learned = self.filter
        assert isinstance(learned, LearnedFilter) and self.threshold is not None  # bound
        probability = learned.probability(cell_values(learned.feature, view, prediction), view.start, view.end)
        return commit(probability > self.threshold, prediction), memory


def cell_values(feature: str, view: View, prediction: Prediction) -> Tensor:
    """Fp32 ``[B, G]``: what a filter of this feature reads at each cell (see :data:`filters.FEATURES`)."""
    if feature == "negative_entropy":
        assert prediction.entropy is not None
        return (-prediction.entropy).masked_fill(~view.masked, 0.0)
    return prediction.confidence
