"""Fast-dLLM v2 (arXiv 2509.26328): Dream's body, block-causal; a block's first token comes from the block before."""

from __future__ import annotations

from typing import ClassVar

from dllm_decode.models.dream import Dream, DreamConfig


class FastDLLMv2Config(DreamConfig):
    """config.json of Fast_dLLM_v2_7B."""

    model_type = "Fast_dLLM_Qwen"
    checkpoint_architectures = ("Fast_dLLM_QwenForCausalLM",)
    default_mask_id = 151665
    default_eos_ids = (151645,)

    rope_theta: float = 1000000.0
    bd_size: int = 32

    @property
    def attention_block(self) -> int:
        """`bd_size`."""
        return self.bd_size


class FastDLLMv2(Dream):
    """Fast-dLLM v2: its checkpoint's parameter names are Dream's."""

    config_class = FastDLLMv2Config
    confidence = "clean"
    family = ""
    delimiter_ids: ClassVar[tuple[int, ...]] = ()
    seeded = True
