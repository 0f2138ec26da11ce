"""Random policy strings over the registry, for property tests.

A policy registered tomorrow takes part with its defaults and its entry's example; give it an entry in ``FIELDS`` to
vary its parameters.
"""

from __future__ import annotations

from functools import lru_cache

from hypothesis import strategies as st

from samplers import REGISTRY, PolicyError, Setting, parse_policy
from samplers.registry import example, shortest
from tests.toys import EOS, MASK, VOCAB


def _one_of(*values: object) -> st.SearchStrategy[str]:
    return st.sampled_from([str(v).lower() for v in values])


#: name -> field -> values as they are spelled in a policy string
FIELDS: dict[str, dict[str, st.SearchStrategy[str]]] = {
    "topk": {"k": _one_of(1, 2, 3), "score": _one_of("confidence", "margin", "entropy", "random", "position")},
    "threshold": {"threshold": _one_of(0.05, 0.3, 0.5, 0.7, 0.9, 1.1)},
    "factor": {"factor": _one_of(0.5, 1.0, 1.5, 4.0)},
    "frechet": {"margin": _one_of(-0.5, 0.0, 0.25, 0.6)},
    "entropybound": {"gamma": _one_of(0.0, 0.1, 1.0, 3.0)},
    "entropythreshold": {"threshold": _one_of(0.0, 0.3, 1.0, 2.0, "none")},
    "hierarchy": {
        "threshold": _one_of(0.5, 0.8, "none"),
        "low": _one_of(0.0, 0.3, "none"),
        "remask": _one_of(0.3, 0.6, 1.1, "none"),
    },
    "saber": {"least": _one_of(1, 2, 5)},
    "credit": {"threshold": _one_of(0.3, 0.6, 0.9), "alpha": _one_of(0, 0.7, 3), "slots": _one_of(1, 2, "none")},
    "klass": {
        "threshold": _one_of(0.2, 0.5, "none"),
        "divergence": _one_of(0.3, 1.0, "none"),
        "history": _one_of(1, 2),
        "since": _one_of("row", "block"),
    },
    "doubtexit": {"eps": _one_of(0, 0.5, 3.0), "stale": _one_of(True, False)},
    "contentfirst": {"step": _one_of("(threshold:threshold=0.4)", "(topk:k=2)", "(credit:threshold=0.4)")},
    "allbutone": {
        "step": _one_of("(threshold:threshold=0.4)", "(topk:k=1)"),
        "cells": _one_of(2, 4),
        "slack": _one_of(0.25, 2.0),
        "doubt": _one_of(0.3, 1.0),
    },
    "eosstop": {"when": _one_of("settled", "block")},
    "localleap": {"relaxed_threshold": _one_of(0.2, 0.4), "radius": _one_of(1)},
    "adablock": {"delimiters": _one_of("3/4/5"), "delimiter_threshold": _one_of(0.05, 0.3, "inf")},
    "eotp": {"guess": _one_of(True, False), "ids": _one_of("7/8/22")},
    "wino": {"threshold": _one_of(0.1, 0.4), "threshold_back": _one_of(0.0, 0.6), "twins": _one_of("block", "lone")},
    "lopa": {
        "branching_factor": _one_of(0, 1, 3),
        "threshold": _one_of(0.4),
        "score": _one_of("margin", "confidence"),
    },
    "dawn": {"edge": _one_of(0.05, 0.2), "low": _one_of(0.3), "induce": _one_of(0.4), "layers": _one_of(1, 2)},
    "freedave": {
        "step": _one_of("(topk:k=1)", "(topk:k=2)", "(threshold:threshold=0.5)"),
        "drafts": _one_of(1, 2, 4, "auto"),
        "row_cost": _one_of(0.1, 0.4),
    },
}
#: whole strings of parts whose fields hang together
SPELLED = {
    "localleap": (
        "localleap:anchor_threshold=0.7,relaxed_threshold=0.4",
        "localleap:anchor_threshold=0.5,relaxed_threshold=0.2",
    ),
    "topk": ("topk:steps=2", "topk:steps=3,spend=true", "topk:steps=3,schedule=time", "topk:k=1"),
}
SCHEDULED = ("topk:steps=4,schedule=time,origin=true", "topk:steps=2,spend=true,score=margin")


@lru_cache
def usable(cache: str, shift: int, temperature: float = 0.0) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Registered names that a tiny random model can run on: those that decide, and the companions."""
    setting = Setting(
        mask_id=MASK,
        eos_ids=(EOS,),
        vocab_size=VOCAB,
        cache=cache,
        shift=shift,
        block_length=4,
        max_new_tokens=8,
        temperature=temperature,
        delimiter_ids=(3,),
        shadows=shift == 0,
        attention=cache == "none",
    )
    deciders, companions = [], []
    for name in REGISTRY:
        try:
            part = parse_policy(shortest(name)).bind(setting)
        except (PolicyError, TypeError, OSError):
            continue  # needs a trained filter, a delimiter list, ...: its own tests give it one
        (deciders if "decide" in part.roles else companions).append(name)
    return tuple(deciders), tuple(companions)


@st.composite
def parts(draw: st.DrawFn, name: str) -> str:
    """One part: a registered name, with some of its fields."""
    if name in SPELLED and draw(st.booleans()):
        return draw(st.sampled_from(SPELLED[name] + (SCHEDULED if name == "topk" else ())))
    if name not in FIELDS:
        return draw(st.sampled_from((shortest(name), example(name))))
    fields = {key: draw(values) for key, values in FIELDS.get(name, {}).items() if draw(st.booleans())}
    return name + (":" + ",".join(f"{k}={v}" for k, v in fields.items()) if fields else "")


@st.composite
def policies(draw: st.DrawFn, cache: str = "none", shift: int = 0, temperature: float = 0.0) -> str:
    """A policy string: one decider, and up to two companions; it may still clash."""
    deciders, companions = usable(cache, shift, temperature)
    names = [draw(st.sampled_from(deciders))]
    names += draw(st.lists(st.sampled_from(companions), max_size=2, unique=True)) if companions else []
    return "+".join(draw(parts(name)) for name in draw(st.permutations(names)))
