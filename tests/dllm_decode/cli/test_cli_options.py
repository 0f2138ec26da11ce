"""Options of generate that choose what may be proposed and where a row ends; one default block length."""

from __future__ import annotations

import inspect
import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from dllm_decode import GenerationConfig
from dllm_decode.cli import main
from dllm_decode.cli.common import label_text
from dllm_decode.cli.compare import compare, overview
from dllm_decode.cli.demo import demo
from dllm_decode.cli.evaluate import evaluate
from dllm_decode.cli.generate import generate
from dllm_decode.cli.train_filter import train_filter
from dllm_decode.cli.tune import tune
from dllm_decode.config import BLOCK_LENGTH
from dllm_decode.lab.setting import plan
from dllm_decode.lab.summary import summarise_folder
from tests.dllm_decode.lab.lab_records import write_run


def generated(capsys: pytest.CaptureFixture[str], *options: str) -> list[dict[str, object]]:
    assert main(["generate", "write a random list", "--max-new-tokens", "12", "--json", *options]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_suppressed_tokens_are_not_proposed(capsys: pytest.CaptureFixture[str]) -> None:
    (free,) = generated(capsys)
    tokens = sorted(set(free["tokens"]))  # type: ignore[call-overload]
    (other,) = generated(capsys, "--suppress-tokens", ",".join(map(str, tokens)))
    assert not set(tokens) & set(other["tokens"])  # type: ignore[call-overload]


def test_stop_cuts_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    (free,) = generated(capsys)
    piece = str(free["text"])[2:4]
    (cut,) = generated(capsys, "--stop", "nowhere", "--stop", piece)
    assert cut["text"] == str(free["text"]).partition(piece)[0]


def test_samples_are_answers_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    drawn = generated(capsys, "--samples", "3", "--temperature", "0.8", "--batch-size", "2")
    assert [answer["sample"] for answer in drawn] == [0, 1, 2] and len({str(answer["tokens"]) for answer in drawn}) > 1
    apart = generated(capsys, "--samples", "3", "--temperature", "0.8", "--batch-size", "1")
    assert [answer["tokens"] for answer in apart] == [answer["tokens"] for answer in drawn]
    assert main(["generate", "x", "--samples", "0"]) == 2


def test_block_length_none_is_one_block(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        generated(capsys, "--block-length", "none")[0]["tokens"]
        == generated(capsys, "--block-length", "12")[0]["tokens"]
    )
    for wrong in ("3x", "0", "1.5", ""):
        assert main(["generate", "x", "--block-length", wrong]) == 2
    assert main(["generate", "x", "--suppress-tokens", "1,b"]) == 2
    assert main(["generate", "x", "--confidence", "dirty"]) == 2
    assert "Value error" not in capsys.readouterr().err


def test_the_default_block_length_is_one() -> None:
    for command in (generate, evaluate, compare, tune, demo, train_filter, plan):
        assert inspect.signature(command).parameters["block_length"].default == BLOCK_LENGTH
    assert GenerationConfig().block_length == BLOCK_LENGTH


PARTS = ("freedave:step=(threshold:threshold=0.97)", "adablock", "localleap:radius=3")


@given(st.lists(st.sampled_from(PARTS)), st.integers(8, 60))
def test_labels_break_after_punctuation_alone(parts, width):
    label = "+".join(parts)
    lines = label_text(label, width).split("\n")
    assert "".join(lines) == label
    assert all(line[-1] in ":,+=" for line in lines[:-1])
    assert all(len(line) <= max(width, 20) for line in lines)


def test_tables_say_what_was_chosen_and_fit_eighty_columns(tmp_path, capsys, monkeypatch):
    label = "freedave:step=(localleap:relaxed_threshold=0.5,radius=3)"
    write_run(tmp_path, (label, "factor"), "copy,sort", ("none",), samples=2)
    out = Console(file=io.StringIO(), width=80)
    out.print(overview(summarise_folder(tmp_path), "none", 80))
    text = out.file.getvalue()
    assert text.startswith("copy, sort, cache none, 2 samples each")
    assert max(map(len, text.splitlines())) <= 80 and "relaxed_threshold=" in text and "…" not in text
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["evaluate", "--tasks", "copy", "-n", "1", "--policy", label]) == 0
    head = capsys.readouterr().out
    assert "model tiny, cache none, temperature 0, test split, seed 0" in head and "radius=3" in head


@pytest.mark.parametrize("width", [80, 100])
def test_no_table_breaks_a_word_or_cuts_one(width, capsys, monkeypatch):
    from dllm_decode.cli.policies import _plain, describe
    from samplers import REGISTRY

    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["policies"]) == 0
    text = capsys.readouterr().out
    cells = "".join(line.split("│")[2].strip() for line in text.splitlines() if line.startswith("│"))
    for name in REGISTRY:
        spelled = [f"{p['name']}=" for p in describe(name)["parameters"]]
        assert name in text and all(parameter in cells for parameter in spelled)
    assert "step=(threshold:threshold=0.95)" in cells and ":class:" not in text
    told = {word for name in REGISTRY for word in _plain(describe(name)["summary"]).split()}
    assert told <= set(re.findall(r"[^\s│]+", text)), "every word of every summary is in one piece"
    for command in (["models"], ["fit", "tiny"], ["generate", "copy: a", "--estimate"]):
        assert main(command) == 0
        text += capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    assert "delimiters=(empty)" in cells, "an empty default is called so"
