"""How a forward of several branches is finished: as the forwards, one after the other, that it stands for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from samplers.contract.data import Decision, Prediction, View
from samplers.contract.memory import Memory, put_rows

Finish = Callable[[View, Prediction, Decision, Memory], tuple[Decision, Memory]]


def turn_by_turn(
    finish: Finish, view: View, prediction: Prediction, decision: Decision, memory: Memory
) -> tuple[Decision, Memory]:
    """Show the parts one turn after the other, as if each had been a forward; a row that ends keeps no later turn.

    So what a rule does under a part that stops or cuts rows does not depend on how many forwards it took.
    """
    turns, values = decision.turn, decision.values
    order, confidence = decision.order, decision.confidence
    assert turns is not None and order is not None and confidence is not None
    write = torch.zeros_like(decision.write)
    stop = hold = torch.zeros_like(view.start, dtype=torch.bool)
    length = view.length
    before: tuple[Tensor, Tensor, Tensor] | None = None
    for turn in range(int(turns.max()) + 1):
        now = decision.write & (turns == turn) & ~(stop | (length < view.length))[:, None]
        rows = now.any(-1)
        if not bool(rows.any()):
            continue
        if before is not None:
            view = view.after(*before).moved()
        said = prediction.pick(turn)
        part = replace(decision, write=now, stop=None, length=None, turn=None)
        done, after = finish(view, said, part, memory)
        memory = put_rows(rows, after, memory)
        taken = done.write & rows[:, None]
        filled = taken & ~now
        write, values = write | taken, torch.where(taken, done.values, values)
        order = torch.where(taken, fill_last(done, filled, said), order)
        confidence = torch.where(filled, said.confidence, confidence)
        if done.stop is not None:
            stop = stop | (done.stop & rows)
        if done.hold is not None:
            hold = hold | (done.hold & rows)
        if done.length is not None:
            length = torch.where(rows, torch.minimum(length, done.length), length)
        before = taken, values, rows
    return Decision(write, values, stop, length, order, confidence, hold), memory


def fill_last(done: Decision, filled: Tensor, prediction: Prediction) -> Tensor:
    """Fp64 ``[B, G]``: the order of a decision, in which the cells ``filled`` by finishing parts come last."""
    order = -prediction.confidence if done.order is None else done.order
    return order.double().masked_fill(filled, torch.inf)
