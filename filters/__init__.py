"""Floor 1: the learned filter of Learn2PD (features, network, training, loading)."""

from __future__ import annotations
