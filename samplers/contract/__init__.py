"""The contract between the decoding loop and a policy part: data, policy, memory, referee, selection."""

from __future__ import annotations

from samplers.contract.data import Decision, PolicyError, Prediction, Query, Setting, View
from samplers.contract.memory import Memory, map_rows, merge_rows, put_rows, tensors_of
from samplers.contract.policy import ROLES, Composition, Forecast, Policy, Scope
from samplers.contract.referee import settle, validate
from samplers.contract.select import best, commit, dilate, prefix_sum_by_rank, rank, top

__all__ = [
    "ROLES",
    "Composition",
    "Decision",
    "Forecast",
    "Memory",
    "Policy",
    "PolicyError",
    "Prediction",
    "Query",
    "Scope",
    "Setting",
    "View",
    "best",
    "commit",
    "dilate",
    "map_rows",
    "merge_rows",
    "prefix_sum_by_rank",
    "put_rows",
    "rank",
    "settle",
    "tensors_of",
    "top",
    "validate",
]
