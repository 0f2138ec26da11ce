"""The bundled tokenizer: every text comes back, symbols and small numbers are one token."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from dllm_decode.tasks import TASKS, samples
from dllm_decode.tasks.tokenizer import (
    BOS_ID,
    EOS_ID,
    MASK_ID,
    NEWLINE_TOKEN,
    SEP_ID,
    SPECIALS,
    build_tokenizer,
    decode,
    encode,
    save_tokenizer,
    vocabulary,
)


@given(st.text())
def test_any_text_comes_back(text):
    if any(special in text for special in SPECIALS):
        return
    assert decode(encode(text)) == text


@given(st.text(alphabet='0123456789 \n.{}":,+-=ab'))
def test_texts_near_the_pieces_come_back(text):
    ids = encode(text)
    assert decode(ids) == text
    assert all(len(SPECIALS) <= token < len(vocabulary()) for token in ids)


@pytest.mark.parametrize("text", ["naïve 日本語 \U0001f600", "\r\n\t\x00", " 123 1234 12 1", "  two  spaces ", ""])
def test_examples_come_back(text):
    assert decode(encode(text)) == text


def pieces(text: str) -> list[str]:
    return [decode([token]) for token in encode(text)]


def test_one_token_per_symbol_word_and_small_number():
    assert pieces(" a b z") == [" a", " b", " z"]
    assert pieces(" 0 7 42 99") == [" 0", " 7", " 42", " 99"]
    assert pieces("12+7=19;19-3=16\n") == ["12", "+", "7", "=", "19", ";", "19", "-", "3", "=", "16", "\n"]
    assert pieces('{"g":6,"q":53}') == ['{"', "g", '":', "6", ',"', "q", '":', "53", "}"]
    assert pieces(" 4 . .\n 1") == [" 4", " .", " .", "\n", " 1"]
    assert pieces("Dan has 12 pens, finds 7") == ["Dan", " has", " 12", " pens", ",", " finds", " 7"]


def test_numbers_of_three_digits_and_more_are_digits():
    assert pieces("1234=999") == ["1", "2", "3", "4", "=", "9", "9", "9"]
    assert pieces(" 100") == [" ", "1", "0", "0"]


@pytest.mark.parametrize("task", list(TASKS))
def test_no_word_of_a_task_is_spelled_in_bytes(task):
    for sample in samples(task, "train", 60, seed=0):
        for word in re.findall(r" ?[A-Za-z]+", f"{sample.prompt}\n{sample.answer}"):
            assert len(encode(word)) == 1, word


def test_vocabulary():
    tokens = vocabulary()
    assert tokens[:4] == list(SPECIALS) == ["<|mask|>", "<|eos|>", "<|bos|>", "<|sep|>"]
    assert len(tokens) == len(set(tokens)) <= 640
    assert build_tokenizer().token_to_id(NEWLINE_TOKEN) == encode("\n")[0]


def test_transformers_loads_it_with_its_chat_template(tmp_path):
    save_tokenizer(tmp_path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert (tokenizer.mask_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (MASK_ID, EOS_ID, EOS_ID)
    assert (tokenizer.bos_token_id, tokenizer.sep_token_id) == (BOS_ID, SEP_ID)
    turns = [
        {"role": "user", "content": "copy: a b"},
        {"role": "assistant", "content": " a b"},
        {"role": "user", "content": "sort: b a"},
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == [
        BOS_ID,
        *encode("copy: a b"),
        SEP_ID,
        *encode(" a b\n"),
        *encode("sort: b a"),
        SEP_ID,
    ]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "copy: a b a b\nsort: b a"
    assert tokenizer("héllo", add_special_tokens=False)["input_ids"] == encode("héllo")
