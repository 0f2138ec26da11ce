"""The bundled model end to end: the dual cache against none, on long prompts."""

from __future__ import annotations

import time

from dllm_decode.config import GenerationConfig
from dllm_decode.models import load_model
from dllm_decode.sampler import DiffusionSampler
from dllm_decode.tasks import few_shot, samples, score
from samplers import TopK

CELLS, LEAST_PROMPT = 96, 150


def bundled_rows(count: int) -> dict[str, float]:
    """Decode ``lines`` samples behind solved examples, one cell per forward, whole canvas, with and without cache.

    Returns:
        Canvas tokens per second of each, their ratio (dual over none), accuracies (per cent) and the difference.
    """
    model = load_model("tiny")
    assert model.tokenizer is not None
    chosen = samples("lines", "test", count, seed=7)
    prompts = [model.tokenizer.encode_prompt(few_shot(sample, min_tokens=LEAST_PROMPT)) for sample in chosen]
    out: dict[str, float] = {"prompt tokens, least": float(min(map(len, prompts)))}
    for cache in ("none", "dual"):
        config = GenerationConfig(max_new_tokens=CELLS, block_length=16, early_stop=False)
        sampler = DiffusionSampler(model, TopK(k=1), cache=cache, config=config)
        sampler.generate(prompts[0])  # warm-up
        began = time.perf_counter()
        result = sampler.generate(prompts)
        seconds = time.perf_counter() - began
        assert result.texts is not None
        right = sum(score(sample, text) for sample, text in zip(chosen, result.texts, strict=True))
        out[f"{cache} tokens/s"] = sum(result.canvas_tokens) / seconds
        out[f"{cache} accuracy"] = 100 * right / count
    out["ratio"] = out["dual tokens/s"] / out["none tokens/s"]
    out["points"] = out["dual accuracy"] - out["none accuracy"]
    return out
