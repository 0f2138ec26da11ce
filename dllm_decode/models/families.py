"""The native families, which one a config.json belongs to, and how each was verified.

Importing this module makes them known to transformers' Auto classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

from dllm_decode.errors import ConfigError
from dllm_decode.models.decoder import BidirectionalLM
from dllm_decode.models.dream import Dream
from dllm_decode.models.fast_dllm_v2 import FastDLLMv2
from dllm_decode.models.llada import LLaDA
from dllm_decode.models.llada2 import LLaDA2
from dllm_decode.models.llada_moe import LLaDAMoE
from dllm_decode.models.sdar import SDAR, SDARMoE

#: By the name in config.json: the model_type, except where two families share one.
FAMILIES: dict[str, type[BidirectionalLM]] = {
    "llada": LLaDA,
    "Dream": Dream,
    "sdar": SDAR,
    "sdar_moe": SDARMoE,
    "llada2_moe": LLaDA2,
    "Fast_dLLM_Qwen": FastDLLMv2,
    "llada_moe": LLaDAMoE,
}
#: What has its own architecture under another family's model_type.
BY_ARCHITECTURE = {"LLaDAMoEModelLM": LLaDAMoE, "SDARMoeForCausalLM": SDARMoE}
#: Known by name, and why they are not loaded.
REFUSED = {
    "nemotron_labs_diffusion": "Nemotron-Labs-Diffusion stores blocks by a causal forward, which is not built",
    "diffusion_gemma": "DiffusionGemma starts from uniform noise instead of masks, which needs a sampler of its own",
    "wedlm": "WeDLM reorders tokens under causal attention, which is another kind of engine",
}

for _name, _model in FAMILIES.items():
    if _name != "llada_moe":
        AutoConfig.register(_name, _model.config_class, exist_ok=True)
    for _auto in (AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM):
        _auto.register(_model.config_class, _model, exist_ok=True)


def family_of(fields: Mapping[str, Any]) -> type[BidirectionalLM] | None:
    """The family of a config.json, by its model_type and architectures; None = unknown.

    Raises:
        ConfigError: a model that is known not to work.
    """
    kind, architectures = fields.get("model_type"), fields.get("architectures") or ()
    for name in architectures:
        if name in BY_ARCHITECTURE:
            return BY_ARCHITECTURE[name]
    if isinstance(kind, str) and (reason := REFUSED.get(kind.lower().replace("-", "_"))):
        raise ConfigError(f"{reason}; 'dllm-decode models' lists what loads.")
    return FAMILIES.get(str(kind))


@dataclass(frozen=True)
class Listed:
    """One line of the table of models.

    Attributes:
        name: of the checkpoints. ``family``: key of :data:`FAMILIES`, or "" when refused.
        sizes: published ones. ``attention``: "full" or "block-causal, B cells". ``verified``: against what.
    """

    name: str
    family: str
    sizes: str
    attention: str
    verified: str

    @property
    def caches(self) -> str:
        """Cache kinds, the default first."""
        return "" if not self.family else "block, none" if self.attention.startswith("block") else "none, prefix, dual"


_RUNS = "logits and runs of the reference code, token for token (tiny weights)"
_NAMES = "tensor names and shapes of a tiny checkpoint; same class as "
LISTED = (
    Listed("tiny", "llada", "1.4 M", "full", "bundled, trained here"),
    Listed("LLaDA-8B Base, Instruct", "llada", "8 B", "full", _RUNS),
    Listed("LLaDA-1.5", "llada", "8 B", "full", _NAMES + "LLaDA"),
    Listed("LLaDA-MoE-7B-A1B Base, Instruct", "llada_moe", "7 B, 1 B active", "full", _RUNS),
    Listed("Dream-v0-7B Base, Instruct", "Dream", "7 B", "full", _RUNS),
    Listed("DiffuCoder-7B, Dream-Coder-v0-7B", "Dream", "7 B", "full", _NAMES + "Dream"),
    Listed("dParallel, d3LLM (merged weights)", "llada, Dream", "7-8 B", "full", _NAMES + "LLaDA or Dream"),
    Listed("SDAR-Chat, TraDo", "sdar", "1.7, 4, 8 B", "block-causal, 4 to 64 cells", _RUNS),
    Listed(
        "SDAR-30B-A3B", "sdar_moe", "30 B, 3 B active", "block-causal, 4 cells", "not verified against a reference"
    ),
    Listed("LLaDA2.0, LLaDA2.1 mini, flash", "llada2_moe", "16, 100 B", "block-causal, 32 cells", _RUNS),
    Listed("Fast-dLLM v2", "Fast_dLLM_Qwen", "7 B", "block-causal, 32 cells, seeded", _RUNS),
    Listed("LLaDA2.2", "", "mini, flash", "block-causal", "refused: its experts are chosen for whole blocks"),
    Listed("LLaDA2.0-Uni", "", "", "block-causal", "refused: image tokens"),
    Listed("Nemotron-Labs-Diffusion", "", "3, 8, 14 B", "causal store", "refused: causal forwards of finished blocks"),
    Listed("DiffusionGemma", "", "", "full", "refused: uniform noise instead of masks"),
    Listed("WeDLM", "", "", "causal", "refused: another kind of engine"),
)
