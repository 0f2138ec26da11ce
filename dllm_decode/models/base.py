"""What the engine asks of a model, and what it hands over: `ForwardInput` and `DenoisingModel`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dllm_decode.errors import DllmError

if TYPE_CHECKING:
    from dllm_decode.attention.known import Known
    from dllm_decode.cache import KVCache
    from dllm_decode.graphs import StepGraphs
    from dllm_decode.models.tokenizers import TextCodec


@dataclass(frozen=True)
class ForwardInput:
    """The tokens of one forward: R rows of up to Q tokens, right padded, each row with its own positions.

    Attributes:
        tokens: long `[R, Q]`.
        positions: long `[R, Q]`, absolute slot of each token in its row (the prompt starts at slot 0); 0 at padding.
        queries: long `[R]`, real tokens per row; columns from there on are padding: never seen as keys, output junk.
        lengths: long `[R]`, key slots visible per row, i.e. the row's current total length; without a cache equal to
            `queries` unless there are branches.
        branch: long `[R, Q]`, or None when every query sees everything. Branch -1 is shared context: seen by all, it
            sees only branch -1 (and the cache). A token of branch b >= 0 sees the shared context, minus the slots for
            which its own branch brings a token, and its own branch.
        cache: fresh keys and values are written to slot `positions[r, j]` of cache row `rows[r]`, then queries see
            slots `[0, lengths[r])`. Tokens of branches >= 0 are not written.
        rows: long `[R]`, cache row of each row; None = 0..R-1. Rows that write must differ; rows that hold only branch
            tokens may share one.
        known: what the caller knows of these tensors; None = they are looked at, which waits for the device.
    """

    tokens: Tensor
    positions: Tensor
    queries: Tensor
    lengths: Tensor
    branch: Tensor | None = None
    cache: KVCache | None = None
    rows: Tensor | None = None
    known: Known | None = None


class DenoisingModel(ABC):
    """Everything a sampler needs of a masked-diffusion model.

    Attributes:
        mask_id: the token id of a masked cell.
        eos_ids: ids that end an answer; may be empty.
        pad_id: id that fills unused tensor cells.
        shift: 0 when the output at slot i predicts slot i (LLaDA), 1 when it predicts slot i + 1 (Dream). The engine
            applies it.
        vocab_size: width V of the logits.
        device, dtype: of the computation.
        tokenizer: text in and out, or None.
        name: for people.
        max_length: longest row the model was made for, or None.
        confidence: what the family's own sampler reads confidences from: "clean" = the softmax of the plain logits
            (LLaDA), "filtered" = after temperature, top-p and top-k (Dream).
        delimiter_ids: ids that end a line, in the list published for the family; empty = just the tokenizer's newline.
        supports_cache, supports_branches: whether `ForwardInput.cache` and `.branch` may be set.
    """

    mask_id: int
    eos_ids: tuple[int, ...]
    pad_id: int
    shift: int
    vocab_size: int
    device: torch.device
    dtype: torch.dtype
    tokenizer: TextCodec | None
    name: str
    max_length: int | None
    confidence: str = "clean"
    delimiter_ids: tuple[int, ...] = ()
    supports_cache: bool
    supports_branches: bool

    @abstractmethod
    def hidden(self, inp: ForwardInput, cells: Tensor) -> Tensor:
        """Forward all tokens; return what `head` takes at some of them.

        Args:
            inp: the tokens.
            cells: long `[M]`, flat indices into `R * Q`.

        Returns:
            `[M, D]`, in the order of `cells`.
        """

    @abstractmethod
    def head(self, hidden: Tensor) -> Tensor:
        """`[M, D]` from `hidden` -> logits `[M, V]`."""

    def new_cache(self, rows: int, slots: int) -> KVCache:
        """An empty cache for `rows` rows of up to `slots` positions.

        Raises:
            DllmError: the model has no cache, or memory does not suffice.
        """
        raise DllmError(f"model {self.name!r} has no KV cache; use cache='none'.")

    def step_graphs(self) -> StepGraphs | None:
        """Recorded block steps of this model, or None when it has none; asked once per run."""
        return None
