"""EGP, Extremely Greedy Parallel: the oracle that commits what is already right (Learn2PD, arXiv 2509.25188)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from samplers.contract.data import Decision, PolicyError, Prediction, Setting, View
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy, Scope


@dataclass(frozen=True)
class Replay:
    """EGP's memory: long ``[B, G]`` reference tokens, and the proposals of the last forward (-1: none yet).

    Cells behind those asked for (a block-causal model's last block may have some) have no reference: the mask id.
    """

    reference: Tensor
    previous: Tensor


@dataclass(frozen=True)
class EGP(Policy):
    """Commit every open cell whose proposal equals a given reference output: what a perfect filter would do.

    No policy that only picks cells to commit can reproduce the reference in fewer forwards, except by luck.  When a
    forward proposes the same tokens in the whole block as the one before, nothing will ever change: the block is then
    filled from the reference.  A forward may commit nothing, so the same state can be forwarded twice.  Cells that
    nobody asked for, behind a block-causal model's row, are right whatever is proposed.

    Args:
        reference: one row of generated token ids per prompt, as in ``GenerationResult.sequences``.
    """

    reference: tuple[tuple[int, ...], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reference", tuple(tuple(row) for row in self.reference))

    @property
    def scope(self) -> Scope:  # noqa: D102
        return Scope.BLOCK

    def bind(self, setting: Setting) -> EGP:  # noqa: D102
        if not self.reference:
            raise PolicyError("EGP needs the outputs to aim at; give EGP(reference=result.sequences).")
        if setting.temperature > 0:
            raise PolicyError(
                f"EGP waits until its reference is proposed, which sampling may never do; temperature is "
                f"{setting.temperature}, set it to 0."
            )
        return self

    def begin(self, view: View) -> Replay:  # noqa: D102
        budget = view.budget.tolist()
        names = range(len(budget)) if view.name is None else view.name.tolist()
        reference = torch.full_like(view.tokens, view.mask_id)
        for row, (name, cells) in enumerate(zip(names, budget, strict=True)):
            if name >= len(self.reference):
                raise PolicyError(f"EGP has {len(self.reference)} reference rows, but none for prompt {name}.")
            tokens = self.reference[name]
            if len(tokens) != cells:
                raise PolicyError(
                    f"EGP's reference {name} has {len(tokens)} tokens, but {cells} cells are to be decoded; "
                    "decode it with the same max_new_tokens and without EoTP."
                )
            reference[row, :cells] = torch.tensor(tokens, device=reference.device)
        return Replay(reference, torch.full_like(reference, -1))

    def decide(self, view: View, prediction: Prediction, memory: Replay) -> tuple[Decision, Memory]:  # noqa: D102
        unknown = memory.reference == view.mask_id
        aim = torch.where(unknown, prediction.token, memory.reference)
        same = (prediction.token == memory.previous) | ~view.in_block
        # A forward of a block's first cell alone (step -1) comes once and says all that is ever said of that cell.
        stuck = same.all(-1) & (view.block_step > 0) | (view.block_step < 0)
        right = prediction.open & (prediction.token == aim)
        write = torch.where(stuck[:, None], prediction.open, right)
        decision = Decision(write, aim, accepted=right, hold=~write.any(-1))
        return decision, Replay(memory.reference, prediction.token)
