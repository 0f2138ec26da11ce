"""Grids of our own: what is tuned over when nobody names candidates."""

from __future__ import annotations

from itertools import product
from typing import Any

#: policies and the range of each knob around its paper's value; what a cache cannot serve is left out by name
TUNING_GRID: dict[str, dict[str, Any]] = {
    "threshold": {"threshold": [0.5, 0.6, 0.7, 0.8, 0.9, 0.92, 0.95]},
    "factor": {"factor": [0.5, 1.0, 1.5, 2.0]},
    "frechet": {"margin": [0.0, 0.25, 0.5, 0.75]},
    "entropybound": {"gamma": [0.01, 0.1, 0.3, 0.6]},
    "localleap": {"anchor_threshold": [0.8, 0.9], "relaxed_threshold": [0.5, 0.65, 0.75], "radius": [2, 4, 8]},
    "adablock+threshold": {"threshold.threshold": [0.7, 0.8, 0.9]},
    "adablock+localleap": {"localleap.relaxed_threshold": [0.5, 0.75]},
    "contentfirst": {},
    "allbutone": {},
    "contentfirst:step=(allbutone)+doubtexit:stale=true": {},
    "contentfirst+doubtexit:stale=true": {"doubtexit.eps": [0.1, 0.15, 0.2]},
    "freedave:step=(threshold)": {"drafts": [2, 4, 8]},
    "freedave:step=(contentfirst)": {"drafts": [4, 8]},
    "freedave:step=(threshold),cross_block=true": {"drafts": [8]},
    "freedave:step=(contentfirst),cross_block=true": {"drafts": [8]},
    "freedave:step=(contentfirst),cross_block=true+doubtexit": {"freedave.drafts": [8]},
    "ccdds": {},
}

#: parts of `compositions`, each with the values that are worth a try: who decides, in which frame, what may end a row
DECIDERS = (
    *(f"threshold:threshold={bar}" for bar in (0.85, 0.88, 0.9, 0.92)),
    "localleap:anchor_threshold=0.95,relaxed_threshold=0.88",
    "localleap:anchor_threshold=0.97,relaxed_threshold=0.85",
    "factor:factor=0.35",
    "frechet:margin=0.75",
    "credit:threshold=0.9",
    "learn2pd",
)
FRAMES = ("{}", "adablock+{}", "freedave:step=({}),drafts=8,cross_block=true")
EXITS = ("", "+doubtexit:stale=true,eps=0.15", "+doubtexit:stale=true,eps=0.2", "+sched:high=14.25,low=14.25")


def compositions() -> list[str]:
    """Deciders, plain and with content first (and all but one), in every frame and beside every exit."""
    firsts = [*DECIDERS, *(f"allbutone:step=({decider})" for decider in DECIDERS if decider.startswith("threshold"))]
    plain = [*DECIDERS, *(f"contentfirst:step=({decider})" for decider in firsts)]
    return [frame.format(decider) + leave for decider, frame, leave in product(plain, FRAMES, EXITS)]
