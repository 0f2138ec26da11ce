"""Small checkpoint folders with tokenizer files, written by the tests that load them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers import models as tokenizer_models

from dllm_decode.models import Dream, DreamConfig, LLaDA, LLaDAConfig

LLADA_SPECIALS = ["<|startoftext|>", "<|endoftext|>", "<|mdm_mask|>"]
LLADA_CHAT = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
DREAM_SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|beginoftext|>", "<|mask|>"]
MERGES = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "w")]


def module(family: str) -> LLaDA | Dream:
    torch.manual_seed(0)
    if family == "llada":
        sizes = {"d_model": 16, "n_layers": 2, "n_heads": 2, "mlp_hidden_size": 24, "vocab_size": 280}
        return LLaDA(LLaDAConfig(**sizes, mask_token_id=258, eos_token_id=257, pad_token_id=257))
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = DreamConfig(**sizes, intermediate_size=24, vocab_size=280, mask_token_id=265, eos_token_id=261)
    return Dream(config)


def byte_level() -> dict[str, int]:
    vocab = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    return vocab | {a + b: len(vocab) + i for i, (a, b) in enumerate(MERGES)}


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def change_json(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    for name, value in changes.items():
        content.pop(name, None) if value is None else content.update({name: value})
    write_json(path, content)


def add_llada_tokenizer(folder: Path, chat: bool, **config: Any) -> None:
    tokenizer = Tokenizer(tokenizer_models.BPE(vocab=byte_level(), merges=MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(LLADA_SPECIALS + (LLADA_CHAT if chat else []))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{LLADA_SPECIALS[0]} $A",
        special_tokens=[(LLADA_SPECIALS[0], tokenizer.token_to_id(LLADA_SPECIALS[0]))],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    fields = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": LLADA_SPECIALS[0]}
    write_json(folder / "tokenizer_config.json", {**fields, "eos_token": LLADA_SPECIALS[1], **config})


def add_dream_tokenizer(folder: Path, **config: Any) -> None:
    vocab = byte_level()
    write_json(folder / "vocab.json", vocab)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in MERGES), encoding="utf-8")
    added = {
        str(len(vocab) + i): {"content": token, "special": True, "normalized": False}
        for i, token in enumerate(DREAM_SPECIALS)
    }
    fields = {
        "added_tokens_decoder": added,
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "tokenizer_class": "DreamTokenizer",
        "bos_token": "<|beginoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "mask_token": "<|mask|>",
    }
    write_json(folder / "tokenizer_config.json", {**fields, **config})
