"""Stop strings: a row ends at the first of them, and neither it nor what is behind is in its text."""

from __future__ import annotations

import pytest

from dllm_decode import CallableModel, DiffusionSampler, GenerationConfig
from dllm_decode.config import GenerationConfigError
from dllm_decode.errors import DllmError

ASK = "reverse: a b c d e"


@pytest.mark.parametrize("policy", ["topk:k=1", "threshold", "adablock+localleap", "freedave:drafts=3"])
@pytest.mark.parametrize("cache", ["none", "dual"])
def test_the_text_is_cut_before_the_string(policy: str, cache: str) -> None:
    sampler = DiffusionSampler("tiny", policy, cache, GenerationConfig(max_new_tokens=16, block_length=8))
    whole = sampler.generate(ASK)
    assert whole.texts is not None and len(whole.texts[0]) > 4
    word = whole.texts[0][3:5]
    stopped = sampler.generate([ASK, "?"], stop=[word, "nowhere"])
    assert stopped.texts is not None and stopped.texts[0] == whole.texts[0].partition(word)[0]
    assert stopped.texts[1:] == sampler.generate("?").texts
    assert stopped.content_tokens[0] == stopped.until_eos_tokens[0] < whole.content_tokens[0]
    assert sampler.generate(ASK, stop="nowhere").sequences == whole.sequences


def test_the_row_ends() -> None:
    sampler = DiffusionSampler("tiny", "topk:k=1", config=GenerationConfig(max_new_tokens=32, block_length=1))
    whole = sampler.generate(ASK)
    assert whole.texts is not None
    stopped = sampler.generate(ASK, stop=(whole.texts[0].split()[1],))
    assert stopped.nfe[0] < whole.nfe[0] and len(stopped.sequences[0]) < 32


def test_behind_the_given_tokens_when_infilling() -> None:
    sampler = DiffusionSampler("tiny", "topk:k=1")
    prompt = "reverse: a b c<|mask|> c b a"
    (free,) = sampler.generate(prompt, infill=True, max_new_tokens=4, chat=False).texts or []
    (found,) = sampler.generate(prompt, infill=True, max_new_tokens=4, chat=False, stop="b").texts or []
    assert free.startswith(found) and found.endswith(" c b a"), "what was given is not cut, though it holds the string"


def test_what_is_no_stop_string() -> None:
    assert GenerationConfig(stop="x").stop == ("x",)
    assert GenerationConfig.from_json(GenerationConfig(stop=["x", "y"]).to_json()).stop == ("x", "y")
    for wrong in ("", ("",), (1,), 5, None):
        with pytest.raises(GenerationConfigError, match=r"stop is .*; give one or more texts, none empty\."):
            GenerationConfig(stop=wrong)  # type: ignore[arg-type]
    bare = CallableModel(lambda ids: ids, mask_id=3, vocab_size=5)
    with pytest.raises(DllmError, match="has no tokenizer, so stop="):
        DiffusionSampler(bare, config=GenerationConfig(stop=("x",)))


def test_a_token_must_be_left() -> None:
    bare = CallableModel(lambda ids: ids, mask_id=3, vocab_size=5, eos_ids=(4,))
    with pytest.raises(DllmError, match="leaves none to propose"):
        DiffusionSampler(bare, config=GenerationConfig(suppress_tokens=(0, 1, 2, 4)))
    with pytest.raises(DllmError, match="leaves none to propose"):
        DiffusionSampler(bare, config=GenerationConfig(suppress_tokens=(0, 1, 2), infill=True))
    DiffusionSampler(bare, config=GenerationConfig(suppress_tokens=(0, 1, 2)))
