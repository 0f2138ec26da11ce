"""Floor 1: the learned filter of Learn2PD (features, network, training, loading)."""

from __future__ import annotations

from filters.bank import FilterBank, FilterError, LearnedFilter
from filters.features import FEATURES, block_features
from filters.network import FilterNetwork

__all__ = ["FEATURES", "FilterBank", "FilterError", "FilterNetwork", "LearnedFilter", "block_features"]
