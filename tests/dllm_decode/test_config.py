"""GenerationConfig: round trips, and every sentence that refuses a setting."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dllm_decode import DllmError, GenerationConfig
from dllm_decode.config import GenerationConfigError

WHOLE = st.integers(1, 500)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "max_new_tokens": WHOLE,
        "block_length": st.none() | WHOLE,
        "temperature": st.floats(0, 10),
        "top_p": st.none() | st.floats(0.01, 1),
        "top_k": st.none() | WHOLE,
        "seed": st.integers(0, 2**40),
        "guidance": st.floats(0, 5),
        "suppress_tokens": st.lists(st.integers(0, 99), max_size=3),
        "early_stop": st.booleans(),
        "infill": st.booleans(),
        "confidence": st.sampled_from(["auto", "clean", "filtered"]),
        "precision": st.sampled_from(["float32", "reference"]),
        "branches": st.sampled_from(["auto", "expand", "tree"]),
    },
)


@given(SETTINGS)
def test_json_round_trip(settings: dict[str, object]) -> None:
    config = GenerationConfig(**settings)  # type: ignore[arg-type]
    assert GenerationConfig.from_json(config.to_json()) == config
    assert GenerationConfig.from_dict(config.to_dict()) == config == config.replace()
    json.dumps(config.to_dict())
    hash(config)


def test_replace_and_frozen() -> None:
    config = GenerationConfig(max_new_tokens=5)
    changed = config.replace(seed=3, suppress_tokens=[1, 2])
    assert (changed.max_new_tokens, changed.seed, changed.suppress_tokens) == (5, 3, (1, 2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1  # type: ignore[misc]


def test_infilling_may_add_nothing() -> None:
    assert GenerationConfig(infill=True, max_new_tokens=0).max_new_tokens == 0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; give a whole number from 1 up."),
        ({"max_new_tokens": -1, "infill": True}, "max_new_tokens is -1; give a whole number from 0 up."),
        ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5; give a whole number from 1 up."),
        ({"max_new_tokens": True}, "max_new_tokens is True; give a whole number from 1 up."),
        ({"max_new_tokens": None}, "max_new_tokens is None; give a whole number from 1 up."),
        ({"block_length": 0}, "block_length is 0; give a whole number from 1 up, or None."),
        ({"block_length": "8"}, "block_length is '8'; give a whole number from 1 up, or None."),
        ({"temperature": -0.1}, "temperature is -0.1; give a number from 0 (greedy) to 1000000."),
        ({"temperature": float("nan")}, "temperature is nan; give a number from 0 (greedy) to 1000000."),
        ({"temperature": float("inf")}, "temperature is inf; give a number from 0 (greedy) to 1000000."),
        ({"temperature": "hot"}, "temperature is 'hot'; give a number from 0 (greedy) to 1000000."),
        ({"top_p": 0.0}, "top_p is 0.0; give a number above 0 and at most 1, or None."),
        ({"top_p": 1.5}, "top_p is 1.5; give a number above 0 and at most 1, or None."),
        ({"top_p": "a"}, "top_p is 'a'; give a number above 0 and at most 1, or None."),
        ({"top_k": 0}, "top_k is 0; give a whole number from 1 up, or None."),
        ({"seed": -1}, "seed is -1; give a whole number from 0 up."),
        ({"guidance": -1}, "guidance is -1; give a number from 0 (off) to 1000000."),
        ({"guidance": None}, "guidance is None; give a number from 0 (off) to 1000000."),
        ({"suppress_tokens": 5}, "suppress_tokens is 5; give a tuple of token ids."),
        ({"suppress_tokens": "ab"}, "suppress_tokens is 'ab'; give a tuple of token ids."),
        ({"suppress_tokens": (-1,)}, "suppress_tokens is (-1,); give a tuple of token ids."),
        ({"early_stop": "no"}, "early_stop is 'no'; give True or False."),
        ({"infill": 1}, "infill is 1; give True or False."),
        ({"confidence": "raw"}, "confidence is 'raw'; give one of auto, clean, filtered."),
        ({"precision": "fp64"}, "precision is 'fp64'; give one of float32, reference."),
        ({"branches": "both"}, "branches is 'both'; give one of auto, expand, tree."),
        ({"refresh": 0}, "refresh is 0; give a whole number from 1 up, or 'window'."),
        ({"refresh": "never"}, "refresh is 'never'; give a whole number from 1 up, or 'window'."),
        ({"refresh_window": -2}, "refresh_window is -2; give a whole number from 0 up."),
    ],
)
def test_every_setting_is_refused_in_one_sentence(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(GenerationConfigError) as error:
        GenerationConfig(**settings)  # type: ignore[arg-type]
    assert str(error.value) == sentence
    assert isinstance(error.value, DllmError)


def test_unknown_names_and_wrong_json() -> None:
    with pytest.raises(
        GenerationConfigError, match=r"unknown generation setting 'max_tokens' \(did you mean 'max_new_"
    ):
        GenerationConfig.from_dict({"max_tokens": 3})
    with pytest.raises(GenerationConfigError, match="unknown generation setting 'zzz'; known: max_new_tokens, "):
        GenerationConfig().replace(zzz=1)
    with pytest.raises(GenerationConfigError, match=r"the generation settings are no JSON \(.*\); give one object"):
        GenerationConfig.from_json("{")
    with pytest.raises(GenerationConfigError, match="the generation settings are a list; give one object"):
        GenerationConfig.from_json("[1]")
