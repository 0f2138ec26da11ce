"""Scores that are no numbers end the run with one sentence, instead of passing as text."""

from __future__ import annotations

import pytest
import torch

from dllm_decode import CallableModel, DiffusionSampler
from dllm_decode.errors import NotFiniteError
from tests.dllm_decode.tiny import tiny

MASK, EOS, WORDS = 6, 5, 7


def spoiled(value: float, cell: int, token: int = 2, from_call: int = 1) -> CallableModel:
    """A model with one bad logit, in one cell, from some call on."""
    calls = []

    def fn(tokens: torch.Tensor) -> torch.Tensor:
        calls.append(tokens)
        logits = torch.arange(WORDS).float().expand(*tokens.shape, WORDS).clone()
        if len(calls) >= from_call:
            logits[-1, cell, token] = value
        return logits

    return CallableModel(fn, mask_id=MASK, eos_ids=(EOS,), vocab_size=WORDS, name="spoiled")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("token", [2, MASK])
def test_row_and_step_are_named(value: float, temperature: float, token: int) -> None:
    sampler = DiffusionSampler(spoiled(value, 3, token, from_call=2), "topk:k=1")
    with pytest.raises(NotFiniteError, match=r"'spoiled' .*no finite numbers \(row 1, step 2, in float32\); try"):
        sampler.generate([[1], [2]], max_new_tokens=4, early_stop=False, temperature=temperature)


@pytest.mark.parametrize("policy", ["threshold", "freedave:step=(topk:k=1),drafts=3", "ccdds", "entropybound"])
@pytest.mark.parametrize("settings", [{}, {"temperature": 0.5, "top_p": 0.9, "confidence": "filtered"}])
def test_under_any_policy(policy: str, settings: dict[str, object]) -> None:
    if policy.startswith("freedave"):
        settings = {}
    sampler = DiffusionSampler(spoiled(float("nan"), 2), policy)
    with pytest.raises(NotFiniteError, match="row 0, step 1"):
        sampler.generate([[1]], max_new_tokens=4, early_stop=False, **settings)


def test_one_broken_weight_is_enough() -> None:
    model = tiny("llada")
    weight = next(p for name, p in model.module.named_parameters() if "norm" in name)
    kept = weight.detach().clone()
    try:
        weight.data[0] = float("nan")
        with pytest.raises(NotFiniteError, match="no finite numbers"):
            DiffusionSampler(model, "threshold", "dual").generate([[3, 1, 4]], max_new_tokens=4)
    finally:
        weight.data.copy_(kept)


def test_tokens_that_cannot_be_are_no_fault() -> None:
    def fn(tokens: torch.Tensor) -> torch.Tensor:
        logits = torch.full((*tokens.shape, WORDS), -torch.inf)
        logits[..., 3] = 0.0
        return logits

    model = CallableModel(fn, mask_id=MASK, vocab_size=WORDS)
    assert DiffusionSampler(model, "threshold").generate([[1]], max_new_tokens=4).sequences == [[3] * 4]
