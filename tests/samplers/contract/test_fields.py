"""Every field of every registered policy is checked when the object is made."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, cast

import pytest

from samplers import REGISTRY, DeferEos, FreeDave, PolicyError, Setting, Threshold, lookup, parse_policy
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
