"""LocalLeap."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samplers import LocalLeap, PolicyError, Threshold
from tests.toys import FAMILIES, chosen, commits, decode, scene, tiny


@pytest.mark.parametrize(
    ("confidence", "expected"),
    [
        # the paper's rule: 5 is an anchor, 3 and 7 its neighbours at 0.75, 8 too far, 4 too unsure
        ([0.8, 0.1, 0.1, 0.75, 0.74, 0.95, 0.1, 0.76, 0.89], [5, 7, 3]),
        # no anchor: the relaxed threshold does not apply
        ([0.89, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8], [0]),
        # a committed cell is no anchor, and a relaxed neighbour (6) makes none of its own neighbours (8) easier
        ([None, 0.8, 0.1, 0.1, 0.9, 0.1, 0.8, 0.1, 0.8], [4, 6]),
    ],
)
def test_table(confidence: list[float | None], expected: list[int]) -> None:
    assert chosen(LocalLeap(radius=2), *scene([confidence])) == [expected]


def test_blocks_cut_neighbourhoods() -> None:
    view, prediction = scene([[0.95, 0.8, 0.8, 0.8], [0.8, 0.8, 0.95, 0.8]], block=(0, 2))
    assert chosen(LocalLeap(), view, prediction) == [[0, 1], [0]]


def by_the_book(confidence: list[float], masked: list[bool], kappa: float, tau: float, radius: int) -> set[int]:
    """The rule as it stands in the paper, cell by cell."""
    cells = [i for i, m in enumerate(masked) if m]
    anchors = [i for i in cells if confidence[i] >= kappa]
    near = {i for a in anchors for i in range(a - radius, a + radius + 1)}
    taken = {i for i in cells if confidence[i] >= (tau if i in near else kappa)}
    return taken | {min(cells, key=lambda i: (-confidence[i], i))}


@given(
    st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.75, 0.8, 0.9, 0.99]), st.booleans()), min_size=1, max_size=24),
    st.sampled_from([(0.9, 0.75), (0.8, 0.5), (0.9, 0.9)]),
    st.integers(0, 30),
)
def test_equals_the_rule_cell_by_cell(
    cells: list[tuple[float, bool]], thresholds: tuple[float, float], radius: int
) -> None:
    row = [p if masked else None for p, masked in cells]
    if not any(masked for _, masked in cells):
        row[0] = 0.5
    kappa, tau = thresholds
    confidence = torch.tensor([p or 0.0 for p in row]).tolist()
    masked = [p is not None for p in row]
    expected = by_the_book(confidence, masked, *torch.tensor([kappa, tau]).tolist(), radius)
    view, prediction = scene([row, row])
    for got in chosen(LocalLeap(kappa, tau, radius), view, prediction):
        assert set(got) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_radius_0_is_threshold_decoding(family: str) -> None:
    prompts, settings = [[1, 2, 3], [4, 5]], {"max_new_tokens": 12, "block_length": 6}
    leap = decode(tiny(family), LocalLeap(0.5, 0.2, radius=0), prompts, **settings)
    plain = decode(tiny(family), Threshold(0.5), prompts, **settings)
    assert leap.sequences == plain.sequences
    assert [commits(leap, row) for row in (0, 1)] == [commits(plain, row) for row in (0, 1)]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"anchor_threshold": 0.0}, "anchor_threshold is 0.0; give a number above 0"),
        ({"relaxed_threshold": -1.0}, "relaxed_threshold is -1.0; give a number above 0"),
        ({"relaxed_threshold": 0.96}, "above anchor_threshold 0.9, which would make cells near anchors harder"),
        ({"radius": -1}, "radius is -1; give a whole number from 0 up"),
        ({"radius": 1.5}, "radius is 1.5; give a whole number"),
    ],
)
def test_refuses(fields: dict[str, float], sentence: str) -> None:
    with pytest.raises(PolicyError, match=sentence):
        LocalLeap(**fields)  # type: ignore[arg-type]
