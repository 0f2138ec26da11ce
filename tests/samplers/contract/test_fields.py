"""Every field of every registered policy is checked when the object is made."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, cast

import pytest

from samplers import (
    REGISTRY,
    DeferEos,
    FreeDave,
    Policy,
    PolicyError,
    Setting,
    Threshold,
    bounded,
    lookup,
    parse_policy,
)
from samplers.registry import shortest
from tests.toys import EOS, MASK, VOCAB

BAD: list[Any] = [math.nan, math.inf, -math.inf, 1e308, 10**400, "soon", b"x", object(), {}, True, 1.5, -1, None, [[]]]


@pytest.mark.parametrize("name", list(REGISTRY))
def test_a_bad_value_is_refused_in_one_sentence(name: str) -> None:
    cls, given = lookup(name), parse_policy(shortest(name))
    for field in dataclasses.fields(cast(Any, cls)):
        for value in BAD:
            try:
                made = dataclasses.replace(cast(Any, given), **{field.name: value})
            except PolicyError as error:
                said = str(error)
                assert said.endswith(".") and "\n" not in said and len(said) < 400, said
            else:
                kept = getattr(made, field.name)
                number = isinstance(kept, float) and not field.metadata.get("infinity")
                assert not (number and not math.isfinite(kept)), (name, field.name, value)


def test_the_worst() -> None:
    for make, said in (
        (lambda: FreeDave(cross_block=0), "cross_block is 0; give True or False."),  # type: ignore[arg-type]
        (lambda: FreeDave(drafts=1e308), "drafts is 1e+308; choose a whole number or auto."),  # type: ignore[arg-type]
        (lambda: Threshold(math.nan), "threshold is nan; give a finite number."),
        (
            lambda: DeferEos(ids=-1).bind(Setting(MASK, (EOS,), VOCAB)),  # type: ignore[arg-type]
            f"ids holds -1, but the vocabulary is 0..{VOCAB - 1}; give others.",
        ),
    ):
        with pytest.raises(PolicyError) as error:
            make()
        assert str(error.value) == said


@dataclasses.dataclass(frozen=True)
class Bounded(Policy):
    """Fields with limits of every kind."""

    share: float = bounded(0.5, 0, 1, note="the paper uses 0.5")
    open: float = bounded(0.5, above=0, below=1)
    count: int | None = bounded(None, 1)
    mode: int | Literal["auto"] = bounded("auto", 2)
    edge: float = bounded(1.0, above=0, infinity=True)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"share": 1.5}, "share is 1.5; give a number from 0 to 1 (the paper uses 0.5)."),
        ({"open": 0}, "open is 0; give a number above 0 and below 1."),
        ({"open": 1.0}, "open is 1.0; give a number above 0 and below 1."),
        ({"count": 0}, "count is 0; give a whole number from 1 up, or None."),
        ({"count": 1.5}, "count is 1.5; give a whole number or None."),
        ({"mode": 1}, "mode is 1; give a whole number from 2 up."),
        ({"edge": -math.inf}, "edge is -inf; give a number above 0."),
        ({"share": math.inf}, "share is inf; give a finite number."),
    ],
)
def test_limits_are_said(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(PolicyError) as error:
        Bounded(**fields)
    assert str(error.value) == said


def test_limits_hold_what_they_allow() -> None:
    Bounded(share=0, open=0.999, count=1, mode=2, edge=math.inf)
    assert Bounded().mode == "auto" and Bounded(share=1).share == 1
