"""Any function from token ids to logits as a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dllm_decode.errors import DllmError
from dllm_decode.interface.inputs import ForwardInput
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.interface.text import TextCodec


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


class CallableModel(DenoisingModel):
    """A function from token ids `[R, N]` to logits `[R, N, V]`; no cache, and no padding ever reaches the function."""

    supports_cache = False
    supports_branches = False

    def __init__(
        self,
        fn: Callable[[Tensor], Tensor],
        *,
        mask_id: int,
        shift: int = 0,
        eos_ids: Sequence[int] = (),
        pad_id: int | None = None,
        vocab_size: int | None = None,
        tokenizer: TextCodec | None = None,
        max_length: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        name: str = "callable",
    ) -> None:
        """Wrap `fn`.

        Args:
            fn: long `[R, N]` on `device` -> logits `[R, N, V]`; rows of one call have the same length.
            mask_id: id of a masked cell.
            shift: 1 when the logits at slot i predict slot i + 1.
            eos_ids: ids that end an answer.
            pad_id: id of unused cells; None = the first eos id, else the mask id.
            vocab_size: V; None = asked of `fn` with one masked token, when first needed.
            tokenizer: text in and out.
            max_length: longest row allowed.
            device: where `fn` wants its ids.
            dtype: what its logits are.
            name: for people.

        Raises:
            DllmError: `fn` is not callable, `shift` is not 0 or 1, or an id is outside the vocabulary.
        """
        if not callable(fn):
            raise DllmError(f"fn must be a function from ids [R, N] to logits [R, N, V], got {fn!r}.")
        if shift not in (0, 1):
            raise DllmError(f"shift must be 0 (output i predicts slot i) or 1 (slot i + 1), got {shift!r}.")
        if not _is_id(mask_id) or not (pad_id is None or _is_id(pad_id)):
            raise DllmError(f"mask_id is {mask_id!r} and pad_id {pad_id!r}; give token ids, whole numbers from 0 up.")
        if not isinstance(eos_ids, Sequence) or isinstance(eos_ids, str) or not all(map(_is_id, eos_ids)):
            raise DllmError(f"eos_ids is {eos_ids!r:.80}; give a list of token ids, such as (5,).")
        if vocab_size is not None and (not _is_id(vocab_size) or vocab_size < 2):
            raise DllmError(f"vocab_size is {vocab_size!r}; give a whole number from 2 up.")
        try:
            torch.device(device)
        except (RuntimeError, TypeError) as error:
            raise DllmError(f"device is {device!r:.80}; give cpu or cuda.") from error
        self.fn, self.mask_id, self.shift, self.eos_ids = fn, mask_id, shift, tuple(eos_ids)
        self.pad_id = pad_id if pad_id is not None else (*self.eos_ids, mask_id)[0]
        self.device, self.dtype, self.name = torch.device(device), dtype, name
        self.tokenizer, self.max_length, self._vocab_size = tokenizer, max_length, vocab_size
        if vocab_size is not None and not all(0 <= i < vocab_size for i in (mask_id, *self.eos_ids)):
            raise DllmError(
                f"mask_id {mask_id} and eos_ids {self.eos_ids} must be within the vocabulary, 0..{vocab_size - 1}."
            )

    @property
    def vocab_size(self) -> int:  # type: ignore[override]
        """Width V of the logits."""
        if self._vocab_size is None:
            try:
                width = self._call(torch.tensor([[self.mask_id]], device=self.device)).shape[-1]
            except IndexError as error:
                raise DllmError(
                    f"model {self.name!r} cannot read its mask token {self.mask_id} ({error}); give the right mask_id."
                ) from error
            if not all(i < width for i in (self.mask_id, *self.eos_ids)):
                raise DllmError(
                    f"mask_id {self.mask_id} and eos_ids {self.eos_ids} must be within the vocabulary, 0..{width - 1}."
                )
            self._vocab_size = width
        return self._vocab_size

    def _call(self, tokens: Tensor) -> Tensor:
        logits = self.fn(tokens)
        if not isinstance(logits, Tensor) or logits.shape[:2] != tokens.shape or logits.ndim != 3:
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise DllmError(
                f"model {self.name!r} got ids of shape {tuple(tokens.shape)} and returned {got}; it must return "
                f"logits of shape ({tokens.shape[0]}, {tokens.shape[1]}, vocabulary)."
            )
        return logits

    def hidden(self, inp: ForwardInput, cells: Tensor) -> Tensor:
        """Logits `[M, V]` at the cells; rows of equal length go through `fn` together."""
        width = inp.tokens.shape[1]
        row, column = cells // width, cells % width
        lengths = inp.queries.tolist()
        out: Tensor | None = None
        for length in sorted(set(lengths)):
            members = torch.tensor([r for r, n in enumerate(lengths) if n == length], device=inp.tokens.device)
            logits = self._call(inp.tokens[members, :length])
            if out is None:
                out = logits.new_zeros(len(cells), logits.shape[-1])
            local = torch.full((len(lengths),), -1, device=members.device)
            local[members] = torch.arange(len(members), device=members.device)
            wanted = (local[row] >= 0) & (column < length)
            out[wanted] = logits[local[row[wanted]], column[wanted]]
        assert out is not None
        return out

    def head(self, hidden: Tensor) -> Tensor:
        """The identity: `hidden` returns logits."""
        return hidden
