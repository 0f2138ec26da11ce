"""Small things that many tests decode: random models, hand-made views and predictions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from dllm_decode import DiffusionSampler, GenerationConfig, GenerationResult
from dllm_decode.models import Dream, DreamConfig, LLaDA, LLaDAConfig, NativeModel
from samplers import Decision, Policy, Prediction, View

VOCAB, MASK, EOS = 24, 23, 22
FAMILIES = ("llada", "dream")


@lru_cache
def tiny(family: str, seed: int = 0) -> NativeModel:
    """A random model of two layers, sure of some cells and unsure of others."""
    torch.manual_seed(seed)
    module: LLaDA | Dream
    if family == "llada":
        module = LLaDA(
            LLaDAConfig(
                d_model=16, n_layers=2, n_heads=2, n_kv_heads=2, mlp_hidden_size=24, vocab_size=VOCAB, init_std=0.5
            )
        )
    else:
        module = Dream(
            DreamConfig(
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                intermediate_size=24,
                vocab_size=VOCAB,
                initializer_range=0.5,
                pad_token_id=EOS,
            )
        )
    return NativeModel(module, mask_id=MASK, eos_ids=(EOS,), name=f"tiny-{family}-{seed}")


class Ending(NativeModel):
    """The same model, surer of the end of the text by some logits."""

    def __init__(self, like: NativeModel, bias: float) -> None:
        super().__init__(like.module, mask_id=like.mask_id, eos_ids=like.eos_ids, name=like.name)
        self.bias = bias

    def head(self, hidden: Tensor) -> Tensor:
        """Fp32 ``[M, V]``: the logits."""
        logits = super().head(hidden).float().clone()
        logits[:, self.eos_ids[0]] += self.bias
        return logits


def decode(
    model: Any, policy: Policy | str, prompts: Any, cache: str = "none", on_step: Any = None, **settings: Any
) -> GenerationResult:
    """Decode, without the early stop unless asked for."""
    sampler = DiffusionSampler(model, policy, cache, GenerationConfig(**{"early_stop": False, **settings}))
    return sampler.generate(prompts, on_step=on_step)


def commits(result: GenerationResult, row: int = 0) -> list[list[int]]:
    """Cells written by each forward, in the order in which they were decided."""
    return [list(step.cells) for step in result.trace[row].steps]


def scene(
    confidence: Sequence[Sequence[float | None]],
    *,
    tokens: Sequence[Sequence[int]] | None = None,
    block: tuple[int, int] | None = None,
    block_step: int = 0,
    eos_ids: tuple[int, ...] = (EOS,),
    **extra: Sequence[Sequence[float]],
) -> tuple[View, Prediction]:
    """A view and a prediction from a table.

    Args:
        confidence: per cell; ``None`` = the cell is committed (to token 1, or what ``tokens`` says).
        tokens: proposals at masks, contents at committed cells; default 2 and 1.
        block: start and end of the block; default all cells.
        block_step: forwards before this one.
        eos_ids: ids that end a text.
        **extra: other per-cell quantities of the prediction (``entropy``, ``margin``, ...).
    """
    masked = torch.tensor([[c is not None for c in row] for row in confidence])
    sure = torch.tensor([[c if c is not None else 0.0 for c in row] for row in confidence])
    proposed = torch.where(masked, 2, 1) if tokens is None else torch.tensor(tokens)
    rows, width = masked.shape
    start, end = block or (0, width)

    def all_rows(value: int) -> torch.Tensor:
        return torch.full((rows,), value)

    view = View(
        tokens=torch.where(masked, MASK, proposed),
        masked=masked,
        valid=torch.ones_like(masked),
        start=all_rows(start),
        end=all_rows(end),
        length=all_rows(width),
        budget=all_rows(width),
        step=all_rows(block_step),
        block_step=all_rows(block_step),
        block_index=all_rows(0),
        mask_id=MASK,
        eos_ids=eos_ids,
        generators=tuple(torch.Generator().manual_seed(row) for row in range(rows)),
        vocab_size=VOCAB,
    )
    quantities = {name: torch.tensor(values) for name, values in extra.items()}
    prediction = Prediction(proposed.masked_fill(~masked, 0), sure, masked, view.open, **quantities)  # type: ignore[arg-type]
    return view, prediction


def chosen(policy: Policy, view: View, prediction: Prediction) -> list[list[int]]:
    """Cells the policy writes on its own, per row, in the order it decided them."""
    decision, _ = policy.decide(view, prediction, policy.begin(view))
    return in_order(decision)


def in_order(decision: Decision) -> list[list[int]]:
    """Written cells per row, in the order they were decided."""
    out = []
    for row in range(decision.write.shape[0]):
        cells = decision.write[row].nonzero()[:, 0].tolist()
        if decision.order is not None:
            order = decision.order[row].tolist()
            cells = sorted(cells, key=lambda cell: (order[cell], cell))
        out.append(cells)
    return out
