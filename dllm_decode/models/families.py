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
    if not isinstance(architectures, (list, tuple)) or not all(isinstance(name, str) for name in architectures):
        raise ConfigError(f"architectures is {architectures!r:.60} in config.json; it must be a list of names.")
    for name in architectures:
        if name in BY_ARCHITECTURE:
            return BY_ARCHITECTURE[name]
    if isinstance(kind, str) and (reason := REFUSED.get(kind.lower().replace("-", "_"))):
        raise ConfigError(f"{reason}; 'dllm-decode models' lists what loads.")
    return FAMILIES.get(str(kind))


#: What each word of the table of models means.
VERIFIED = {
    "runs": "logits and decoded runs of the reference code, token for token, on tiny weights",
    "names": "tensor names and shapes of a tiny checkpoint; computed by a family verified by runs",
    "bundled": "trained here, on the tasks of dllm_decode.tasks",
    "not verified": "built from the published config alone, against no reference",
    "refused": "known by name, not loaded",
}


@dataclass(frozen=True)
class Listed:
    """One line of the table of models.

    Attributes:
        name: of the checkpoints. ``family``: key of :data:`FAMILIES`, or "" when refused.
        sizes: published ones. ``attention``: "full", "causal" or cells of an attention block, "blocks of B".
        verified: a key of :data:`VERIFIED`. ``why``: it is refused.
    """

    name: str
    family: str
    sizes: str
    attention: str
    verified: str
    why: str = ""

    @property
    def caches(self) -> str:
        """Cache kinds, the default first."""
        return "" if not self.family else "block, none" if self.attention.startswith("block") else "none, prefix, dual"


LISTED = (
    Listed("tiny", "llada", "1.4 M", "full", "bundled"),
    Listed("tiny-long", "llada", "1.4 M", "full", "bundled"),
    Listed("tiny-block", "llada", "1.4 M", "blocks of 8", "bundled"),
    Listed("LLaDA Base, Instruct", "llada", "8 B", "full", "runs"),
    Listed("LLaDA-1.5", "llada", "8 B", "full", "names"),
    Listed("LLaDA-MoE Base, Instruct", "llada_moe", "7 B, 1 B active", "full", "runs"),
    Listed("Dream Base, Instruct", "Dream", "7 B", "full", "runs"),
    Listed("DiffuCoder, Dream-Coder", "Dream", "7 B", "full", "names"),
    Listed("dParallel, d3LLM (merged)", "llada, Dream", "7-8 B", "full", "names"),
    Listed("SDAR-Chat, TraDo", "sdar", "1.7, 4, 8 B", "blocks of 4 to 64", "runs"),
    Listed("SDAR-30B-A3B", "sdar_moe", "30 B, 3 B active", "blocks of 4", "not verified"),
    Listed("LLaDA2.0, 2.1 mini, flash", "llada2_moe", "16, 100 B", "blocks of 32", "runs"),
    Listed("Fast-dLLM v2", "Fast_dLLM_Qwen", "7 B", "blocks of 32, seeded", "runs"),
    Listed("LLaDA2.2", "", "mini, flash", "blocks", "refused", "its experts are chosen for whole blocks"),
    Listed("LLaDA2.0-Uni", "", "", "blocks", "refused", "image tokens"),
    Listed("Nemotron-Labs-Diffusion", "", "3, 8, 14 B", "causal store", "refused", "stores finished blocks causally"),
    Listed("DiffusionGemma", "", "", "full", "refused", "uniform noise instead of masks"),
    Listed("WeDLM", "", "", "causal", "refused", "another kind of engine"),
)
