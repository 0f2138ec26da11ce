"""The bundled models: each knows its tasks, and the exact block cache gives the tokens of no cache."""

from __future__ import annotations

import pytest

from dllm_decode import DiffusionSampler, GenerationConfig, load_model
from dllm_decode.tasks import TASKS, samples, score


@pytest.mark.parametrize(("name", "cache", "block"), [("tiny", "dual", 16), ("tiny-block", "block", 8)])
def test_a_bundled_model_answers(name: str, cache: str, block: int) -> None:
    model = load_model(name)
    right = total = 0
    for task in ("copy", "sort", "kv_json", "chain", "word", "shuffle", "replace_random"):
        config = GenerationConfig(max_new_tokens=TASKS[task].max_new_tokens, block_length=block)
        drawn = samples(task, "test", 6, 3)
        result = DiffusionSampler(model, "threshold", cache, config).generate([sample.prompt for sample in drawn])
        assert result.texts is not None
        right += sum(score(sample, text) for sample, text in zip(drawn, result.texts, strict=True))
        total += len(drawn)
    assert right >= 0.9 * total


def test_the_long_model_answers_most_of_its_tasks() -> None:
    """Accuracy here is of a few problems; the card has that of 200."""
    model, config = load_model("tiny-long"), GenerationConfig(max_new_tokens=128, block_length=16)
    for task in ("columns", "story", "extract"):
        drawn = samples(task, "test", 6, 3)
        result = DiffusionSampler(model, "threshold", "dual", config).generate([sample.prompt for sample in drawn])
        assert result.texts is not None
        assert sum(score(sample, text) for sample, text in zip(drawn, result.texts, strict=True)) >= 3, task


@pytest.mark.parametrize("policy", ["topk:k=1", "threshold", "freedave:drafts=4", "localleap", "credit"])
def test_the_block_cache_is_exact(policy: str) -> None:
    model = load_model("tiny-block")
    assert model.attention_block == 8
    prompts = [sample.prompt for task in ("lines", "latin4", "add") for sample in samples(task, "test", 2, 5)]
    config = GenerationConfig(max_new_tokens=64, block_length=8)
    exact, plain = (DiffusionSampler(model, policy, cache, config).generate(prompts) for cache in ("block", "none"))
    assert exact.sequences == plain.sequences and exact.nfe == plain.nfe
    assert sum(exact.tokens_forwarded) < sum(plain.tokens_forwarded) / 2
