"""Successive halving, what it may look at, and what it says."""

from __future__ import annotations

import json

import pytest

import dllm_decode.lab.tune as lab_tune
from dllm_decode import DiffusionSampler, tasks
from dllm_decode.cli import main
from dllm_decode.config import BLOCK_LENGTH
from dllm_decode.engine.policy_file import read_policy_file, resolve_policy
from dllm_decode.errors import DllmError
from dllm_decode.lab.grids import compositions
from dllm_decode.lab.halving import Score, choose, halve, rungs, score, survivors
from dllm_decode.lab.points import points
from dllm_decode.lab.problems import SealedSplitError, draw, sealed
from dllm_decode.lab.records import read_records
from dllm_decode.lab.tune import tune
from samplers import PolicyError
from tests.dllm_decode.lab.lab_toys import hesitant, made, random_checkpoint, timeless

GRID = {"threshold": {"threshold": [0.5, 0.7, 0.9]}, "topk": {"k": [2, 4]}, "factor": {"factor": [0.5, 1.0]}}
SMALL = {"grid": GRID, "max_drop": 7.0, "samples": 8, "test_samples": 6, "quiet": True}


def scored(label, speed, difference, error=0.001):
    return Score(label, speed, 0.9 + difference, difference, error)


@pytest.mark.parametrize("candidates", [1, 4, 5, 12, 30, 100])
@pytest.mark.parametrize("samples", [1, 12, 100, 1000])
def test_rungs_use_every_sample_once_and_end_with_all(candidates, samples):
    found = rungs(candidates, samples)
    assert found[0].first == 0
    assert found[-1].last == samples
    assert all(a.last == b.first < b.last for a, b in zip(found, found[1:], strict=False))
    keeps = [candidates, *(rung.keep for rung in found)]
    assert keeps == sorted(keeps, reverse=True)
    assert found[-1].keep >= 1


def test_rungs_grow_evenly_from_the_fewest_samples():
    assert [rung.last for rung in rungs(45, 100)] == [10, 22, 46, 100]
    assert [rung.last for rung in rungs(45, 900)] == [33, 100, 300, 900]
    assert [(rung.last, rung.keep) for rung in rungs(240, 30, 3)] == [(3, 80), (5, 27), (9, 9), (17, 4), (30, 4)]
    assert [(rung.last, rung.keep) for rung in rungs(12, 100)] == [(33, 4), (100, 4)]


def test_halving_spends_most_on_the_best():
    spent: dict[str, int] = {}

    def race(rung, labels):
        for label in labels:
            spent[label] = spent.get(label, 0) + rung.last - rung.first
        return {label: scored(label, float(label), 0.0) for label in labels}

    left, scores = halve([str(i) for i in range(30)], 100, 1.0, race)
    assert left[0] == "29"
    assert spent["29"] == 100
    assert spent["0"] < 20
    assert set(left) == set(scores)


def test_survivors_are_fast_and_may_still_be_good_enough():
    found = [
        scored("fast but bad", 9.0, -0.2),
        scored("fast, perhaps good", 5.0, -0.02, error=0.015),
        scored("good", 3.0, 0.0),
        scored("less bad", 2.0, -0.1),
    ]
    assert survivors(found, 2, 1.0) == ["fast, perhaps good", "good"]
    assert survivors(found, 4, 1.0) == ["fast, perhaps good", "good", "less bad", "fast but bad"]


def test_half_of_the_places_are_for_the_surest():
    hopeful = [scored(f"on the limit {speed}", speed, -0.0105, error=0.002) for speed in (8.0, 7.0, 6.0, 5.0)]
    safe = [scored(f"safe {speed}", speed, -0.003, error=0.002) for speed in (3.0, 2.0, 1.0)]
    found = survivors([*safe, *hopeful], 4, 1.0)
    assert found == ["on the limit 8.0", "on the limit 7.0", "safe 3.0", "safe 2.0"]
    assert choose([score for score in [*safe, *hopeful] if score.label in found], 1.0) == safe[0]
    assert survivors([*safe[:1], *hopeful], 4, 1.0) == [*(s.label for s in hopeful[:3]), "safe 3.0"]
    sure = [scored("surest", 1.0, 0.0, error=0.002), *safe]
    assert survivors([*sure, *hopeful], 4, 1.0) == ["on the limit 8.0", "on the limit 7.0", "safe 3.0", "surest"]
    assert survivors([*safe, *hopeful[:1]], 4, 1.0) == ["on the limit 8.0", "safe 3.0", "safe 2.0", "safe 1.0"]


@pytest.mark.parametrize(("per", "cost"), [("forward", 2), ("row", 8), ("second", 0.5)])
def test_speed_is_counted_per_forward_row_or_second(per, cost):
    records = [{**made(), "n_content": 4, "nfe": 2, "rows_forwarded": 8, "wall_s": 0.5}]
    assert score("x", records, records, per).speed == 4 / cost


def test_the_choice_keeps_a_margin():
    within = scored("within", 5.0, -0.009, error=0.004)
    safe = scored("safe", 3.0, -0.005, error=0.004)
    assert choose([within, safe], 1.0) == safe
    assert choose([within], 1.0) is None


def test_a_few_samples_that_agree_prove_little():
    records = [made(sample=i) for i in range(10)]
    few, many = score("x", records, records), score("x", records * 10, records * 10)
    assert few.error == pytest.approx(0.1)
    assert many.error == pytest.approx(0.01)
    assert (few.difference, few.accuracy, few.speed) == (0.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    return tune(hesitant(), "copy,sort", folder, **SMALL)


def test_tune_finds_the_fastest_right_policy(tuned):
    assert tuned.chosen["accuracy"] == 1.0
    rivals = [
        r for r in json.loads((tuned.folder / "test" / "summary.json").read_text())["rows"] if r["task"] == "all"
    ]
    good = [r for r in rivals if r["accuracy"] >= 0.99]
    assert tuned.chosen["tpf_content"] == max(r["tpf_content"] for r in good)
    hasty = [r for r in read_records(tuned.folder / "valid-0-8") if r["label"] == "threshold:threshold=0.5"]
    assert sum(r["n_content"] for r in hasty) / sum(r["nfe"] for r in hasty) > 2 * tuned.chosen["tpf_content"]
    assert tuned.chosen["label"] in tuned.frontier


def test_tune_says_by_how_much(tuned):
    assert tuned.gain == tuned.chosen["tpf_content"] - tuned.default["tpf_content"]
    assert tuned.default["label"] in ("static", "threshold", "factor", "topk")
    assert tuned.beats == (tuned.gain > 0)
    assert f"{tuned.chosen['tpf_content']:.2f} content tokens per forward" in tuned.sentence
    report = (tuned.folder / "tune.md").read_text()
    assert tuned.sentence in report
    assert "Frontier on the test split" in report
    found = json.loads((tuned.folder / "tune.json").read_text())
    assert (found["policy"], found["gain"], found["beats"]) == (tuned.policy, tuned.gain, tuned.beats)


def test_drafts_are_chosen_per_forward_and_not_per_row(tmp_path):
    """Drafts save forwards and cost rows, so the two counts choose differently."""
    drafted = "freedave:step=(threshold),drafts=8,cross_block=true"
    asked = {
        "policies": ["threshold", drafted],
        "max_drop": 100.0,
        "samples": 4,
        "test_samples": 3,
        "quiet": True,
        "block_length": 8,
    }
    per = {per: tune("tiny", "latin4", tmp_path / per, per=per, **asked) for per in ("forward", "row")}
    assert per["forward"].chosen["nfe"] < per["row"].chosen["nfe"]
    assert per["row"].chosen["row_tpf"] > per["forward"].chosen["row_tpf"]
    assert "freedave" in per["forward"].policy and per["row"].policy == "threshold"
    assert f"{per['row'].chosen['row_tpf']:.2f} content tokens per forwarded row" in per["row"].sentence
    assert "| row TPF |" in (tmp_path / "row" / "tune.md").read_text()


def test_the_policy_file_is_a_policy(tuned):
    contents = read_policy_file(tuned.folder / "policy.json")
    assert contents.policy == tuned.policy
    assert (contents.cache, contents.settings) == ("none", {"block_length": BLOCK_LENGTH})
    assert contents.about["tasks"] == ["copy", "sort"]
    text = resolve_policy(f"@{tuned.folder}/policy.json").policy
    sample = tasks.samples("copy", "test", 1, 0)[0]
    result = DiffusionSampler(hesitant(), text).generate(sample.prompt, max_new_tokens=32, **contents.settings)
    assert tasks.score(sample, result.texts[0])


def test_rounds_use_the_valid_split_and_the_end_the_test_split(tuned):
    valid = {s.prompt for task in ("copy", "sort") for s in tasks.samples(task, "valid", 8, 0)}
    test = {s.prompt for task in ("copy", "sort") for s in tasks.samples(task, "test", 6, 0)}
    rounds = sorted(tuned.folder.glob("valid-*"))
    assert rounds
    for folder in rounds:
        assert {r["prompt"] for r in read_records(folder)} <= valid
    assert {r["prompt"] for r in read_records(tuned.folder / "test")} == test
    assert not valid & test


def test_nothing_of_the_test_split_before_the_choice(tmp_path, monkeypatch):
    """Whoever draws a test sample before the policy file lies there raises."""
    drawn = []

    def guarded(task, split, *rest):
        assert split != "test" or (tmp_path / "policy.json").exists(), "the test split was looked at"
        drawn.append(split)
        return true_samples(task, split, *rest)

    true_samples = tasks.samples
    monkeypatch.setattr(tasks, "samples", guarded)
    tune(hesitant(), "copy", tmp_path, **SMALL)
    assert set(drawn) == {"valid", "test"}
    assert "valid" not in drawn[drawn.index("test") :]


def test_a_tuner_that_peeks_is_stopped(tmp_path, monkeypatch):
    def peeking(candidates, samples, max_drop, race, fewest):
        draw("copy", "test", 0, 0, 1)
        raise AssertionError("it could draw a test sample")

    monkeypatch.setattr(lab_tune, "halve", peeking)
    with pytest.raises(SealedSplitError, match="the test split is sealed"):
        tune(hesitant(), "copy", tmp_path, **SMALL)


def test_seals_end():
    with sealed("test"):
        assert draw("copy", "valid", 0, 0, 1)
        with pytest.raises(SealedSplitError):
            draw("copy", "test", 0, 0, 1)
    assert draw("copy", "test", 0, 0, 1)


def test_tune_is_deterministic_and_resumes(tuned, tmp_path, monkeypatch):
    true_compare = lab_tune.compare
    monkeypatch.setattr(lab_tune, "compare", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        tune(hesitant(), "copy,sort", tmp_path, **SMALL)
    monkeypatch.setattr(lab_tune, "compare", true_compare)
    before = {path: path.read_bytes() for path in tmp_path.glob("valid-*/records.jsonl")}
    again = tune(hesitant(), "copy,sort", tmp_path, **SMALL)
    assert before == {path: path.read_bytes() for path in tmp_path.glob("valid-*/records.jsonl")}
    assert (again.policy, again.sentence, again.frontier) == (tuned.policy, tuned.sentence, tuned.frontier)
    for folder in ("test", *(path.name for path in tuned.folder.glob("valid-*"))):
        one, other = read_records(tuned.folder / folder), read_records(tmp_path / folder)
        assert list(map(timeless, one)) == list(map(timeless, other))


def test_static_when_nothing_is_good_enough(tmp_path):
    found = tune(
        hesitant(), "copy", tmp_path, policies=["threshold:threshold=0.5"], samples=12, test_samples=5, quiet=True
    )
    assert found.policy == "topk"
    assert found.chosen["label"] == "static"
    assert not found.beats
    assert "No candidate was shown to lose at most 1 points on the valid split's 12 samples" in found.sentence


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"max_drop": -1}, DllmError, "max_drop is -1"),
        ({"fewest": 0}, DllmError, "fewest is 0"),
        ({"per": "token"}, DllmError, "per is 'token'; give forward, row, second"),
        ({"max_drop": "1"}, DllmError, "max_drop is '1'"),
        ({"tasks": "oracle-shuffle-4"}, DllmError, "has no splits to tune on"),
        ({"grid": {"topk": {"k": 1}}}, DllmError, "no candidate but static"),
        ({"grid": None, "policies": ["treshold"]}, PolicyError, "did you mean 'threshold'"),
        ({"test_samples": 0}, DllmError, "samples is 0"),
        ({"cache": "dual"}, DllmError, "keeps no keys and values"),
    ],
)
def test_wrong_input(tmp_path, changes, error, sentence):
    arguments = {"tasks": "copy", **SMALL, **changes}
    with pytest.raises(error, match=sentence):
        tune(hesitant(), arguments.pop("tasks"), tmp_path / "run", **arguments)


def test_a_changed_setting_is_refused(tuned):
    with pytest.raises(DllmError, match="max_drop 7.0, but now it is 2.0"):
        tune(hesitant(), "copy,sort", tuned.folder, **{**SMALL, "max_drop": 2.0})


def test_command_writes_a_policy_that_generate_takes(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    model, out = str(random_checkpoint(tmp_path / "model")), tmp_path / "run"
    asked = ["tune", "-o", str(out), "-m", model, "-p", "threshold", "-p", "topk:k=8", "--tasks", "copy"]
    asked += ["-n", "2", "--test-samples", "2", "--max-drop", "100", "--block-length", "8"]
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert "content tokens per forward" in said
    assert str(out / "policy.json") in said.replace("\n", "")
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert read_policy_file(out / "policy.json").policy == found["policy"]
    asked = ["generate", "copy: a b", "-m", model, "-p", f"@{out}/policy.json", "--max-new-tokens", "8", "--json"]
    assert main(asked) == 0
    assert len(json.loads(capsys.readouterr().out)["tokens"]) == 8


def test_compositions_are_singles_to_quadruples_of_parts_that_compose():
    found = compositions()
    assert len(found) == len(set(found)) > 100
    assert "threshold:threshold=0.9" in found
    drafted = "freedave:step=(contentfirst:step=(threshold:threshold=0.9)),drafts=8,cross_block=true"
    assert drafted + "+doubtexit:stale=true,eps=0.15" in found
    assert len(points(found)) == len(found) + 1


def test_search_says_what_it_takes(tmp_path):
    with pytest.raises(DllmError, match="give policies or compositions"):
        tune(hesitant(), "copy", tmp_path, search="widely", quiet=True)
    with pytest.raises(DllmError, match="leave policies and grid out"):
        tune(hesitant(), "copy", tmp_path, search="compositions", policies=["threshold"], quiet=True)
