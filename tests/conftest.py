"""Settings of the whole suite: one thread, and property tests that repeat."""

from __future__ import annotations

import os

import torch
from hypothesis import HealthCheck, Phase, settings

torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the programs that tests start share the cores with other tests

settings.register_profile(
    "suite",
    deadline=None,
    derandomize=True,
    max_examples=25,
    phases=[Phase.explicit, Phase.generate],  # no shrinking: a failure is reported within the budget of a test
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
#: HYPOTHESIS_PROFILE=search looks for new counterexamples and shrinks them.
settings.register_profile(
    "search", parent=settings.get_profile("suite"), derandomize=False, max_examples=400, phases=list(Phase)
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))
