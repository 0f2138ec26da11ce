"""Native masked-diffusion models."""

from dllm_decode.models.base import DenoisingModel, ForwardInput
from dllm_decode.models.llada import LLaDA, LLaDAConfig

__all__ = ["DenoisingModel", "ForwardInput", "LLaDA", "LLaDAConfig"]
