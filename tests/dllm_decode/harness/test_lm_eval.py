"""The model that the harness sees, request by request."""

from __future__ import annotations

import pytest
import torch

from dllm_decode import CallableModel, DiffusionSampler, DllmError, GenerationConfig
from dllm_decode.models.tokenizers import load_tokenizer
from dllm_decode.tasks.tokenizer import MASK_ID, vocabulary
from tests.dllm_decode.answering import answering, codec
from tests.dllm_decode.models.checkpoints import add_dream_tokenizer, add_llada_tokenizer


def test_it_is_registered_under_its_name(lm_eval, harness_model):
    from lm_eval.api.registry import get_model

    assert get_model("dllm-decode") is harness_model


ARITHMETIC = {"one": " a b c. d e", "two": " f g\n h i", "three": " j", "four": "k l m n o p. q"}


@pytest.mark.parametrize("batch_size", [1, 3, "8"])
@pytest.mark.parametrize("policy", ["topk:k=1", "threshold", "freedave:step=(topk:k=1),drafts=3"])
def test_generate_until_honours_every_stop_string(harness_model, instance, policy, batch_size):
    model = harness_model(answering(ARITHMETIC), batch_size, policy=policy, block_length=8)
    texts = {name: model.apply_chat_template([{"role": "user", "content": name}]) for name in ARITHMETIC}
    asked = [
        ("one", ["."], " a b c"),
        ("two", ["."], " f g\n h i"),
        ("two", ["\n"], " f g"),
        ("three", [], " j"),
        ("four", [". q", " n"], "k l m"),
        ("one", "d e", " a b c. "),
    ]
    requests = [instance(texts[name], {"until": until, "max_gen_toks": 16}) for name, until, _ in asked]
    assert model.generate_until(requests, disable_tqdm=True) == [answer for _, _, answer in asked]
    assert model.tally.requests == len(asked)


def test_stopping_saves_forwards_and_escape_until_does_not_stop(harness_model, instance):
    spent = {}
    for escape in (False, True):
        model = harness_model(answering({"long": " a b. c d e f g h i j k"}), escape_until=escape)
        prompt = model.apply_chat_template([{"role": "user", "content": "long"}])
        (text,) = model.generate_until([instance(prompt, {"until": ["."], "max_gen_toks": 32})], disable_tqdm=True)
        assert text == (" a b. c d e f g h i j k" if escape else " a b")
        spent[escape] = model.tally.nfe
    assert spent[False] <= 4 < spent[True]


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_answers_are_those_of_the_sampler_in_any_batch_and_order(harness_model, instance, random_model, cache):
    prompts = [" a b c", " copy: x y", " z", " one two three four", " q q"]
    config = {"max_new_tokens": 12, "block_length": 4}
    alone = DiffusionSampler(random_model, "threshold:threshold=0.2", cache, GenerationConfig(**config))
    want = [alone.generate([prompt], chat=False).texts[0] for prompt in prompts]
    for size, order in ((1, [0, 1, 2, 3, 4]), (2, [4, 2, 0, 3, 1]), (8, [3, 3, 1, 0, 2, 4])):
        model = harness_model(random_model, size, policy="threshold:threshold=0.2", cache=cache, **config)
        found = model.generate_until([instance(prompts[i], {"until": []}) for i in order], disable_tqdm=True)
        assert found == [want[i] for i in order]
        assert model.tally.requests == 5  # the repeated request is decoded once


def test_repeated_draws_differ_and_come_again_with_the_seed(harness_model, instance, random_model):
    def draw(seed: int) -> list[str]:
        model = harness_model(random_model, 2, policy="topk:k=2", temperature=1.0, seed=seed, max_new_tokens=8)
        return model.generate_until([instance(" a b", {"until": []})] * 4, disable_tqdm=True)

    assert len(set(draw(0))) == 4
    assert draw(0) == draw(0) != draw(1)


def test_long_prompts_lose_their_beginning(harness_model, instance, caplog):
    seen = []

    def fn(ids):
        seen.append(ids.tolist())
        return torch.zeros(*ids.shape, len(vocabulary()))

    size = len(vocabulary())
    model = CallableModel(fn, mask_id=MASK_ID, vocab_size=size, tokenizer=codec(), max_length=8)
    text = " a b c d e f g h"
    with caplog.at_level("WARNING", logger="lm_eval"):
        harness_model(model, max_new_tokens=3).generate_until([instance(text, {})], disable_tqdm=True)
    assert seen[0][0] == [*codec().encode(text)[-5:], *[MASK_ID] * 3]
    with pytest.raises(DllmError, match="leaves no room for a prompt"):
        harness_model(model, max_new_tokens=8).generate_until([instance(text, {})], disable_tqdm=True)


def test_bos_is_added_where_it_is_missing(harness_model, instance):
    seen = []

    def fn(ids):
        seen.append(ids.tolist()[0])
        return torch.zeros(*ids.shape, len(vocabulary()))

    model = CallableModel(fn, mask_id=MASK_ID, vocab_size=len(vocabulary()), tokenizer=codec())
    lm = harness_model(model, add_bos_token=True, max_new_tokens=1)
    lm.generate_until([instance(" a", {}), instance("<|bos|> b", {}), instance("", {})], disable_tqdm=True)
    bos = codec().tokenizer.bos_token_id
    assert sorted(row[:-1] for row in seen) == sorted(
        [[bos], [bos, *codec().encode(" a")], [bos, *codec().encode(" b")]]
    )


def test_chat_templates(harness_model, random_model, tmp_path):
    lm = harness_model(random_model)
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "well"}]
    assert lm.apply_chat_template(turns[:1]) == codec().render(turns[:1])
    assert lm.apply_chat_template(turns, add_generation_prompt=False).endswith("well")
    assert lm.chat_template(True) == codec().chat_template and lm.chat_template(False) is None
    assert lm.tokenizer_name.startswith("random-")
    with pytest.raises(DllmError, match="give the option without a name"):
        lm.chat_template("fancy")
    bare = type(codec())(codec().tokenizer)
    bare.chat_template = None
    lm.codec = bare
    with pytest.raises(DllmError, match="has no chat template; leave --apply_chat_template out"):
        lm.apply_chat_template(turns)


@pytest.mark.parametrize("family", ["llada", "Dream"])
def test_an_answer_begun_by_the_task_is_left_open(harness_model, random_model, tmp_path, family):
    """HumanEval's prompt begins the answer inside a code block; the families' templates must not close it."""
    add_llada_tokenizer(tmp_path, chat=True) if family == "llada" else add_dream_tokenizer(tmp_path)
    lm = harness_model(random_model)
    lm.codec = load_tokenizer(tmp_path, family)
    lm.tokenizer = lm.codec.tokenizer
    turns = [{"role": "user", "content": "Write f."}, {"role": "assistant", "content": "```python\ndef f():"}]
    asked, begun = lm.apply_chat_template(turns[:1]), lm.apply_chat_template(turns, add_generation_prompt=False)
    assert begun == asked + "```python\ndef f():"


def test_loglikelihoods_rank_what_the_model_says_first(harness_model, instance):
    model = harness_model(answering({"capital": " a b c", "number": " d"}), 4, mc_num=16)
    prompt = model.apply_chat_template([{"role": "user", "content": "capital"}])
    pairs = [(prompt, " a b c"), (prompt, " a b d"), (prompt, " x y z"), (prompt, " a b c")]
    found = model.loglikelihood([instance(*pair, kind="loglikelihood") for pair in pairs], disable_tqdm=True)
    assert found[0] == found[3] and found[0][0] == pytest.approx(0, abs=1e-6) and found[0][1] is True
    assert found[0][0] > found[1][0] > found[2][0] and found[1][1] is found[2][1] is False
    model = harness_model(answering({"capital": " a b c"}), mc_num=16, check_greedy=False)
    assert model.loglikelihood([instance(*pairs[0], kind="loglikelihood")], disable_tqdm=True)[0][1] is False


def test_blanks_between_context_and_continuation_belong_to_the_continuation(harness_model, random_model):
    lm = harness_model(random_model)
    assert lm._pair(" a ", "b") == lm._pair(" a", " b") == (codec().encode(" a"), codec().encode(" b"))
    assert lm._pair("", " b") == ([], codec().encode(" b"))


def test_rolling_likelihood_goes_window_by_window(harness_model, instance):
    size = len(vocabulary())
    model = CallableModel(
        lambda ids: torch.zeros(*ids.shape, size), mask_id=MASK_ID, vocab_size=size, tokenizer=codec(), max_length=5
    )
    lm = harness_model(model, mc_num=2)
    texts = [" a b c d e f g h i j k l", " a", ""]
    found = lm.loglikelihood_rolling([instance(text, kind="loglikelihood_rolling") for text in texts], True)
    uniform = -torch.tensor(float(size)).log().item()
    assert found == pytest.approx([12 * uniform, uniform, 0.0], rel=1e-5)


@pytest.mark.parametrize("bad", [0, "auto", "auto:4", -1])
def test_batch_sizes_are_whole_numbers(harness_model, bad):
    with pytest.raises(DllmError, match="batch_size is .*; give a whole number from 1 up"):
        harness_model("tiny", bad)


def test_impossible_combinations_are_refused_at_once(harness_model, random_model):
    with pytest.raises(DllmError, match="cache='dual' cannot work"):
        harness_model(answering({}), cache="dual")
    with pytest.raises(DllmError, match="has no tokenizer"):
        harness_model(CallableModel(lambda ids: ids, mask_id=0, vocab_size=4))
