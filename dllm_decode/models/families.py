"""The native families by model_type, made known to transformers' Auto classes."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

from dllm_decode.models.dream import Dream
from dllm_decode.models.layers import BidirectionalLM
from dllm_decode.models.llada import LLaDA

FAMILIES: dict[str, type[BidirectionalLM]] = {"llada": LLaDA, "Dream": Dream}

for _name, _model in FAMILIES.items():
    AutoConfig.register(_name, _model.config_class, exist_ok=True)
    for _auto in (AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM):
        _auto.register(_model.config_class, _model, exist_ok=True)
