"""dllm-decode: parallel decoding of masked-diffusion language models (LLaDA, Dream), one loop for every policy.

Everything a user needs is importable from here; names are resolved on first use, so that
``import dllm_decode`` and ``dllm-decode --help`` stay fast (no torch import).
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

__version__ = "0.1.0"


def _check_floors(names: tuple[str, ...] = ("filters", "samplers")) -> None:
    """Refuse to run on somebody else's top-level ``filters`` or ``samplers``: their names are generic."""
    home = Path(__file__).resolve().parent.parent
    for name in names:
        spec = importlib.util.find_spec(name)
        found = Path(spec.origin).resolve().parent if spec is not None and spec.origin else None
        if found != home / name:
            raise ImportError(
                f"dllm_decode needs its own package '{name}' beside it in {home}, but Python finds "
                f"{found if found else 'none'}; remove or rename that one, or put {home} first on sys.path."
            )


_check_floors()

#: public name -> module that defines it
_EXPORTS: dict[str, str] = {
    **dict.fromkeys(("DiffusionSampler",), "dllm_decode.engine.sampler"),
    **dict.fromkeys(("GenerationConfig",), "dllm_decode.config"),
    **dict.fromkeys(("GenerationResult",), "dllm_decode.engine.result"),
    **dict.fromkeys(("StepEvent",), "dllm_decode.engine.events"),
    **dict.fromkeys(("Trace", "TraceStep"), "dllm_decode.engine.trace"),
    **dict.fromkeys(("load_model",), "dllm_decode.engine.load"),
    **dict.fromkeys(("CallableModel", "NativeModel", "DenoisingModel"), "dllm_decode.models"),
    **dict.fromkeys(("LLaDA", "LLaDAConfig", "Dream", "DreamConfig"), "dllm_decode.models"),
    **dict.fromkeys(("DllmError",), "dllm_decode.errors"),
    **dict.fromkeys(
        (
            "Composition",
            "Decision",
            "Policy",
            "Prediction",
            "Query",
            "Scope",
            "View",
            "commit",
            "divergence",
            "parse_policy",
        ),
        "samplers",
    ),
    **dict.fromkeys(("LocalLeap", "AdaBlock", "Learn2PD", "EoTP", "EGP", "volatility_band"), "samplers"),
    **dict.fromkeys(("CCD", "CCDDS", "SchED", "Prophet", "FreeDave", "FreeDavePlus"), "samplers"),
    **dict.fromkeys(
        ("Credit", "EntropyThreshold", "Hierarchy", "Klass", "PcSampler", "Saber", "TokenTable"), "samplers"
    ),
    **dict.fromkeys(("Wino", "Lopa", "Dawn", "Daedal"), "samplers"),
    **dict.fromkeys(("FilterBank", "LearnedFilter"), "filters"),
    **dict.fromkeys(("train_filter",), "dllm_decode.filter_training.train"),
    **dict.fromkeys(("BlockQuota", "JointThreshold"), "samplers"),
    **dict.fromkeys(("TopK", "Threshold", "Factor", "Frechet", "EntropyBound", "EosStop", "DeferEos"), "samplers"),
}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module 'dllm_decode' has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted(__all__)
