"""DiffusionSampler: prompts of every kind in, results out, nothing shared between calls."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from dllm_decode import CallableModel, DiffusionSampler, GenerationConfig
from dllm_decode.models import TextCodec
from samplers import EosStop, Setting, Threshold, TopK
from tests.toys import EOS, MASK, VOCAB, decode, tiny

WORDS = {**{f"w{i}": i for i in range(EOS)}, "<end>": EOS, "<mask>": MASK}


@lru_cache
def codec(chat: bool = False) -> TextCodec:
    """Words w0 to w21, with a chat template that puts w20 before and w21 behind a message."""
    tokenizer = Tokenizer(WordLevel(WORDS, unk_token="w0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", mask_token="<mask>")
    return TextCodec(fast, "{% for m in messages %}w20 {{ m.content }} {% endfor %}w21" if chat else None)


def speaker(chat: bool = False, **settings: Any) -> CallableModel:
    """A model that answers w3 w4 <end> w5 ... and knows words."""

    def fn(ids: Tensor) -> Tensor:
        logits = torch.zeros(*ids.shape, VOCAB)
        begun = ids.shape[1] - 5
        for cell, token in enumerate((3, 4, EOS, 5, 6)):
            logits[:, begun + cell, token] = 9.0 - cell
        return logits

    fields = {"mask_id": MASK, "eos_ids": (EOS,), "vocab_size": VOCAB, "tokenizer": codec(chat), "name": "speaker"}
    return CallableModel(fn, **{**fields, **settings})


def test_text_in_text_out() -> None:
    sampler = DiffusionSampler(speaker(), "topk:k=1", config=GenerationConfig(max_new_tokens=5))
    one = sampler.generate("w1 w2")
    assert one.texts == ["w3 w4"] and one.sequences == [[3, 4, EOS, EOS, EOS]]
    assert one.trace[0].prompt == [1, 2]
    many = sampler.generate(["w1 w2", "w7", ""])
    assert many.texts == ["w3 w4"] * 3
    assert [trace.prompt for trace in many.trace] == [[1, 2], [7], []]


def test_chat_is_used_if_there_is_a_template() -> None:
    sampler = DiffusionSampler(speaker(chat=True), "topk:k=1", config=GenerationConfig(max_new_tokens=5))
    assert sampler.generate("w1").trace[0].prompt == [20, 1, 21]
    assert sampler.generate("w1", chat=False).trace[0].prompt == [1]
    talk = [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}]
    assert sampler.generate(talk).trace[0].prompt == [20, 1, 20, 2, 21]
    assert [t.prompt for t in sampler.generate([talk, talk[:1]]).trace] == [[20, 1, 20, 2, 21], [20, 1, 21]]


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        ((1, 2), [[1, 2]]),
        (((1,), (2, 3)), [[1], [2, 3]]),
        (torch.tensor([1, 2]), [[1, 2]]),
        (torch.tensor([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array([5, 6]), [[5, 6]]),
        ([torch.tensor([1, 2]), torch.tensor([3])], [[1, 2], [3]]),
        ([np.array([3]), np.array([5, 6])], [[3], [5, 6]]),
        ([torch.tensor(1), np.int64(2)], [[1, 2]]),
    ],
)
def test_ids_in_every_wrapping(prompts: Any, expected: list[list[int]]) -> None:
    result = decode(tiny("llada"), "threshold:threshold=0.01", prompts, max_new_tokens=2)
    assert [trace.prompt for trace in result.trace] == expected
    assert result.texts is None


def test_settings_of_the_sampler_and_of_the_call() -> None:
    config = GenerationConfig(max_new_tokens=6, block_length=3, early_stop=False)
    sampler = DiffusionSampler(tiny("llada"), "topk:k=1", "dual", config)
    assert sampler.generate([1, 2]).nfe == [6]
    assert sampler.generate([1, 2], max_new_tokens=2).nfe == [2]
    assert sampler.generate([1, 2]).nfe == [6] and sampler.config is config
    meta = sampler.generate([1, 2], seed=4).trace[0].meta
    assert meta["config"]["seed"] == 4 and meta["cache"] == "dual" and meta["policy"] == "topk"
    assert meta["model"] == "tiny-llada-0" and meta["row"] == 0
    assert repr(sampler) == "DiffusionSampler('tiny-llada-0', policy='topk', cache='dual')"


def test_defaults() -> None:
    sampler = DiffusionSampler(tiny("llada"))
    assert sampler.policy.parts == (Threshold(),) and sampler.cache == "none" and sampler.config == GenerationConfig()


def test_early_stop_is_a_part_that_is_added_once() -> None:
    model, config = tiny("llada"), GenerationConfig()

    def parts(policy: Any, config: GenerationConfig) -> tuple[Any, ...]:
        return DiffusionSampler(model, policy)._bound(config).parts

    assert parts(TopK(), config) == (TopK(), EosStop())
    assert parts(TopK(), config.replace(early_stop=False)) == (TopK(),)
    assert parts(TopK() | EosStop("block"), config) == (TopK(), EosStop("block"))
    endless = CallableModel(lambda ids: torch.zeros(*ids.shape, 3), mask_id=2, vocab_size=3)
    assert DiffusionSampler(endless, TopK())._bound(config).parts == (TopK(),)


def test_a_bound_policy_is_kept_for_all_seeds_and_for_no_other_setting() -> None:
    sampler = DiffusionSampler(tiny("llada"), "eotp+threshold")
    one = sampler._bound(sampler.config)
    assert sampler._bound(sampler.config.replace(seed=7)) is one
    for changes in ({"max_new_tokens": 9}, {"temperature": 0.5}, {"early_stop": False}, {"suppress_tokens": [1]}):
        other = sampler._bound(sampler.config.replace(**changes))
        assert other is not one and other is sampler._bound(sampler.config.replace(**changes, seed=7))
    many = [sampler._bound(sampler.config.replace(max_new_tokens=n)) for n in range(1, 100)]
    assert len(set(map(id, many))) == 99 and len(sampler._told) <= 64


def test_parts_are_bound_with_their_surroundings() -> None:
    heard: list[Setting] = []

    @dataclasses.dataclass(frozen=True)
    class Listens(TopK):
        def bind(self, setting: Setting) -> TopK:
            heard.append(setting)
            return self

    DiffusionSampler(tiny("dream"), Listens(), "prefix", GenerationConfig(block_length=7, max_new_tokens=9))
    (setting,) = heard
    assert (setting.mask_id, setting.eos_ids, setting.vocab_size) == (MASK, (EOS,), VOCAB)
    assert (setting.cache, setting.shift, setting.block_length, setting.max_new_tokens) == ("prefix", 1, 7, 9)
    assert not setting.shadows and setting.model_name == "tiny-dream-0" and setting.token_ids is None
    heard.clear()
    DiffusionSampler(speaker(), Listens()).generate([1], infill=True, max_new_tokens=5, temperature=0.5)
    assert heard[-1].max_new_tokens is None and heard[-1].temperature == 0.5 and not heard[-1].shadows
    assert heard[-1].token_ids is not None and heard[-1].token_ids("w4 w5") == [4, 5]


def test_the_same_call_gives_the_same_result() -> None:
    sampler = DiffusionSampler(tiny("dream"), "topk:k=2,score=random", "prefix")
    setting: dict[str, Any] = {"max_new_tokens": 8, "block_length": 4, "temperature": 1.0, "early_stop": False}
    first, second = (sampler.generate([[1, 2], [3]], **setting) for _ in range(2))
    assert first.sequences == second.sequences
    assert sampler.generate([[1, 2], [3]], seed=1, **setting).sequences != first.sequences
    rows = sampler.generate([[1, 2]] * 3, **setting).sequences
    assert len({tuple(row) for row in rows}) == 3  # one prompt three times: three draws


def test_check_finds_errors_without_a_forward() -> None:
    def fn(ids: Tensor) -> Tensor:
        raise AssertionError("a forward")

    sampler = DiffusionSampler(CallableModel(fn, mask_id=MASK, vocab_size=VOCAB), "topk")
    sampler.check([[1, 2], [3]], max_new_tokens=4)
    with pytest.raises(ValueError, match="prompt 1 holds the mask token 23 at position 1; pass infill=True"):
        sampler.check([[1, 2], [3, MASK]])


def test_temperature_zero_ignores_the_seed() -> None:
    runs = [decode(tiny("llada"), "topk:k=1", [[1, 2]], max_new_tokens=6, seed=seed).sequences for seed in (0, 9)]
    assert runs[0] == runs[1]
