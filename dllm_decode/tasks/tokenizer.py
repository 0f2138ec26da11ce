"""The bundled model's tokenizer: whole symbols, words and small numbers, and bytes for everything else.

One token per symbol or number is what lets a small model learn these tasks. There are no merges: a piece of text
is either in the vocabulary as a whole or spelled in bytes, so every text encodes and decodes back exactly.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from string import ascii_lowercase

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

SPECIALS = ("<|mask|>", "<|eos|>", "<|bos|>", "<|sep|>")
MASK_ID, EOS_ID, BOS_ID, SEP_ID = range(4)
NEWLINE_TOKEN = "Ċ"

# Numbers of one or two digits are one piece; longer ones fall apart into digits, so that columns line up.
PIECES = r"""\n| ?(?<![0-9])[0-9]{1,2}(?![0-9])|[0-9]| ?[A-Za-z]+| ?\.|\{"|":|,\""""

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ message['content'] + '\\n' }}"
    "{% else %}{{ message['content'] + sep_token }}{% endif %}"
    "{% endfor %}"
)

_FIRST_WORDS = (
    "add answer backwards chain choose copy fill from in json latin lines mix order pick put record repeat "
    "replace reverse say set shuffle solve sort step sudoku sum swap what work write"
)
_WORDS = (
    "after again alphabetical and any as at boxes by columns each first for has is item json last line many now of "
    "one order other out place rows say some square step sudoku the these this times to up with Count How Next "
    "caps cups eggs figs keys maps nuts pens pins toys buys finds gets wins breaks drops loses sells it"
)
_NAMES = "Amy Ben Dan Eve Ida Kim Leo Max Mia Sam Tom Zoe"


def _byte_characters() -> list[str]:
    """The printable stand-in of each byte 0..255 (the byte-level alphabet of GPT-2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def vocabulary() -> list[str]:
    """All tokens in id order: specials, bytes, numbers, letters, symbols, words."""
    texts = [f" {n}" for n in range(100)] + [str(n) for n in range(10, 100)]
    texts += [f" {letter}" for letter in ascii_lowercase] + [" .", '{"', '":', ',"']
    texts += [*_FIRST_WORDS.split(), "How", "At", *_NAMES.split()]
    texts += [f" {word}" for word in (*_WORDS.split(), *_NAMES.split())]
    return [*SPECIALS, *_byte_characters(), *(text.replace(" ", "Ġ") for text in texts)]


def build_tokenizer() -> Tokenizer:
    """Build the tokenizer from the vocabulary; ``save_tokenizer`` writes it where transformers finds it."""
    tokens = vocabulary()
    vocab = {token: index for index, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        raise AssertionError("the vocabulary names a token twice")
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    return tokenizer


@cache
def _shared() -> Tokenizer:
    return build_tokenizer()


def encode(text: str) -> list[int]:
    """Token ids of a text, without any special token added."""
    return _shared().encode(text, add_special_tokens=False).ids


def decode(ids: list[int]) -> str:
    """Text of token ids, special tokens left out."""
    return _shared().decode(ids, skip_special_tokens=True)


def count_tokens(text: str) -> int:
    """Number of tokens of a text."""
    return len(encode(text))


def save_tokenizer(folder: Path) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` (with the chat template) into ``folder``."""
    build_tokenizer().save(str(folder / "tokenizer.json"))
    mask, eos, bos, sep = SPECIALS
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "mask_token": mask,
        "eos_token": eos,
        "pad_token": eos,
        "bos_token": bos,
        "sep_token": sep,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
