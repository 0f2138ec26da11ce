"""The one judge of what policies decide: a decision is settled, then checked against the contract."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from samplers.contract.data import Decision, PolicyError, View
from samplers.contract.policy import Policy


def settle(view: View, decision: Decision) -> Decision:
    """Apply a decision's cut and stop: nothing is written past a row's new length, or taken back where it ends.

    Given cells are neither written nor cut off.
    """
    if view.given is not None:
        length = decision.length
        if length is not None:
            length = length.maximum((view.given * (view.index + 1)).amax(-1))
        decision = replace(decision, write=decision.write & ~view.given, length=length)
    if decision.stop is not None:
        revoked = decision.write & ~view.masked & (decision.values == view.mask_id)
        decision = replace(decision, write=decision.write & ~(revoked & decision.stop[:, None]))
    if decision.insert is not None:  # a row that ends or is cut grows no more, nor does one without room
        count = torch.minimum(decision.insert.count, view.budget - decision.insert.at)
        bound = view.length >= view.budget
        if decision.stop is not None:
            bound = bound | decision.stop
        if decision.length is not None:
            bound = bound | (decision.length < view.length)
        decision = replace(decision, insert=replace(decision.insert, count=count.masked_fill(bound, 0)))
    if decision.length is None:
        return decision
    length = torch.minimum(decision.length, view.length)
    return replace(decision, write=decision.write & (view.index < length[:, None]), length=length)


def validate(policy: Policy, view: View, decision: Decision) -> None:
    """Raise :class:`PolicyError` if a (settled) decision breaks the contract; one sentence names the policy."""
    name = "|".join(type(p).__name__ for p in getattr(policy, "parts", (policy,)))

    def refuse(bad: Tensor, what: str) -> None:
        if bool(bad.any()):
            row, cell = (int(i) for i in bad.nonzero()[0])
            raise PolicyError(f"{name} {what} (row {row}, cell {cell}, step {int(view.step[row])}).")

    write = decision.write
    usual = decision.insert is None and decision.stop is decision.length is decision.hold is None
    if usual and not policy.revises:  # at a glance
        rows = set(decision.cells[0].tolist())
        served = all(row in rows for row, waits in enumerate(view.waiting.tolist()) if waits)
        inside = view.masked[decision.cells] & view.valid[decision.cells]
        if served and bool(inside.all()) and view.mask_id not in decision.written.tolist():
            return
    refuse(write & ~view.valid, "writes a cell outside the row's length")
    revoked = write & (decision.values == view.mask_id)
    if policy.revises:
        refuse(write & ~view.masked & (view.index < view.start[:, None]), "changes a cell of a finished block")
    else:
        refuse(write & ~view.masked, "changes a committed cell without declaring `revises`")
        refuse(revoked, "commits the mask token without declaring `revises`")
    if decision.length is not None:
        shrunk = (decision.length < 1) | (decision.length > view.length)
        refuse(shrunk[:, None], "sets a length outside 1..the current length")
    if decision.insert is not None:
        at, count = decision.insert.at, decision.insert.count
        outside = (count < 0) | (count > 0) & ((at < view.start) | (at > view.length))
        refuse(outside[:, None], "puts cells into a finished block or behind the row's end")
    if decision.stop is not None:
        left = (view.masked & ~write | revoked) & decision.stop[:, None]
        within = view.length if decision.length is None else decision.length
        refuse(left & (view.index < within[:, None]), "stops a row and leaves a mask in it; fill it")
    gained = (write & view.masked & ~revoked).sum(-1)
    lost = (revoked & ~view.masked).sum(-1)
    stuck = (gained - lost < 1) & view.open.any(-1)  # a block that was held open may be full
    for over in (decision.stop, decision.hold):
        stuck = stuck & ~over if over is not None else stuck
    if decision.length is not None:
        stuck = stuck & (decision.length == view.length)
    refuse(stuck[:, None], "commits nothing and does not hold")
