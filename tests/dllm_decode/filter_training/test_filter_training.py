"""Collecting labels, training a filter on them, and judging it, on a random model."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from dllm_decode import DiffusionSampler, GenerationConfig
from dllm_decode.errors import DllmError
from dllm_decode.filter_training import collect as data
from dllm_decode.filter_training.collect import Ask, AskSets, asks_of_prompts, asks_of_tasks, batches, collect
from dllm_decode.filter_training.judge import judge
from dllm_decode.filter_training.train import check_plots, train_filter
from filters import FilterBank, Recipe
from samplers import EGP, Learn2PD, Threshold
from tests.toys import tiny

CONFIG = GenerationConfig(block_length=6)


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    """Different rows of token ids."""
    rng = Random(seed)
    return [[i % 20, *(rng.randrange(20) for _ in range(rng.randint(1, 4)))] for i in range(count)]


@pytest.mark.parametrize("feature", ["confidence", "negative_entropy"])
def test_one_record_per_forward_of_the_oracle(tmp_path: Path, feature: str) -> None:
    model, asks = copy.copy(tiny("llada")), [Ask(p, 15) for p in prompts(5)]
    model.eos_ids = ()
    found = collect(model, asks, tmp_path / "r", CONFIG, batch_size=2, feature=feature)
    static = DiffusionSampler(model, Threshold(2.0), config=CONFIG.replace(max_new_tokens=15))
    forwards, cells = 0, 0
    for ask in asks:
        wanted = static.generate([ask.prompt])
        replay = DiffusionSampler(model, EGP(tuple(map(tuple, wanted.sequences))), config=static.config)
        result = replay.generate([ask.prompt])
        assert result.sequences == wanted.sequences
        forwards += result.nfe[0]
        cells += sum(step.end - step.start for step in result.trace[0].steps)
    assert len(found) == forwards and int(found.inside.sum()) == cells
    # 15 cells are blocks of 6, 6 and 3: the last one is padded with zeros on the right
    short = found.inside.sum(-1) == 3
    assert bool(short.any()) and not found.features[short][:, 3:].any() and not found.right[short][:, 3:].any()
    assert not (found.open & ~found.inside).any()
    if feature == "confidence":
        assert bool((found.features[found.inside] > 0).all())
    else:
        assert bool((found.features <= 0).all()) and not found.features[~found.open].any()


def test_interrupted_collection_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, asks, folder = tiny("llada"), [Ask(p, 8) for p in prompts(7)], tmp_path / "r"
    whole = collect(model, asks, tmp_path / "other", CONFIG, batch_size=2)
    replay, done = data._replay, []

    def fails_at_the_third(*args: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(args)
        return replay(*args)

    monkeypatch.setattr(data, "_replay", fails_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        collect(model, asks, folder, CONFIG, batch_size=2)
    assert len(list(folder.glob("*.safetensors"))) == 2
    again: list[Any] = []
    monkeypatch.setattr(data, "_replay", lambda *args: again.append(args) or replay(*args))
    told: list[int] = []
    resumed = collect(model, asks, folder, CONFIG, batch_size=2, progress=told.append)
    assert len(again) == 2 and told == [2, 2, 2, 1]
    assert torch.equal(resumed.features, whole.features) and torch.equal(resumed.right, whole.right)
    with pytest.raises(DllmError, match="holds records with checksum=.*; give another folder, or delete that one"):
        collect(model, [*asks[:-1], Ask([1], 8)], folder, CONFIG, batch_size=2)
    with pytest.raises(DllmError, match="holds records with block_length=6, but now it is 4"):
        collect(model, asks, folder, CONFIG.replace(block_length=4), batch_size=2)
    other = copy.deepcopy(tiny("llada"))
    with torch.no_grad():
        next(p for p in other.module.parameters() if p.ndim == 1).add_(0.1)
    with pytest.raises(DllmError, match="holds records with weights="):
        collect(other, asks, folder, CONFIG, batch_size=2)
    (folder / "00001.safetensors").write_bytes(b"cut short")
    with pytest.raises(DllmError, match="holds no filter records; delete it and collect again"):
        collect(model, asks, folder, CONFIG, batch_size=2)


def test_collecting_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    model, asks = tiny("llada"), [Ask([1], 4)]
    for config in (CONFIG.replace(block_length=None), CONFIG.replace(temperature=0.5)):
        with pytest.raises(DllmError, match="greedily in blocks; set block_length and temperature=0"):
            collect(model, asks, tmp_path / "r", config)
    with pytest.raises(DllmError, match="feature is 'colour'; choose one of confidence, negative_entropy"):
        collect(model, asks, tmp_path / "r", CONFIG, feature="colour")
    (tmp_path / "file").write_text("")
    with pytest.raises(DllmError, match="cannot use .*file.* for records"):
        collect(model, asks, tmp_path / "file", CONFIG)
    assert not (tmp_path / "r").exists()


def test_prompts_are_split() -> None:
    sets = asks_of_prompts([f"prompt {i}" for i in range(25)], 16)
    parts = [{ask.prompt for ask in part} for part in (sets.train, sets.valid, sets.test)]
    assert [len(p) for p in parts] == [21, 2, 2] and len(set.union(*parts)) == 25
    assert sets == asks_of_prompts([f"prompt {i}" for i in range(25)], 16)
    with pytest.raises(DllmError, match="9 prompts were given; give at least 10"):
        asks_of_prompts(["x"] * 9, 16)
    tasks = asks_of_tasks("copy,sort", 8)
    assert [len(part) for part in (tasks.train, tasks.valid, tasks.test)] == [16, 4, 4]
    assert all(ask.sample is not None and ask.cells > 0 for ask in tasks.valid)
    assert not {a.prompt for a in tasks.train} & {a.prompt for a in [*tasks.valid, *tasks.test]}
    with pytest.raises(DllmError, match="samples is 3; give at least 4 per task"):
        asks_of_tasks("copy", 3)


def test_batches_have_one_canvas() -> None:
    asks = [Ask([1] * n, cells) for n in (3, 1, 2) for cells in (4, 8)]
    found = list(batches(asks, 2))
    assert [[(len(a.prompt), a.cells) for a in batch] for batch in found] == [
        [(1, 4), (2, 4)],
        [(3, 4)],
        [(1, 8), (2, 8)],
        [(3, 8)],
    ]


def test_trains_saves_and_is_found_again(tmp_path: Path) -> None:
    model, stages = tiny("llada"), set()
    report = train_filter(
        model,
        asks_of_prompts(prompts(40), 12),
        tmp_path / "work",
        block_length=6,
        max_false_positives=0.3,
        recipe=Recipe(epochs=20),
        out=FilterBank(tmp_path / "bank"),
        progress=lambda stage, done, size: stages.add((stage, size)),
    )
    assert stages == {
        ("collecting train", 32),
        ("collecting valid", 4),
        ("collecting test", 4),
        ("training", 20),
        ("judging", 4),
    }
    assert 0.5 <= report.valid.threshold <= 1 and report.valid.false_positives <= 0.3
    outcomes = {o.policy: o for o in report.outcomes}
    assert outcomes["static"].same == outcomes["egp (oracle)"].same == 1.0
    assert outcomes["egp (oracle)"].nfe < outcomes["static"].nfe and outcomes["learn2pd"].nfe <= outcomes["static"].nfe
    assert all(o.correct is None and o.prompts == 4 for o in report.outcomes)
    found = FilterBank(tmp_path / "bank").find(model.name, 6)
    assert found.threshold == report.learned.threshold
    assert torch.equal(found.network.linear1.weight, report.learned.network.linear1.weight)
    card = json.loads((tmp_path / "bank" / f"{model.name}-6.json").read_text(encoding="utf-8"))
    assert card["records"]["train"] == report.sizes[0] and card["recipe"]["epochs"] == 20
    # What the report says of decoding is what decoding does.
    config = GenerationConfig(max_new_tokens=12, block_length=6)
    asks = asks_of_prompts(prompts(40), 12).test
    result = DiffusionSampler(model, Learn2PD(found), config=config).generate([a.prompt for a in asks])
    assert sum(result.nfe) / 4 == outcomes["learn2pd"].nfe


def test_compares_recipes_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("dllm_decode.filter_training.train.REFERENCE_RECIPE", Recipe(epochs=30, batch=None))
    asks = asks_of_prompts(prompts(20), 6)
    report = train_filter(
        tiny("dream"),
        asks,
        tmp_path,
        block_length=6,
        recipe=Recipe(epochs=10),
        compare=True,
        feature="negative_entropy",
    )
    assert [name for name, _, _ in report.recipes] == ["mini-batches", "40,000 full batches"]
    assert report.alone is None and report.learned.feature == "negative_entropy"
    assert len(report.to_dict()["recipes"]) == 2
    report.plot(tmp_path / "calibration.png")
    assert (tmp_path / "calibration.png").stat().st_size > 1000


def test_judging_scores_content() -> None:
    model = tiny("llada")
    asks = [Ask(p, 12) for p in prompts(6)]
    heard: list[int] = []
    outcomes = judge(
        model,
        asks,
        {"same": Threshold(2.0), "rash": Threshold(1e-6)},
        CONFIG,
        "none",
        4,
        lambda s, n, size: heard.append(n),
    )
    found = {o.policy: o for o in outcomes}
    assert found["same"] == replace(found["static"], policy="same")
    assert found["rash"].nfe <= 2.0 and found["rash"].same < 1 and heard == [4, 2]


def test_bad_input_is_found_before_any_forward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, sets = tiny("llada"), AskSets([Ask([1], 4)], [Ask([2], 4)], [Ask([99], 4)])
    monkeypatch.setattr(type(model), "hidden", lambda *args: pytest.fail("a forward was made"))
    with pytest.raises(DllmError, match="max_false_positives is 2; give a share between 0 and 1"):
        train_filter(model, sets, tmp_path / "work", block_length=4, max_false_positives=2)
    with pytest.raises(DllmError, match=r"prompt 2 holds token id 99, but the vocabulary is 0\.\.23"):
        train_filter(model, sets, tmp_path / "work", block_length=4)
    monkeypatch.setattr("dllm_decode.filter_training.train.importlib.util.find_spec", lambda name: None)
    with pytest.raises(DllmError, match="plots need matplotlib, which is not installed"):
        check_plots()
    assert not (tmp_path / "work").exists()


def test_rows_with_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that end early are replayed with the same early stop, and again on a canvas that ends with them."""
    model = copy.copy(tiny("llada"))
    model.eos_ids = tuple(range(3, 12))
    asks = [Ask(p, 24) for p in prompts(12)]
    config = GenerationConfig(max_new_tokens=24, block_length=6)
    static = DiffusionSampler(model, Threshold(2.0), config=config).generate([a.prompt for a in asks])
    assert min(static.content_tokens) < 12, "no answer of this model ends early"
    budgets: set[int] = set()
    begin = EGP.begin

    def watch(self: EGP, view: Any) -> Any:
        budgets.update(view.budget.tolist())
        return begin(self, view)

    monkeypatch.setattr(EGP, "begin", watch)
    found = collect(model, asks, tmp_path / "stop", CONFIG)
    assert budgets == {24} | {n + 1 for n in static.content_tokens if n + 1 < 24}
    # A canvas that ends within its first block: one short block, zeros behind it.
    shortest = min(static.content_tokens) + 1
    assert shortest < 6 and bool((found.inside.sum(-1) == shortest).any())
    full = collect(model, asks, tmp_path / "full", CONFIG.replace(early_stop=False))
    assert len(found) != len(full)
