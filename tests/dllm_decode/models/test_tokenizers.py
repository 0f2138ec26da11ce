"""Tokenizers and chat templates of loaded checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dllm_decode.errors import DllmError, LoadError
from dllm_decode.models import TextCodec, load_model
from tests.dllm_decode.models.checkpoints import add_dream_tokenizer, add_llada_tokenizer, module


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A small LLaDA checkpoint without a tokenizer."""
    module("llada").save_pretrained(tmp_path)
    return tmp_path


def codec(folder: Path) -> TextCodec:
    tokenizer = load_model(folder).tokenizer
    assert tokenizer is not None
    return tokenizer


TEXTS = ["hello world", "  two  spaces\n\nlines\t", "naïve 東京 🙂", "12+34= 46", ""]


@pytest.mark.parametrize("text", TEXTS)
def test_llada_tokenizer_round_trip(checkpoint: Path, text: str) -> None:
    add_llada_tokenizer(checkpoint, chat=True)
    tokenizer = codec(checkpoint)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(i < 261 for i in ids), "no special token may be added"
    assert tokenizer.encode_prompt(text, chat=False) == ids


@pytest.mark.parametrize("text", TEXTS)
def test_dream_tokenizer_round_trip(tmp_path: Path, text: str) -> None:
    module("dream").save_pretrained(tmp_path)
    add_dream_tokenizer(tmp_path)
    tokenizer = codec(tmp_path)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("<|im_start|>hello w<|mask|>") == [262, 259, 260, 265]
    assert tokenizer.decode([262, 259, 265]) == "hello"
    assert tokenizer.decode([262, 259, 265], skip_special_tokens=False) == "<|im_start|>hello<|mask|>"


@pytest.mark.parametrize("text", [*TEXTS, "a<|endoftext|>b <|mdm_mask|>"])
def test_encoding_is_the_tokenizers_own_whatever_else_it_was_used_for(checkpoint: Path, text: str) -> None:
    add_llada_tokenizer(checkpoint, chat=True)
    made = codec(checkpoint)
    want = made.tokenizer.encode(text, add_special_tokens=False)
    assert made.encode(text) == want
    made.tokenizer("a b c d", truncation=True, max_length=1)  # is kept in the library underneath
    assert made.encode(text) == want
    made.tokenizer.split_special_tokens = True
    assert made.encode(text) == made.tokenizer.encode(text, add_special_tokens=False)


def test_llada_chat_template(checkpoint: Path) -> None:
    add_llada_tokenizer(checkpoint, chat=True)
    tokenizer = codec(checkpoint)
    messages = [{"role": "user", "content": " hello "}, {"role": "assistant", "content": "w"}]
    expected = (
        "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\nhello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nw<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert tokenizer.render(messages) == expected
    assert tokenizer.encode_prompt(messages) == tokenizer.encode(expected)
    assert tokenizer.encode(expected)[:2] == [261, 264]
    assert tokenizer.encode_prompt("hello") == tokenizer.encode_prompt([{"role": "user", "content": "hello"}])


def test_dream_chat_template(tmp_path: Path) -> None:
    module("dream").save_pretrained(tmp_path)
    add_dream_tokenizer(tmp_path)
    tokenizer = codec(tmp_path)
    assert tokenizer.render([{"role": "user", "content": "hello"}]) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    own_system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
    assert tokenizer.render(own_system) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_shipped_template_wins(checkpoint: Path) -> None:
    add_llada_tokenizer(checkpoint, chat=True, chat_template="{{ bos_token }}{{ messages[-1]['content'] }}=")
    assert codec(checkpoint).render([{"role": "user", "content": "w"}]) == "<|startoftext|>w="


def test_a_base_model_has_no_template(checkpoint: Path) -> None:
    add_llada_tokenizer(checkpoint, chat=False)
    tokenizer = codec(checkpoint)
    assert tokenizer.chat_template is None
    with pytest.raises(DllmError, match="has no chat template; give the prompt as plain text"):
        tokenizer.encode_prompt("hello")
    assert tokenizer.encode_prompt("hello", chat=False) == [259]


def test_prompts_of_every_kind(checkpoint: Path) -> None:
    add_llada_tokenizer(checkpoint, chat=True)
    tokenizer = codec(checkpoint)
    assert tokenizer.encode_prompt([5, 6, 7]) == [5, 6, 7]
    assert tokenizer.encode_prompt(torch.tensor([5, 6])) == [5, 6]
    for wrong in ([], 3, None, ["a"], [1, "a"], [True]):
        with pytest.raises(DllmError, match="a prompt must be text, a non-empty list of token ids or"):
            tokenizer.encode_prompt(wrong)  # type: ignore[arg-type]
    with pytest.raises(DllmError, match="a chat message must be a mapping with 'role' and 'content', got"):
        tokenizer.encode_prompt([{"text": "hello"}])


def test_dream_vocabulary_that_does_not_belong(tmp_path: Path) -> None:
    module("dream").save_pretrained(tmp_path)
    add_dream_tokenizer(tmp_path, added_tokens_decoder={"270": {"content": "<|im_start|>", "special": True}})
    with pytest.raises(LoadError, match=r"gives <\|im_start\|> the id \d+, but its tokenizer_config.json says 270"):
        load_model(tmp_path)
