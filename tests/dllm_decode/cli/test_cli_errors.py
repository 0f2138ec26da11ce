"""Wrong usage and input: exit code 2 and one clear sentence on stderr, before anything is decoded."""

from __future__ import annotations

import io
import sys

import pytest

import dllm_decode.models
from dllm_decode.cli import for_shell, main
from dllm_decode.engine.trace import Trace, TraceStep, save_traces
from tests.dllm_decode.answering import answering


@pytest.fixture(autouse=True)
def nothing_is_decoded(monkeypatch):
    """A model that refuses to run; its rows hold 64 tokens."""

    def refuse(call: int) -> None:
        raise AssertionError("a forward was made")

    model = answering({}, before_call=refuse, max_length=64)
    real = dllm_decode.models.load_model

    def load(name, **how):
        return model if name == "tiny" and not any(how.values()) else real(name, **how)

    monkeypatch.setattr(dllm_decode.models, "load_model", load)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("DLLM_DEBUG", raising=False)


def refused(capsys, *args: str) -> str:
    """The sentence; also checks that there is one, alone, and nothing else."""
    assert main(list(args)) == 2
    got = capsys.readouterr()
    assert got.out == ""
    assert got.err.startswith("dllm-decode: ") and got.err.endswith("\n") and got.err.count("\n") == 1
    return got.err[len("dllm-decode: ") : -1]


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--policy", "treshold"], "unknown policy 'treshold' (did you mean 'threshold'?); known: topk, "),
        (["--policy", "threshold:treshold=1"], "threshold has no parameter 'treshold' (did you mean 'threshold'?)"),
        (["--policy", "threshold:threshold=high"], "threshold: threshold is 'high', which is not a number."),
        (["--policy", "eosstop"], "no part of EosStop decides what to commit; add a decider"),
        (["--cache", "duall"], "unknown cache 'duall' (did you mean 'dual'?); use one of none, prefix, dual, block."),
        (
            ["--cache", "dual"],
            "model 'table' keeps no keys and values, so cache='dual' cannot work; use --cache none.",
        ),
        (["--model", "no/such/model/here"], "there is no folder no/such/model/here; give a checkpoint folder, a hub"),
        (["--model", "tinny"], "there is no folder tinny; give a checkpoint folder, a hub id such as owner/name, or"),
        (["--model", " "], "the model's name is empty; give a checkpoint folder, a hub id, or 'tiny'."),
        (["--dtype", "float31"], "unknown dtype 'float31'; use float32, bfloat16, float16 or None"),
        (["--device", "gpu"], "device 'gpu' cannot be used here"),
        (["--max-new-tokens", "0"], "--max-new-tokens is 0; give a whole number from 1 up."),
        (["--max-new-tokens", "many"], "invalid value for '--max-new-tokens'"),
        (["--block-length", "0"], "--block-length is 0; give a whole number from 1 up, or None."),
        (["--temperature", "-1"], "--temperature is -1.0; give a number from 0 (greedy) to 1000000."),
        (["--top-p", "2"], "--top-p is 2.0; give a number above 0 and at most 1, or None."),
        (["--top-k", "0"], "--top-k is 0; give a whole number from 1 up, or None."),
        (["--guidance", "-1"], "--guidance is -1.0; give a number from 0 (off) to 1000000."),
        (["--seed", "-1"], "--seed is -1; give a whole number from 0 up."),
        (["--batch-size", "0"], "--batch-size is 0; give a whole number from 1 up."),
        (["--live", "--batch-size", "2"], "the live view follows one prompt, but --batch-size is 2; add --no-live."),
        (["--json", "--live"], "--json and --live were both given; give one of them."),
        (["--trace", "/no/such/folder/t.jsonl"], "cannot write the trace to '/no/such/folder/t.jsonl' (No such file"),
        (["--trace", "/"], "cannot write the trace to '/' (Is a directory); give a file in a folder you may write"),
        (["--polcy", "x"], "no such option: --polcy"),
        (["-f", "prompts.txt"], "both a PROMPT and -f were given; give one of them."),
    ],
)
def test_generate(capsys, args, sentence):
    assert sentence in refused(capsys, "generate", "sort: b a", *args)


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ("", "the prompt is empty; give some text."),
        ("a<|mask|>b", "prompt 0 holds the mask token 0 at position 2; pass --infill to decode it, or remove it."),
        ("a b " * 40, "tokens and 128 are to be generated, but table was made for 64 in all; shorten one of them."),
    ],
)
def test_prompts(capsys, prompt, sentence):
    assert sentence in refused(capsys, "generate", prompt)


def test_the_last_prompt_of_a_file_is_checked_before_the_first_is_decoded(capsys, tmp_path):
    (tmp_path / "p.txt").write_text("a\nb\n" + "c d " * 40)
    found = refused(capsys, "generate", "-f", str(tmp_path / "p.txt"), "--max-new-tokens", "32")
    assert found.startswith("prompt 2 has ")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "(No such file or directory); give an existing text file."),
        (b"\n \n", "holds no prompt; write one per line."),
        (b"\xff\xfe", "is not UTF-8 text (byte 0); convert it first."),
    ],
)
def test_prompt_files(capsys, tmp_path, content, sentence):
    if content is not None:
        (tmp_path / "p.txt").write_bytes(content)
    assert sentence in refused(capsys, "generate", "-f", str(tmp_path / "p.txt"))
    assert "Is a directory" in refused(capsys, "generate", "-f", str(tmp_path))


@pytest.mark.parametrize("line", ["{", "3", "[]", '""', '{"text": "a"}', "[1, 2]"])
def test_json_prompts(capsys, tmp_path, line):
    (tmp_path / "p.jsonl").write_text(f'"a"\n{line}\n')
    assert "line 2 of " in refused(capsys, "generate", "-f", str(tmp_path / "p.jsonl"))


@pytest.mark.parametrize("text", ["", " \n"])
def test_empty_standard_input(capsys, monkeypatch, text):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert refused(capsys, "generate") == "standard input is empty; give PROMPT, -f FILE, or pipe a text in."


def test_no_prompt_on_a_terminal_does_not_wait(capsys, monkeypatch):
    keyboard = io.StringIO("never read")
    monkeypatch.setattr(keyboard, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", keyboard)
    assert refused(capsys, "generate") == "no prompt was given; give PROMPT, -f FILE, or pipe a text in."


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--tasks", "coppy"], "unknown task 'coppy': did you mean 'copy'? Tasks are copy, "),
        (["--tasks", ","], "no task was given; give 'all' or some of copy, "),
        (["--samples", "0"], "--samples is 0; give a whole number from 1 up."),
        (["--split", "dev"], "unknown split 'dev'; use one of train, valid, test."),
        (["--template", "9"], "templates are [9]; give numbers from 0 to 2, or none to mix."),
        (["--policy", "nope"], "unknown policy 'nope'"),
        (["--cache", "dul"], "unknown cache 'dul' (did you mean 'dual'?)"),
        (["--model", "tinny"], "there is no folder tinny"),
        (["--batch-size", "0"], "--batch-size is 0; give a whole number from 1 up."),
        (["--block-length", "-3"], "--block-length is -3; give a whole number from 1 up"),
        (["--json", "extra"], "(extra); see dllm-decode evaluate --help."),
    ],
)
def test_evaluate(capsys, args, sentence):
    assert sentence in refused(capsys, "evaluate", *args)


def trace(old: int = 0) -> Trace:
    step = TraceStep(1, 0, 0, 2, True, [0], [old], [5], [0.5], 2, 1, 2)
    return Trace([4], [0, 0], 0, [step])


def test_replay(capsys, tmp_path):
    path = tmp_path / "t.jsonl"
    assert "cannot read trace" in refused(capsys, "replay", str(path))
    assert "missing argument 'TRACE'; see dllm-decode replay --help." in refused(capsys, "replay")
    path.write_text("")
    assert "holds no trace; give a file saved with --trace." in refused(capsys, "replay", str(path))
    path.write_text("hello\n")
    assert "line 1 of" in refused(capsys, "replay", str(path))
    path.write_bytes(b"\xff\xfe")
    assert refused(capsys, "replay", str(path))
    save_traces([trace(old=3)], path)
    assert "step 1 says cell 0 held 3, but replay has 0; the trace is damaged." in refused(capsys, "replay", str(path))
    save_traces([trace()], path)
    assert "--row is 1, but" in refused(capsys, "replay", str(path), "--row", "1")
    assert "--delay" in refused(capsys, "replay", str(path), "--delay", "-1")


def test_demo(capsys):
    assert "unknown policy 'x'" in refused(capsys, "demo", "--policy", "x")
    assert "unknown policy 'y'" in refused(capsys, "demo", "--against", "y")
    assert "unknown task" in refused(capsys, "demo", "--tasks", "x")
    assert "cannot write the picture" in refused(capsys, "demo", "--svg", "/no/such/folder/x.svg")


def test_unknown_command(capsys):
    assert "no such command 'generat'" in refused(capsys, "generat").lower()


def test_failures_are_one_line_with_exit_code_1(capsys, monkeypatch):
    def explode(call: int) -> None:
        raise RuntimeError("CUDA out of\nmemory")

    model = answering({}, before_call=explode)
    monkeypatch.setattr(dllm_decode.models, "load_model", lambda name, **_: model)
    assert main(["generate", "a"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("dllm-decode: failed with RuntimeError: CUDA out of memory ") and error.count("\n") == 1
    monkeypatch.setenv("DLLM_DEBUG", "1")
    assert main(["generate", "a"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_sentences_speak_of_options():
    assert for_shell("pass infill=True; use cache='none'.") == "pass --infill; use --cache none."
    assert for_shell("top_p is 2; my_top_p_x stays") == "--top-p is 2; my_top_p_x stays"
    assert for_shell("seed is -1; the seed stays") == "--seed is -1; the seed stays"
