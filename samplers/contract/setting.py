"""What a part is told of its surroundings, how it refuses them, and which cells it wants predicted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Flag


class PolicyError(ValueError):
    """A policy was given wrong parameters, wrong company, or broke the contract; the message is one sentence."""


@dataclass(frozen=True)
class Setting:
    """What a part may know of its surroundings when it is bound, once, before any forward.

    Attributes:
        mask_id: id of the mask token.
        eos_ids: ids that end a text.
        vocab_size: number of token ids.
        cache: ``"none"``, ``"prefix"``, ``"dual"`` or ``"block"``.
        shift: 1 if the model's output at slot i scores slot i+1 (Dream), else 0.
        block_length: cells per block when no part says otherwise; ``None`` = the whole canvas.
        max_new_tokens: the length budget of a row; ``None`` when each prompt brings its own (infilling).
        temperature: sampling temperature; 0 is greedy.
        model_name: the model's name, the key of learned filters.
        token_ids: text -> token ids, or ``None`` without a tokenizer.
        delimiter_ids: ids of the tokens that end a line in this tokenizer (AdaBlock's default delimiters).
        shadows: whether model and cache can forward shadow cells.
        attention: whether this model and cache can show their attention.
        family: ``"llada"``, ``"dream"``, or ``""`` for any other model: whose published defaults apply.
        measures: name of the part beside this one that sets each block's length on a plain opening forward, if any.
        row_costs: n -> what a forward with 1, 2, ... n canvases per row costs relative to one, measured when first
            asked; ``None`` = nobody can say.
        horizon: cells of an attention block when the model is block-causal: no forward predicts a cell behind the open
            block. ``None`` = every forward may cover the row.
    """

    mask_id: int
    eos_ids: tuple[int, ...] = ()
    vocab_size: int = 0
    cache: str = "none"
    shift: int = 0
    block_length: int | None = None
    max_new_tokens: int | None = None
    temperature: float = 0.0
    model_name: str = ""
    token_ids: Callable[[str], list[int]] | None = None
    delimiter_ids: tuple[int, ...] = ()
    shadows: bool = True
    attention: bool = True
    family: str = ""
    measures: str | None = None
    row_costs: Callable[[int], tuple[float, ...]] | None = None
    horizon: int | None = None


class Scope(Flag):
    """Which cells a forward predicts; they add up with ``|``, and ``Scope.BLOCK in scope`` asks for a part.

    ``OPEN``: the masks that may be committed now. ``BLOCK``: also the block's committed cells. ``REST``: also the
    masks behind the block. ``ALL``: every cell of the row.
    """

    OPEN = 1
    BLOCK = 2 | OPEN
    REST = 4 | OPEN
    ALL = 8 | BLOCK | REST
