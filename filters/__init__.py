"""Floor 1: the learned filter of Learn2PD (features, network, training, loading)."""

from __future__ import annotations

from filters.bank import FilterBank, LearnedFilter
from filters.features import FEATURES, block_features
from filters.files import FilterError
from filters.network import FilterNetwork
from filters.records import Records
from filters.training import (
    REFERENCE_RECIPE,
    Calibration,
    Fit,
    Measures,
    Recipe,
    calibration,
    choose_threshold,
    fit,
    measure,
)

__all__ = [
    "FEATURES",
    "REFERENCE_RECIPE",
    "Calibration",
    "FilterBank",
    "FilterError",
    "FilterNetwork",
    "Fit",
    "LearnedFilter",
    "Measures",
    "Recipe",
    "Records",
    "block_features",
    "calibration",
    "choose_threshold",
    "fit",
    "measure",
]
