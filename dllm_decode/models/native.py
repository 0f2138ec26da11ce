"""A native transformers model with its tokenizer and special ids, as the sampler sees it."""

from __future__ import annotations

import torch
from torch import Tensor

from dllm_decode.errors import DllmError
from dllm_decode.interface.cache import KVCache
from dllm_decode.interface.inputs import ForwardInput
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.interface.narrow_cache import NarrowCache
from dllm_decode.interface.text import TextCodec
from dllm_decode.models.decoder import BidirectionalLM


class NativeModel(DenoisingModel):
    """A native model, ready to decode: eval mode, no gradients.

    Attributes:
        module: the transformers model.
        capture: whether block steps are recorded as CUDA graphs (where there is CUDA).
    """

    supports_cache = True
    supports_branches = True
    shows_attention = True

    def __init__(
        self,
        module: BidirectionalLM,
        *,
        mask_id: int,
        eos_ids: tuple[int, ...] = (),
        pad_id: int | None = None,
        tokenizer: TextCodec | None = None,
        name: str = "",
        attention: str = "auto",
        attention_block: int | None = None,
    ) -> None:
        """Wrap a model.

        `pad_id` None = the first eos id, else the mask id; `attention_block` None = the config's.

        Raises:
            DllmError: an attention block for a model that has none.
        """
        own = module.config.attention_block
        if attention_block is not None and (own is None or attention_block < 1):
            raise DllmError(
                f"attention_block is {attention_block}, but "
                + ("every cell of this model sees all others; leave it out." if own is None else "it must be above 0.")
            )
        self.module = module.eval()
        self.module.attention = attention
        self.mask_id, self.eos_ids = mask_id, eos_ids
        self.pad_id = pad_id if pad_id is not None else (*eos_ids, mask_id)[0]
        self.tokenizer, self.name = tokenizer, name or module.config.model_type
        self.shift, self.seeded = module.shift, module.seeded
        self.attention_block = own if attention_block is None else attention_block
        self.confidence = module.confidence
        self.family = module.family
        self.delimiter_ids = module.delimiter_ids
        self.vocab_size = module.config.embedding_rows
        self.max_length = module.config.max_position_embeddings
        self.capture = True

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where the weights lie."""
        return self.module.device

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """Type of the weights and of the logits."""
        return self.module.dtype

    @torch.no_grad()
    def hidden(self, inp: ForwardInput, cells: Tensor) -> Tensor:
        """The final norm's output `[M, width]` at flat cells `[M]`."""
        return self.module.hidden(inp, cells)

    @torch.no_grad()
    def head(self, hidden: Tensor) -> Tensor:
        """`[M, width]` -> logits `[M, V]`."""
        return self.module.head(hidden)

    def new_cache(self, rows: int, slots: int, data: Tensor | None = None, kept: str | None = None) -> KVCache:
        """A cache of the model's shape, dtype (`kept` in fewer bits) and device.

        Raises:
            CacheError: memory does not suffice.
        """
        if kept is not None:
            sizes = self.cache_shape
            return NarrowCache(kept, rows=rows, slots=slots, dtype=self.dtype, device=self.device, **sizes)
        return KVCache(rows=rows, slots=slots, dtype=self.dtype, device=self.device, data=data, **self.cache_shape)

    def fingerprint(self) -> object:
        """Where the weights lie, and how attention is computed."""
        return (self.module.attention, *(p.data_ptr() for p in self.module.parameters()))

    def cache_bytes(self, rows: int, slots: int) -> int:
        """Bytes that `new_cache` would take."""
        return KVCache.bytes(rows=rows, slots=slots, dtype=self.dtype, **self.cache_shape)

    @property
    def cache_shape(self) -> dict[str, int]:
        """The sizes of the KV cache that the model fixes."""
        config = self.module.config
        return {
            "layers": config.num_hidden_layers,
            "kv_heads": config.num_key_value_heads,
            "head_dim": self.module.head_dim,
        }
