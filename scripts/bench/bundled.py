"""The bundled model end to end: the dual cache against none, on long prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.lab.metrics import paired, wilson
from dllm_decode.models import load_model
from dllm_decode.tasks import Sample, few_shot, samples, score
from samplers import TopK

CELLS, BLOCK, LEAST_PROMPT, SEED = 96, 16, 150, 7
ROWS = 16  #: decoded together; on a CPU wider batches are not faster
TIMED = 32  #: prompts whose whole canvas is decoded against the clock


def bundled_rows(count: int, model: DenoisingModel | None = None) -> dict[str, float | None]:
    """Decode ``lines`` samples behind solved examples, one cell per forward, with and without cache.

    Speed: the first ``TIMED`` prompts, the whole canvas of ``CELLS`` cells. Accuracy: all prompts; there a row stops
    behind its text, which changes no answer. Both caches take turns, batch by batch.

    Args:
        count: prompts.
        model: default the bundled one.

    Returns:
        Canvas tokens per second of each, their ratio (dual over none), accuracies in per cent with Wilson intervals,
        and the difference in points with its paired bootstrap interval and McNemar's p.
    """
    model = load_model("tiny") if model is None else model
    assert model.tokenizer is not None
    chosen = samples("lines", "test", count, SEED)
    prompts = [model.tokenizer.encode_prompt(few_shot(sample, min_tokens=LEAST_PROMPT)) for sample in chosen]
    caches = ("none", "dual")
    speed = dict(zip(caches, _speeds(model, prompts[:TIMED], caches), strict=True))
    none, dual = (_records(model, chosen, prompts, cache) for cache in caches)
    out: dict[str, float | None] = {"prompts": count, "prompt tokens, least": float(min(map(len, prompts)))}
    for cache, records in zip(caches, (none, dual), strict=True):
        right = sum(record["correct"] for record in records)
        out[f"{cache} tokens/s"] = speed[cache]
        out[f"{cache} accuracy"] = 100 * right / count
        out[f"{cache} accuracy, low"], out[f"{cache} accuracy, high"] = (100 * x for x in wilson(right, count))
    out["ratio"] = speed["dual"] / speed["none"]
    found = paired(dual, none)
    for name, field in (
        ("points", "difference"),
        ("points, low", "difference_low"),
        ("points, high", "difference_high"),
    ):
        out[name] = None if found[field] is None else 100 * found[field]
    return {**out, "gained": found["gained"], "lost": found["lost"], "mcnemar p": found["mcnemar_p"]}


def _speeds(model: DenoisingModel, prompts: Sequence[Sequence[int]], caches: Sequence[str]) -> list[float]:
    """Canvas tokens per second of each cache."""
    config = GenerationConfig(max_new_tokens=CELLS, block_length=BLOCK, early_stop=False)
    samplers = [DiffusionSampler(model, TopK(k=1), cache=cache, config=config) for cache in caches]
    for sampler in samplers:
        sampler.generate(prompts[:1])  # warm-up
    tokens, seconds = [0] * len(caches), [0.0] * len(caches)
    for first in range(0, len(prompts), ROWS):
        for at, sampler in enumerate(samplers):
            result = sampler.generate(prompts[first : first + ROWS])
            tokens[at] += sum(result.canvas_tokens)
            seconds[at] += result.seconds
    return [count / spent for count, spent in zip(tokens, seconds, strict=True)]


def _records(
    model: DenoisingModel, chosen: Sequence[Sample], prompts: Sequence[Sequence[int]], cache: str
) -> list[dict[str, Any]]:
    """Which prompts are answered right."""
    config = GenerationConfig(max_new_tokens=CELLS, block_length=BLOCK)
    sampler = DiffusionSampler(model, TopK(k=1), cache=cache, config=config)
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    records = {}
    for first in range(0, len(prompts), ROWS):
        rows = by_length[first : first + ROWS]
        result = sampler.generate([prompts[i] for i in rows])
        assert result.texts is not None
        for i, text in zip(rows, result.texts, strict=True):
            right = int(score(chosen[i], text))
            records[i] = {"task": "lines", "seed": SEED, "sample": i, "correct": right}
    return [records[i] for i in range(len(prompts))]
