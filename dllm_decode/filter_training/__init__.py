"""Training filters for Learn2PD: records of runs, judging of cells, the training itself."""

from __future__ import annotations

from dllm_decode.filter_training.train import train_filter

__all__ = ["train_filter"]
