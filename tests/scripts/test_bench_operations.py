"""The count of operations outside the model: it counts, and steps stay as light as they are."""

from __future__ import annotations

import pytest
import torch

from dllm_decode import load_model
from scripts.bench.operations import Counted, operations


def test_it_counts_what_is_not_paused() -> None:
    counter = Counted()
    with counter:
        torch.ones(2) + 1
        counter.paused = True
        torch.ones(2) + 1
    assert sum(counter.found.values()) == 2


@pytest.mark.parametrize(("policy", "most"), [("threshold", 200), ("ccd", 340), ("freedave", 360)])
def test_a_step_outside_the_model(policy: str, most: int) -> None:
    count, looks, found = operations(policy, load_model("tiny"))
    assert 0 < looks < 40 < count <= most, found.most_common(8)
