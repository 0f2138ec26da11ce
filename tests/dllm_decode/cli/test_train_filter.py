"""The command, on a model that answers from a table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import dllm_decode.models
from dllm_decode.cli import main
from dllm_decode.filter_training.collect import asks_of_tasks
from filters import FilterBank
from tests.dllm_decode.answering import answering


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs the command on a model that knows the answers to the prompts it is asked."""
    sets = asks_of_tasks("sort", 8)
    answers = {ask.prompt: ask.sample.answer for part in (sets.train, sets.valid, sets.test) for ask in part}  # type: ignore[union-attr]
    model = answering(answers)
    monkeypatch.setattr(dllm_decode.models, "load_model", lambda name, **_: model)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return lambda *args: main(["train-filter", *args])


SMALL = ("--tasks", "sort", "-n", "8", "--block-length", "8", "--epochs", "3")


def test_trains_and_reports(
    run, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(*SMALL, "--json") == 0
    out = capsys.readouterr().out
    facts = json.loads(out)
    outcomes = {o["policy"]: o for o in facts["outcomes"]}
    assert outcomes["static"]["accuracy"] == 1.0 and outcomes["static"]["prompts"] == 2
    assert (tmp_path / "filter-records" / "train-8").is_dir()
    (name,) = FilterBank(tmp_path / "filters-trained").names()
    assert name == facts["filter"]
    # Once more, from the records: the same filter, and now as tables.
    monkeypatch.setenv("COLUMNS", "80")
    assert run(*SMALL) == 0
    again = capsys.readouterr()
    assert "…" not in again.out and max(map(len, again.out.splitlines())) <= 80
    assert "confidence, test" in again.out and "egp (oracle)" in again.out and f"saved {name}" in again.err


def test_the_figures_come_before_the_files(
    run, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("filters.bank.save_file", full)
    assert run(*SMALL) == 2
    said = capsys.readouterr()
    assert "egp (oracle)" in said.out and "No space left on device" in said.err.splitlines()[-1]
    assert list((tmp_path / "filters-trained").iterdir()) == []


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("--tasks", "nosuch"), "unknown task 'nosuch'"),
        ((*SMALL, "--block-length", "0"), "--block-length is 0; give a whole number from 1 up"),
        ((*SMALL, "--epochs", "0"), "epochs is 0; give a whole number from 1 up"),
        ((*SMALL, "--feature", "colour"), "feature is 'colour'; choose one of"),
        ((*SMALL, "--max-false-positives", "7"), "max_false_positives is 7.0; give a share between 0 and 1"),
        (("-n", "2"), "samples is 2; give at least 4 per task"),
        ((*SMALL, "--plot", "curve.xyz"), "a plot cannot be written as '.xyz'; name it .png, .svg or .pdf"),
        ((*SMALL, "--out", "/dev/null/x"), "cannot make the folder '/dev/null/x' (Not a directory); give another"),
        (("-f", "missing.txt"), "cannot read prompts file 'missing.txt'"),
    ],
)
def test_bad_input_is_one_sentence(
    run, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], sentence: str
) -> None:
    assert run(*args) == 2
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1
