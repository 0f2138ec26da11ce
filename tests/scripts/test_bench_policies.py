"""The benchmark of policies on tiny sizes: that it covers and says what it should, never how long anything took."""

from __future__ import annotations

import json
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from dllm_decode import DiffusionSampler, GenerationConfig
from samplers import REGISTRY, Scope, parse_policy, spell
from scripts import bench_policies
from scripts.bench_policies import Row, Size, Stopwatch, measure, policies, random_model

TINY = ("--batch", "2", "--cells", "8", "--block", "4", "--vocabulary", "512", "--steps", "1", "--repeats", "2")


def run(*arguments: str) -> Any:
    """Call the script."""
    app = typer.Typer()
    app.command()(bench_policies.main)
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [*TINY, *arguments])


@pytest.fixture(scope="module")
def record() -> Any:
    """What it says of every policy, as JSON."""
    result = run("--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_every_registered_policy_is_measured(record: Any) -> None:
    assert {row["name"] for row in record["rows"]} == {*REGISTRY, "recall"}
    assert record["size"] == {"batch": 2, "cells": 8, "block": 4, "vocabulary": 512}
    for row in record["rows"]:
        assert row["steps"] > 0 and row["ms"] > 0 and row["opening"] > 0 and row["first"] > 0
        named = {part.partition(":")[0] for part in row["policy"].split("+")}
        assert row["name"] in named or row["name"] == "recall"
        assert row["missed"] == (row["bar"] is not None and max(row["ms"], row["opening"]) > row["bar"])


def test_only_distributions_may_take_longer(record: Any) -> None:
    recalling = {row["name"] for row in record["rows"] if row["bar"] == 3.0}
    assert recalling == {"recall", "klass"}  # of one row each
    bars = {row["policy"]: row["bar"] for row in record["rows"] if row["name"] not in recalling}
    slow = {policy for policy, bar in bars.items() if bar == 5.0}
    assert slow == {"ccd", "ccd:history=3", "ccdds"}
    assert {policy for policy, bar in bars.items() if bar is None} == {"freedave+eosstop", "freedave+sched"}
    assert all(bar == 1.0 for policy, bar in bars.items() if policy not in slow and bar is not None)


def test_check_names_what_is_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    only = ("--only", "threshold", "--only", "ccd", "--check")
    monkeypatch.setattr(bench_policies, "BAR_MS", 1e9)
    monkeypatch.setattr(bench_policies, "DISTRIBUTIONS_BAR_MS", 1e9)
    fine = run(*only)
    assert fine.exit_code == 0 and "threshold" in fine.output and "of policy per step" not in fine.output
    monkeypatch.setattr(bench_policies, "DISTRIBUTIONS_BAR_MS", 0.0)
    wrong = run(*only)
    assert wrong.exit_code == 1
    said = [line for line in wrong.output.splitlines() if "ms of policy per step, the bar is 0 ms." in line]
    assert [line.rpartition(": ")[0] for line in said] == ["ccd", "ccd:history=3"]


def test_an_unknown_policy_is_named() -> None:
    wrong = run("--only", "treshold")
    assert wrong.exit_code == 2 and "treshold" in wrong.output and "threshold" in wrong.output


def test_the_watch_counts_each_role_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step has the least of its roles' times, their first calls, and whether it opened a block."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(bench_policies.time, "process_time", lambda: float(next(ticks)))
    row = measure("threshold", parse_policy("threshold"), Size(2, 8, 4, 512), steps=2, repeats=3)
    # Every call takes one tick: query, rescore, decide, finish, and on openings block_length as well.
    assert (row.ms, row.opening, row.first) == (4000.0, 5000.0, 4500.0)
    assert isinstance(row, Row) and row.missed


@pytest.mark.parametrize("name", list(REGISTRY))
def test_roles_are_pure(name: str) -> None:
    """Called three times over, each role answers as if it had been called once, and changes nothing it is given."""
    size, config = Size(2, 8, 4, 512), GenerationConfig(max_new_tokens=8, block_length=4, early_stop=False)
    model = random_model("llada", size.vocabulary, 16, 32, inner=32)
    for policy in policies(name, size):
        if "random" in spell(policy):  # its draws move on
            continue
        sampler = DiffusionSampler(model, policy, "none", config)
        plain, run = (sampler.feed(sampler.requests([[1, 2, 3], [4]], trace=True)) for _ in range(2))
        run.pool.batch.policy = Stopwatch(run.pool.batch.policy, 3)  # type: ignore[assignment]
        for one, other in zip(plain.outcomes(), run.outcomes(), strict=True):
            assert one.trace is not None and other.trace is not None
            assert (one.request.row, one.trace.steps) == (other.request.row, other.trace.steps), spell(policy)


def test_parts_that_decide_nothing_run_beside_a_decider() -> None:
    size = Size(2, 8, 4, 512)
    for name in REGISTRY:
        for policy in policies(name, size):
            assert "decide" in policy.roles, name
    watch = Stopwatch(parse_policy("threshold") | parse_policy("sched"), 1)  # type: ignore[arg-type]
    assert "finish" in watch.roles and watch.scope == Scope.REST
