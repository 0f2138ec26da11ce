"""How many torch operations a decoding step takes outside the model and its scoring, per policy; no clock needed.

    python -m scripts.bench.operations

An operation costs some microseconds whatever its size, so on small canvases their number is the host's time.  Views
(slices, transpositions) count too; *looks* are those that hand a number to Python, which on a GPU wait for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dllm_decode import DiffusionSampler, GenerationConfig, load_model
from dllm_decode.engine.step import ModelStep
from dllm_decode.interface.model import DenoisingModel

POLICIES = ("threshold", "ccd", "freedave")
LOOKS = ("aten._local_scalar_dense.default", "aten.nonzero.default")


class Counted(TorchDispatchMode):
    """Counts operations while it is not ``paused``."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.paused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.paused:
            self.found[str(func)] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def _outside(counter: Counted) -> Iterator[None]:
    """Within, forwards and scoring are not counted."""
    run: Callable[..., Any] = ModelStep.run

    def unseen(*args: Any, **kwargs: Any) -> Any:
        counter.paused = True
        try:
            return run(*args, **kwargs)
        finally:
            counter.paused = False

    ModelStep.run = unseen  # type: ignore[method-assign]
    try:
        yield
    finally:
        ModelStep.run = run  # type: ignore[method-assign]


def operations(
    policy: str, model: DenoisingModel, cache: str = "dual", new: int = 64, block: int = 16
) -> tuple[float, float, Counter[str]]:
    """Operations and looks per step, the most in any, and what they were over the whole run of one row."""
    config = GenerationConfig(max_new_tokens=new, block_length=block, early_stop=False)
    sampler = DiffusionSampler(model, policy, cache, config)
    prompt = [5, 6, 7, 8, 9, 10]
    sampler.generate([prompt])  # what is measured once, is measured
    counter = Counted()
    with _outside(counter), counter:
        result = sampler.generate([prompt])
    nfe = result.nfe[0]
    return sum(counter.found.values()) / nfe, sum(counter.found[name] for name in LOOKS) / nfe, counter.found


def main() -> None:
    """Print a line per policy."""
    torch.set_num_threads(1)
    model = load_model("tiny")
    for policy in POLICIES:
        count, looks, found = operations(policy, model)
        common = ", ".join(f"{name.removeprefix('aten.')} {n}" for name, n in found.most_common(6))
        print(f"{policy:12} {count:6.0f} operations per step, {looks:4.0f} of them looks; most: {common}")


if __name__ == "__main__":
    main()
