"""Features: cutting the block out of the canvas, and putting the answers back."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from filters.features import block_features, to_cells


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 8)), min_size=1, max_size=4))
def test_there_and_back(cells: int, blocks: list[tuple[int, int]]) -> None:
    start = torch.tensor([min(s, cells - 1) for s, _ in blocks])
    end = torch.minimum(start + torch.tensor([n for _, n in blocks]), torch.tensor(cells))
    values = torch.rand(len(blocks), cells) + 1
    features = block_features(values, start, end, 8)
    assert features.shape == (len(blocks), 8) and features.dtype == torch.float32
    for row, (s, e) in enumerate(zip(start.tolist(), end.tolist(), strict=True)):
        assert torch.equal(features[row, : e - s], values[row, s:e])
        assert not features[row, e - s :].any()  # zeros on the right
    back = to_cells(features, start, end, cells, fill=-1.0)
    index = torch.arange(cells)
    inside = (index >= start[:, None]) & (index < end[:, None])
    assert torch.equal(back, torch.where(inside, values, -1.0))
