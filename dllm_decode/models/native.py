"""A native transformers model with its tokenizer and special ids, as the sampler sees it."""

from __future__ import annotations

import torch
from torch import Tensor

from dllm_decode.interface.cache import KVCache
from dllm_decode.interface.inputs import ForwardInput
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.interface.text import TextCodec
from dllm_decode.models.layers import BidirectionalLM


class NativeModel(DenoisingModel):
    """LLaDA or Dream, ready to decode: eval mode, no gradients.

    Attributes:
        module: the transformers model.
        capture: whether block steps are recorded as CUDA graphs (where there is CUDA).
    """

    supports_cache = True
    supports_branches = True

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
    ) -> None:
        """Wrap a model; `pad_id` None = the first eos id, else the mask id."""
        self.module = module.eval()
        self.module.attention = attention
        self.mask_id, self.eos_ids = mask_id, eos_ids
        self.pad_id = pad_id if pad_id is not None else (*eos_ids, mask_id)[0]
        self.tokenizer, self.name = tokenizer, name or module.config.model_type
        self.shift = module.shift
        self.confidence = module.confidence
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

    def new_cache(self, rows: int, slots: int, data: Tensor | None = None) -> KVCache:
        """A cache of the model's shape, dtype and device.

        Raises:
            CacheError: memory does not suffice.
        """
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
