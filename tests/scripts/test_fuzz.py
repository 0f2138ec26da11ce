"""Odd input of every kind ends in one sentence; the fuzz itself finds what it looks for."""

from __future__ import annotations

import time

import pytest

from dllm_decode.errors import DllmError
from scripts import fuzz


@pytest.mark.slow
def test_three_hundred_odd_inputs() -> None:
    assert [fault for _, fault in fuzz.run(300, seed=11) if fault is not None] == []


def test_what_counts_as_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(error: BaseException) -> object:
        raise error

    assert fuzz.attempt(lambda: 0) is None and fuzz.attempt(lambda: None) is None
    assert fuzz.attempt(lambda: fails(DllmError("this is x; give y."))) is None
    assert (fuzz.attempt(lambda: fails(KeyError("x"))) or ("",))[0] == "raw error"
    assert (fuzz.attempt(lambda: fails(DllmError("broken: 'x"))) or ("",))[0] == "no sentence"
    assert (fuzz.attempt(lambda: 1) or ("",))[0] == "exit code 1"
    assert (fuzz.attempt(lambda: 2) or ("",))[0] == "no sentence"
    monkeypatch.setattr(fuzz, "LIMIT", 1)
    assert (fuzz.attempt(lambda: time.sleep(9)) or ("",))[0] == "hang"


def test_a_case_is_its_seed_and_number(capsys: pytest.CaptureFixture[str]) -> None:
    first = [kind for kind, _ in fuzz.run(6, seed=2)]
    assert [kind for kind, _ in fuzz.run(2, seed=2, first=3)] == first[3:5]
    assert fuzz.main(["--cases", "2", "--seed", "2"]) == 0
    assert "2 cases, 0 faults" in capsys.readouterr().out
