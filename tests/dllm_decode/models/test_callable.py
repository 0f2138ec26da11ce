"""Functions as models."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dllm_decode.errors import DllmError
from dllm_decode.models import CallableModel, ForwardInput


def test_callable_model_never_sees_padding() -> None:
    seen: list[tuple[int, ...]] = []

    def fn(ids: Tensor) -> Tensor:
        seen.append(tuple(ids.shape))
        return torch.nn.functional.one_hot(ids, 6).float() * 5

    model = CallableModel(fn, mask_id=5)
    assert model.vocab_size == 6 and seen == [(1, 1)]
    lengths = torch.tensor([3, 4, 3])
    tokens = torch.tensor([[0, 1, 2, 5], [3, 2, 1, 0], [4, 4, 0, 5]])
    cells = torch.tensor([2, 7, 8, 4, 3])  # the last one is padding
    out = model.head(model.hidden(ForwardInput(tokens, torch.arange(4).expand(3, -1), lengths, lengths), cells))
    assert sorted(seen[1:]) == [(1, 4), (2, 3)]
    assert out.argmax(-1)[:4].tolist() == tokens.flatten()[cells[:4]].tolist()
    assert out[4].eq(0).all()
    with pytest.raises(DllmError, match="has no KV cache; use cache='none'"):
        model.new_cache(1, 4)


def test_callable_model_errors() -> None:
    with pytest.raises(DllmError, match="fn must be a function from ids"):
        CallableModel(3, mask_id=0)  # type: ignore[arg-type]
    with pytest.raises(DllmError, match="shift must be 0 .* or 1 .*got 2"):
        CallableModel(lambda x: x, mask_id=0, shift=2)
    with pytest.raises(DllmError, match=r"mask_id 9 and eos_ids \(\) must be within the vocabulary, 0..7"):
        CallableModel(lambda x: x, mask_id=9, vocab_size=8)
    model = CallableModel(lambda ids: torch.zeros(2, 3), mask_id=0, vocab_size=4)
    with pytest.raises(DllmError, match=r"got ids of shape \(1, 2\) and returned \(2, 3\); it must return"):
        two = torch.tensor([2])
        model.hidden(ForwardInput(torch.zeros(1, 2, dtype=torch.long), torch.arange(2)[None], two, two), two - 2)
