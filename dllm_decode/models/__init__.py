"""Native masked-diffusion models; importing this package makes transformers' Auto classes know them."""

import dllm_decode.models.remarks  # noqa: F401, I001 (before transformers, which imports torchao)
from dllm_decode.interface.inputs import ForwardInput
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.interface.text import TextCodec
from dllm_decode.models.callable import CallableModel
from dllm_decode.models.dream import Dream, DreamConfig
from dllm_decode.models.families import FAMILIES
from dllm_decode.models.llada import LLaDA, LLaDAConfig
from dllm_decode.models.loading import inspect_config, inspect_model, load_model
from dllm_decode.models.native import NativeModel

__all__ = [
    "FAMILIES",
    "CallableModel",
    "DenoisingModel",
    "Dream",
    "DreamConfig",
    "ForwardInput",
    "LLaDA",
    "LLaDAConfig",
    "NativeModel",
    "TextCodec",
    "inspect_config",
    "inspect_model",
    "load_model",
]
