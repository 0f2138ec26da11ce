"""The count of operations outside the model: it counts, and steps stay as light as they are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dllm_decode import load_model
from dllm_decode.interface.inputs import ForwardInput, Known
from scripts.bench.operations import Counted, operations


def test_it_counts_what_is_not_paused() -> None:
    counter = Counted()
    with counter:
        torch.ones(2) + 1
        counter.paused = True
        torch.ones(2) + 1
    assert sum(counter.found.values()) == 2


@pytest.mark.parametrize(("policy", "most"), [("threshold", 150), ("ccd", 280), ("freedave", 310)])
def test_a_step_outside_the_model(policy: str, most: int) -> None:
    count, looks, found = operations(policy, load_model("tiny"))
    assert 0 < looks < 40 < count <= most, found.most_common(8)


@torch.no_grad()
def test_a_forward_of_the_bundled_model() -> None:
    model, counter = load_model("tiny"), Counted()
    cache, width = model.new_cache(1, 64), torch.tensor([16])
    step = ForwardInput(
        torch.arange(5, 21)[None], torch.arange(16, 32)[None], width, torch.tensor([64]), cache=cache, rows=width - 16
    )
    for _ in range(2):  # the second finds its tables and views
        counter.found.clear()
        known = Known.of(step, [16])
        with counter:
            model.head(model.hidden(replace(step, known=known), torch.arange(16)))
    assert sum(counter.found.values()) <= 226, counter.found.most_common(8)
