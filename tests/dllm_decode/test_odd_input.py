"""Odd input of every kind, through the API and the command line: an answer, or one sentence and exit code 2."""

from __future__ import annotations

import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from dllm_decode import CallableModel, DiffusionSampler, load_model
from dllm_decode.cli import main
from dllm_decode.engine.trace import TraceError, load_traces, save_traces
from dllm_decode.errors import ConfigError, DllmError, LoadError
from filters import FilterBank
from tests.dllm_decode.models.checkpoints import add_llada_tokenizer, change_json, module, write_json

HUGE = "9" * 23
ASK = "sort: c m b g t s k e"


@pytest.fixture(scope="module")
def sampler() -> DiffusionSampler:
    return DiffusionSampler("tiny", "threshold")


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The sentence of a command that exits with 2 and says nothing else."""
    assert main(list(args)) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and len(said.err) < 400
    return said.err


def test_a_chat_message_in_parts_is_its_text(sampler: DiffusionSampler) -> None:
    parts = [{"type": "text", "text": "sort: c m b "}, {"type": "text", "text": "g t s k e"}]
    split = sampler.generate([{"role": "user", "content": parts}])
    assert split.sequences == sampler.generate([{"role": "user", "content": ASK}]).sequences
    for content in (None, 3, {"type": "text"}, [{"type": "image_url"}], [{"type": "text", "text": 3}]):
        with pytest.raises(DllmError, match="a chat message's content is .*; give a text, or a list of"):
            sampler.generate([{"role": "user", "content": content}])


@pytest.mark.parametrize("prompt", [b"copy: a", [b"copy: a"], bytearray(b"copy: a")])
def test_bytes_are_no_prompt(sampler: DiffusionSampler, prompt: Any) -> None:
    with pytest.raises(DllmError, match=r"prompt"):
        sampler.generate(prompt)


def test_one_id_of_numpy_is_a_prompt(sampler: DiffusionSampler) -> None:
    assert sampler.generate([np.int64(450)]).trace[0].prompt == [450]
    with pytest.raises(DllmError, match=r"prompt 0 holds token id 9{23}, but the vocabulary is 0\.\.599"):
        sampler.generate([int(HUGE)])


def test_half_a_character(sampler: DiffusionSampler, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DllmError, match=r"the text holds half a character at position \d+ \('\\ud800'\)"):
        sampler.generate("a \ud800 b")
    assert "half a character" in refused(capsys, "generate", "a \udcff b")  # an argument of bytes that are not UTF-8


@pytest.mark.parametrize("how", ["file", "standard input"])
def test_a_byte_order_mark_is_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    assert main(["generate", ASK]) == 0
    plain, data = capsys.readouterr().out, b"\xef\xbb\xbf" + ASK.encode()
    (tmp_path / "p.txt").write_bytes(data)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
    assert main(["generate", *(["-f", str(tmp_path / "p.txt")] if how == "file" else [])]) == 0
    assert capsys.readouterr().out == plain


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("--seed", HUGE), f"--seed is {HUGE}; give a whole number from 0 to 9223372036854775807."),
        (("--max-new-tokens", HUGE), f"--max-new-tokens is {HUGE}; give a whole number from 1 to 2147483647."),
        (("--suppress-tokens", HUGE), f"suppress_tokens holds {HUGE}, but the vocabulary has 600 tokens."),
        (("--suppress-tokens", ",".join(map(str, range(600)))), "holds 600 tokens and leaves none to propose."),
        (("--temperature", "1e300"), "--temperature is 1e+300; give a number from 0 (greedy) to 1000000."),
        (("--device", "meta"), "device 'meta' computes nothing; use cpu, or cuda where there is one."),
        (("--device", "mps"), "device 'mps' cannot be used here ("),
        (("--delay", "inf"), "invalid value for '--delay': inf is not from 0 to 3600 seconds"),
        (("--trace", ""), "the file for the trace has no name; give one."),
    ],
)
def test_generate(capsys: pytest.CaptureFixture[str], args: tuple[str, ...], sentence: str) -> None:
    if args[1] == "mps" and torch.backends.mps.is_available():
        pytest.skip("there is one")
    assert sentence in refused(capsys, "generate", ASK, *args)


@pytest.mark.parametrize("command", [("compare",), ("tune",), ("train-filter",), ("batch", "run", "in.jsonl")])
def test_a_folder_has_a_name(capsys: pytest.CaptureFixture[str], command: tuple[str, ...]) -> None:
    assert "it is empty; name a folder" in refused(capsys, *command, "--out", "")


def test_end_ids_are_a_list() -> None:
    with pytest.raises(DllmError, match=r"eos_ids is 5; give a list of token ids, such as \(5,\)"):
        CallableModel(lambda ids: torch.zeros(*ids.shape, 100), mask_id=99, eos_ids=5)  # type: ignore[arg-type]


def test_an_index_needs_no_metadata(tmp_path: Path) -> None:
    module("llada").save_pretrained(tmp_path, max_shard_size="10KB")
    index = tmp_path / "model.safetensors.index.json"
    write_json(index, {"weight_map": json.loads(index.read_text())["weight_map"]})
    loaded = load_model(tmp_path).module.state_dict()
    for shard in tmp_path.glob("*.safetensors"):
        with safe_open(shard, "pt") as file:
            assert all(torch.equal(loaded[name], file.get_tensor(name)) for name in file.keys())  # noqa: SIM118


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("mask_token_id", "x", "the checkpoint names 'x' as the id of a special token"),
        ("max_sequence_length", "x", "max_sequence_length='x'; it must be a positive integer"),
        ("n_layers", 10**9, "the model has 1000000000 layers, but the weights hold"),
        ("n_layers", int(HUGE), "n_layers=9{23}; it must be a positive integer"),
    ],
)
def test_fields_of_a_checkpoint(tmp_path: Path, field: str, value: object, said: str) -> None:
    module("llada").save_pretrained(tmp_path)
    change_json(tmp_path / "config.json", **{field: value})
    began = time.monotonic()
    with pytest.raises((LoadError, ConfigError), match=said):
        load_model(tmp_path)
    assert time.monotonic() - began < 20  # at once; not 400 s


def test_a_broken_chat_template(tmp_path: Path) -> None:
    module("llada").save_pretrained(tmp_path)
    add_llada_tokenizer(tmp_path, chat=True, chat_template="{% for m in messages %}{{ m.content }")
    with pytest.raises(DllmError, match="chat template"):
        DiffusionSampler(load_model(tmp_path), "threshold").generate("a")


def test_filters_for_every_usual_block() -> None:
    assert FilterBank().widths("tiny") == [8, 16, 32]
    for length in (8, 16, 32):
        result = DiffusionSampler("tiny", "learn2pd").generate(ASK, block_length=length)
        assert result.texts is not None and result.texts[0].strip() == "b c e g k m s t"


def test_a_trace_without_one_of_its_lines(tmp_path: Path) -> None:
    result = DiffusionSampler("tiny", "topk:k=4").generate([ASK, "sort: b a"], max_new_tokens=16)
    path = tmp_path / "t.jsonl"
    save_traces(result.trace, path)
    lines = path.read_text().splitlines(keepends=True)
    for missing in range(len(lines)):
        path.write_text("".join(lines[:missing] + lines[missing + 1 :]))
        with pytest.raises(TraceError):
            load_traces(path)
    for end in range(1, len(lines)):
        whole = [i for i in range(1, len(lines)) if lines[i].startswith('{"trace"')]
        path.write_text("".join(lines[:end]))
        if end in whole:  # the first row alone
            assert load_traces(path) == result.trace[:1]
        else:
            with pytest.raises(TraceError):
                load_traces(path)


def test_what_the_oracles_cannot_serve_is_left_out_by_name(tmp_path: Path) -> None:
    what = ["--tasks", "oracle-shuffle-7,oracle-replace-8", "--temperature", "1", "-n", "2"]
    assert main(["compare", *what, "-o", str(tmp_path)]) == 0
    setting = json.loads((tmp_path / "setting.json").read_text())
    assert setting["left_out"] and all(line["label"] and line["why"] for line in setting["left_out"])
