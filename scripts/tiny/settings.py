"""What a training run is asked for, and the learning rate that follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scripts.tiny.rows import LONG_SHORT_SHARE

WARMUP_STEPS = 100


@dataclass(frozen=True)
class Run:
    """Settings of one run; all but the budget are kept in its checkpoint's log line."""

    out: Path
    work: Path
    minutes: float
    steps: int
    processes: int
    tokens: int
    lr: float
    hold: float
    width: int
    layers: int
    heads: int
    inner: int
    seed: int
    device: str
    evaluate_every: float
    save_every: float
    samples: int
    full_share: float
    late_full_share: float
    stale_share: float
    floor: float
    emphasis: str
    shots_share: float
    tasks: str
    start: Path | None
    compiled: bool
    attention_block: int | None = None
    workers: int = 0
    drills: str = ""
    long_short_share: float = LONG_SHORT_SHARE


def learning_rate(run: Run, progress: float, step: int) -> float:
    """Warm-up, a plateau for the first ``hold`` of the budget, then linear to zero."""
    decay = 1.0 if progress < run.hold else (1 - progress) / max(1 - run.hold, 1e-9)
    return run.lr * min(1.0, (step + 1) / WARMUP_STEPS) * max(decay, 0.0)
