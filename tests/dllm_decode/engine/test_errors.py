"""Wrong input to the sampler ends in one sentence, before any forward."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dllm_decode import CallableModel, DiffusionSampler, DllmError, GenerationConfig
from samplers import EosStop, Policy, PolicyError, Scope, Threshold, TopK
from tests.references.quirks import BlindFirst
from tests.toys import EOS, FAMILIES, MASK, VOCAB, tiny


def forbidden(ids: Tensor) -> Tensor:
    """A model that must not be called."""
    raise AssertionError("a forward was made before the input was checked")


def model(**settings: Any) -> CallableModel:
    """A model without a cache, a tokenizer or patience."""
    fields = {"mask_id": MASK, "eos_ids": (EOS,), "vocab_size": VOCAB, "name": "strict"}
    return CallableModel(forbidden, **{**fields, **settings})


@dataclass(frozen=True)
class Rest(TopK):
    """A decider that reads the whole row when a block opens."""

    scope = Scope.REST


CONSTRUCTION: list[tuple[dict[str, Any], type[ValueError], str]] = [
    ({"model": None}, DllmError, "None is no model; give a name, a folder or a NativeModel, or a function in"),
    ({"model": torch.nn.Linear(2, 2)}, DllmError, "Linear(in_features=2, out_features=2, bias=True) is no model;"),
    (
        {"cache": "prefx"},
        DllmError,
        "unknown cache 'prefx' (did you mean 'prefix'?); use one of none, prefix, dual, block.",
    ),
    ({"cache": 3}, DllmError, "unknown cache 3"),
    (
        {"cache": "dual"},
        DllmError,
        "model 'strict' keeps no keys and values, so cache='dual' cannot work; use cache='none'.",
    ),
    ({"config": {"seed": 1}}, DllmError, "config is {'seed': 1}; give a GenerationConfig(...)."),
    ({"policy": "treshold"}, PolicyError, "unknown policy 'treshold' (did you mean 'threshold'?); known: "),
    ({"policy": 3}, PolicyError, "3 is no policy; give a Policy or a string such as 'threshold:threshold=0.9'."),
    ({"policy": EosStop()}, PolicyError, "no part of EosStop decides what to commit; add a decider such as"),
    (
        {"policy": Threshold() | TopK()},
        PolicyError,
        "Threshold and TopK both decide what to commit; keep one of them.",
    ),
    ({"policy": "threshold+factor"}, PolicyError, "Threshold and Factor both decide what to commit; keep one"),
    ({"policy": "topk+eosstop+eosstop:when=block"}, PolicyError, "EosStop appears twice in TopK|EosStop|EosStop;"),
    ({"policy": Threshold() | BlindFirst()}, PolicyError, "BlindFirst reproduces a cached loop of a shifted model"),
    (
        {"model": model(eos_ids=()), "policy": "topk+eosstop"},
        PolicyError,
        "EosStop needs an end-of-text id, but the model has none; give it one or drop EosStop.",
    ),
    (
        {"model": model(eos_ids=()), "policy": "topk+defereos"},
        PolicyError,
        "DeferEos needs the ids to defer, but the model has no end-of-text id; give ids.",
    ),
    (
        {"config": GenerationConfig(suppress_tokens=(3, 24))},
        DllmError,
        "suppress_tokens holds 24, but the vocabulary has 24 tokens.",
    ),
    (
        {"config": GenerationConfig(branches="tree")},
        DllmError,
        "model 'strict' cannot hide tokens of one row from each other, so branches='tree' cannot work; use 'auto' or",
    ),
    (
        {"model": tiny("llada"), "cache": "dual", "policy": Rest(), "config": GenerationConfig(refresh=2)},
        DllmError,
        f"{__name__}:Rest reads the whole row on every opening forward, which refresh=2 shortens; use refresh=1.",
    ),
]


@pytest.mark.parametrize(("given", "kind", "sentence"), CONSTRUCTION)
def test_construction(given: dict[str, Any], kind: type[ValueError], sentence: str) -> None:
    with pytest.raises(kind) as error:
        DiffusionSampler(**{"model": model(), "policy": "topk", **given})
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)


GENERATION: list[tuple[Any, dict[str, Any], str]] = [
    ([], {}, "no prompt was given; pass text, chat messages or token ids."),
    (None, {}, "None is no prompt; pass text, chat messages or token ids, one or several."),
    (5, {}, "5 is no prompt; pass text, chat messages or token ids, one or several."),
    ({"a": 1}, {}, "{'a': 1} is no prompt; pass text, chat messages or token ids, one or several."),
    ([[1, 2], []], {}, "a prompt must be text, a non-empty list of token ids or a non-empty list of chat messages"),
    ([1, "a"], {}, "a prompt must be text, a non-empty list of token ids"),
    ([[1.5]], {}, "a prompt must be text, a non-empty list of token ids"),
    ([[1], [24]], {}, "prompt 1 holds token id 24, but the vocabulary is 0..23."),
    ([-1, 2], {}, "prompt 0 holds token id -1, but the vocabulary is 0..23."),
    ("hello", {}, "model 'strict' has no tokenizer; give prompt 0 as token ids."),
    ([{"role": "user", "content": "hi"}], {}, "model 'strict' has no tokenizer; give prompt 0 as token ids."),
    ([[1], [2, MASK]], {}, "prompt 1 holds the mask token 23 at position 1; pass infill=True to decode it, or remove"),
    (
        [[MASK], [1, 2]],
        {"infill": True, "max_new_tokens": 0},
        "prompt 1 has nothing to decode; give it masks or max_new_tokens above 0.",
    ),
    ([1, 2], {"max_tokens": 3}, "unknown generation setting 'max_tokens' (did you mean 'max_new_tokens'?); known:"),
    ([1, 2], {"block_length": 0}, "block_length is 0; give a whole number from 1 up, or None."),
    ([1, 2], {"suppress_tokens": (99,)}, "suppress_tokens holds 99, but the vocabulary has 24 tokens."),
    ([1, 2], {"branches": "tree"}, "model 'strict' cannot hide tokens of one row from each other"),
]


@pytest.mark.parametrize("entry", ["generate", "check"])
@pytest.mark.parametrize(("prompts", "settings", "sentence"), GENERATION)
def test_generation(prompts: Any, settings: dict[str, Any], sentence: str, entry: str) -> None:
    sampler = DiffusionSampler(model(), "topk")
    with pytest.raises(DllmError) as error:
        getattr(sampler, entry)(prompts, **settings)
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)


def test_too_long() -> None:
    sampler = DiffusionSampler(model(max_length=10), "topk")
    with pytest.raises(
        DllmError, match="prompt 1 has 8 tokens and 4 are to be generated, but strict was made for 10 in"
    ):
        sampler.generate([[1], list(range(8))], max_new_tokens=4)


def test_stream_refuses_at_once() -> None:
    with pytest.raises(DllmError, match="prompt 0 holds token id 99"):
        DiffusionSampler(model(), "topk").stream([99])


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    for missing in (tmp_path / "nothing", str(tmp_path / "nothing")):
        with pytest.raises(DllmError, match="nothing"):
            DiffusionSampler(missing)


@pytest.mark.parametrize("family", FAMILIES)
def test_errors_are_value_errors_of_one_family(family: str) -> None:
    assert issubclass(DllmError, ValueError) and issubclass(PolicyError, ValueError)
    with pytest.raises(ValueError):
        DiffusionSampler(tiny(family), "topk:k=0")


def test_a_part_that_is_no_policy_object() -> None:
    with pytest.raises(PolicyError, match="is no policy; give a Policy or a string"):
        DiffusionSampler(model(), Policy)  # type: ignore[arg-type]
