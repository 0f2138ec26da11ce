"""The contract between the decoding loop and a policy part: data, policy, memory, referee, selection."""

from __future__ import annotations

from samplers.contract.data import Attention, Decision, Insertion, PolicyError, Prediction, Query, Setting, View
from samplers.contract.fields import bounded
from samplers.contract.memory import Memory, check_rows, map_rows, merge_rows, put_rows
from samplers.contract.policy import ROLES, Composition, Forecast, Policy, Scope
from samplers.contract.recall import divergence
from samplers.contract.referee import settle, validate
from samplers.contract.select import best, commit, dilate, prefix_sum_by_rank, rank, top

__all__ = [
    "ROLES",
    "Attention",
    "Composition",
    "Decision",
    "Insertion",
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
    "bounded",
    "check_rows",
    "commit",
    "dilate",
    "divergence",
    "map_rows",
    "merge_rows",
    "prefix_sum_by_rank",
    "put_rows",
    "rank",
    "settle",
    "top",
    "validate",
]
