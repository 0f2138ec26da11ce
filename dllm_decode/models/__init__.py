"""Native masked-diffusion models; importing this package makes transformers' Auto classes know them."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

from dllm_decode.models.base import DenoisingModel, ForwardInput
from dllm_decode.models.dream import Dream, DreamConfig
from dllm_decode.models.layers import BidirectionalLM
from dllm_decode.models.llada import LLaDA, LLaDAConfig

FAMILIES: dict[str, type[BidirectionalLM]] = {"llada": LLaDA, "Dream": Dream}

for _name, _model in FAMILIES.items():
    AutoConfig.register(_name, _model.config_class, exist_ok=True)
    for _auto in (AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM):
        _auto.register(_model.config_class, _model, exist_ok=True)

__all__ = ["FAMILIES", "DenoisingModel", "Dream", "DreamConfig", "ForwardInput", "LLaDA", "LLaDAConfig"]
