"""Every registered part over every cache of every family: it decodes, or it is refused with a reason listed here."""

from __future__ import annotations

import pytest

from dllm_decode import DiffusionSampler, GenerationConfig
from dllm_decode.errors import DllmError
from dllm_decode.interface.model import DenoisingModel
from samplers import EGP, REGISTRY, Composition, Policy, PolicyError, parse_policy
from scripts.random_models import BLOCK_FAMILIES, known_model
from tests.dllm_decode.engine.test_compositions import DECIDERS, part
from tests.toys import EOS, FAMILIES, MASK, VOCAB, commits, tiny

PROMPTS, CELLS, BLOCK = ([3, 1, 4], [5, 9], [7]), 5, 2
PLACES = [(family, cache) for family in FAMILIES for cache in ("none", "prefix", "dual")]
PLACES += [(family, cache) for family in BLOCK_FAMILIES for cache in ("none", "block")]
#: Why a part cannot work somewhere: it reads or fills the whole row, sees attention, has a twin beside each cell, or
#: takes back a block's first cell, which is predicted once.
ROW, ATTENTION, TWIN, ONCE = "this block-causal model", "reads the attention", "no twin can stand", "predict the first"


def reason(name: str, family: str, cache: str) -> str | None:
    """What the refusal of a part says, or ``None``: it works there."""
    if name == "dawn" and cache != "none":
        return ATTENTION
    if name == "wino" and family in ("dream", "fast_dllm_v2"):
        return TWIN
    if name in ("jointthreshold", "hierarchy", "saber") and family == "fast_dllm_v2":
        return ONCE
    if name in ("eotp", "sched", "prophet", "daedal", "doubtexit") and family in BLOCK_FAMILIES:
        return ROW
    return None


def model_of(family: str) -> DenoisingModel:
    """A random model of a family."""
    return tiny(family, 1) if family in FAMILIES else known_model(family, VOCAB, 64, layers=2, seed=1, eos=EOS)


def policy_of(name: str, cache: str, rows: tuple[int, ...]) -> Policy:
    """The part, beside a rule if it has none."""
    if name == "egp":
        return EGP(tuple(tuple((3 * row + cell) % EOS for cell in range(CELLS)) for row in rows))
    alone = part(name, cache)
    return alone if name in DECIDERS else Composition.of(parse_policy("threshold:threshold=0.4"), alone)


@pytest.mark.parametrize("place", PLACES, ids="-".join)
def test_it_decodes_or_says_why_not(place: tuple[str, str]) -> None:
    family, cache = place
    model, config = model_of(family), GenerationConfig(max_new_tokens=CELLS, block_length=BLOCK, early_stop=False)
    everyone = tuple(range(len(PROMPTS)))
    for number, name in enumerate(REGISTRY):
        why = reason(name, family, cache)
        if why is not None:
            with pytest.raises((PolicyError, DllmError), match=why):
                DiffusionSampler(model, policy_of(name, cache, everyone), cache, config)
            continue
        batch = DiffusionSampler(model, policy_of(name, cache, everyone), cache, config).generate(list(PROMPTS))
        assert all(MASK not in row for row in batch.sequences), name
        row = number % len(PROMPTS)
        alone = DiffusionSampler(model, policy_of(name, cache, (row,)), cache, config).generate([PROMPTS[row]])
        assert alone.sequences[0] == batch.sequences[row] and commits(alone) == commits(batch, row), name
