"""Batches decode as their rows alone: random cases, and that the comparison would notice if they did not."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor
from typer import Typer
from typer.testing import CliRunner

from dllm_decode.models import NativeModel
from scripts import check_batches, many_cases
from scripts.check_batches import Case, judge, policies
from scripts.many_cases import Verdict
from scripts.random_models import BLOCK_FAMILIES

CASES, CHUNKS = 100, 5


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_batches(chunk: int) -> None:
    for number in range(chunk, CASES, CHUNKS):
        verdict = judge(1, number)
        assert verdict.kind != "different", verdict.case


def test_every_policy_cache_and_family_is_drawn() -> None:
    random = Random(0)
    drawn = [Case.draw(random) for _ in range(600)]
    assert {case.policy for case in drawn} == set(policies())
    see_all = {(cache, family) for cache in ("none", "prefix", "dual") for family in ("llada", "dream")}
    block_causal = {(cache, family) for cache in ("none", "block") for family in BLOCK_FAMILIES}
    assert {(case.cache, case.family) for case in drawn} == see_all | block_causal


def test_rows_that_see_each_other_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = NativeModel.hidden

    def leaky(self: NativeModel, inp: Any, cells: Tensor) -> Tensor:
        found = whole(self, inp, cells)
        return found + torch.sin(inp.tokens.sum() * torch.arange(found.shape[-1]))

    monkeypatch.setattr(NativeModel, "hidden", leaky)
    assert {judge(1, number).kind for number in range(4)} == {"different"}


def run(*arguments: str) -> Any:
    """Call the script."""
    app = Typer()
    app.command()(check_batches.main)
    return CliRunner().invoke(app, list(arguments))


def test_verdicts_are_counted_kept_and_not_done_again(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def told(seed: int, number: int) -> Verdict:
        asked.append(number)
        if number == 5:
            raise KeyboardInterrupt
        return Verdict("tie" if number == 1 else "same", f"case {number}", (2,))

    monkeypatch.setattr(check_batches, "judge", told)
    journal = tmp_path / "done.jsonl"
    arguments = ("--cases", "8", "--journal", str(journal))
    assert run(*arguments).exit_code != 0
    with journal.open("a") as file:
        file.write('[5, "same", ')  # torn by a kill
    monkeypatch.setattr(check_batches, "judge", lambda seed, number: told(seed, number if number != 5 else 105))
    found = run(*arguments)
    assert found.exit_code == 0, found.output
    assert "8 cases, 0 wrong, 1 near ties" in found.output and "16 rows in 8 batches" in found.output
    assert asked == [0, 1, 2, 3, 4, 5, 105, 6, 7]
    assert len(journal.read_text().splitlines()) == 1 + 8
    assert run(*arguments, "--seed", "1").exit_code != 0  # another check's journal

    monkeypatch.setattr(check_batches, "judge", lambda seed, number: Verdict("different", f"case {number}", (2,)))
    wrong = run("--cases", "3")
    assert wrong.exit_code == 1 and "3 cases, 3 wrong" in wrong.output and "WRONG case 0: case 0" in wrong.output


def test_a_journal_holds_for_this_code_only(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = tmp_path / "done.jsonl"
    monkeypatch.setattr(check_batches, "judge", lambda seed, number: Verdict("same", "", (2,)))
    assert run("--cases", "2", "--journal", str(journal)).exit_code == 0
    assert json.loads(journal.read_text().splitlines()[0])["code"] == many_cases.code_version()
    monkeypatch.setattr(many_cases, "code_version", lambda: "other")
    refused = run("--cases", "2", "--journal", str(journal))
    assert refused.exit_code != 0 and "another check, seed or state of the code" in str(refused.exception or "")


def test_processes_find_what_one_finds() -> None:
    numbers = range(6)
    alone = [judge(3, number) for number in numbers]
    found = dict(many_cases._judged(judge, 3, list(numbers), 2))
    assert [found[number] for number in numbers] == alone
