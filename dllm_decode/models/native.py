"""A native transformers model with its tokenizer and special ids, as the sampler sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dllm_decode.cache import KVCache
from dllm_decode.models.base import DenoisingModel, ForwardInput
from dllm_decode.models.layers import BidirectionalLM
from dllm_decode.models.tokenizers import TextCodec

if TYPE_CHECKING:
    from dllm_decode.graphs import StepGraphs


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
        self._graphs: StepGraphs | None = None

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

    def new_cache(self, rows: int, slots: int) -> KVCache:
        """A cache of the model's shape, dtype and device.

        Raises:
            CacheError: memory does not suffice.
        """

        def make(rows: int, slots: int, data: Tensor | None) -> KVCache:
            return KVCache(rows=rows, slots=slots, dtype=self.dtype, device=self.device, data=data, **self.cache_shape)

        graphs = self.step_graphs()
        return make(rows, slots, None) if graphs is None else graphs.lend(rows, slots, make)

    def step_graphs(self) -> StepGraphs | None:
        """Recorded block steps: on a CUDA device, unless `capture` is off; forgotten when the weights have moved."""
        if self._graphs is None and self.capture and self.device.type == "cuda":
            from dllm_decode.graphs import CudaRecorder, StepGraphs

            self._graphs = StepGraphs(self, CudaRecorder(self.device))
        if self._graphs is None or not self.capture:
            return None
        self._graphs.refresh((self.module.attention, *(p.data_ptr() for p in self.module.parameters())))
        return self._graphs

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
