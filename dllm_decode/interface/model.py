"""What the engine asks of a model, and what it hands over: `ForwardInput` and `DenoisingModel`."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from dllm_decode.errors import DllmError
from dllm_decode.interface.cache import KVCache
from dllm_decode.interface.inputs import ForwardInput
from dllm_decode.interface.text import TextCodec


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
        family: "llada" or "dream": whose published defaults apply; "" = nobody's.
        max_length: longest row the model was made for, or None.
        confidence: what the family's own sampler reads confidences from: "clean" = the softmax of the plain logits
            (LLaDA), "filtered" = after temperature, top-p and top-k (Dream).
        delimiter_ids: ids that end a line, in the list published for the family; empty = just the tokenizer's newline.
        capture: whether block steps may be recorded as CUDA graphs (where there is CUDA).
        attention_block: cells of an attention block when the model is block-causal: a cell sees its own block and
            those before it, counted from slot 0, prompt included. None = every cell sees all others.
        seeded: the first cell of a block is predicted by the forward of the block before (its last output, shift 1).
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
    family: str = ""
    max_length: int | None
    confidence: str = "clean"
    delimiter_ids: tuple[int, ...] = ()
    capture: bool = False
    attention_block: int | None = None
    seeded: bool = False
    supports_cache: bool
    supports_branches: bool
    shows_attention: bool = False

    @property
    def can_shadow(self) -> bool:
        """Whether shadow cells work: a twin must hide its original, and be scored where it stands (no shift)."""
        return self.supports_branches and not self.shift

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

    def new_cache(self, rows: int, slots: int, data: Tensor | None = None, kept: str | None = None) -> KVCache:
        """An empty cache for `rows` rows of up to `slots` positions.

        Args:
            rows: rows.
            slots: positions of each.
            data: memory of an earlier cache of the same sizes to take over, or None.
            kept: "int8" or "fp8", see `GenerationConfig.cache_dtype`; without `data`.

        Raises:
            DllmError: the model has no cache, or memory does not suffice.
        """
        raise DllmError(f"model {self.name!r} has no KV cache; use cache='none'.")

    def fingerprint(self) -> object:
        """Something that compares equal as long as the weights stay where they are; read by what records steps."""
        return None
