"""Policies of a comparison, from strings, files and grids; policy files."""

from __future__ import annotations

import json

import pytest

from dllm_decode.engine.policy_file import (
    PolicyFile,
    read_policy_file,
    resolve_policy,
    write_policy_file,
)
from dllm_decode.errors import DllmError
from dllm_decode.lab.compare import DEFAULT_POLICIES
from dllm_decode.lab.grids import TUNING_GRID
from dllm_decode.lab.points import STATIC, expand, points
from samplers import PolicyError, TopK, parse_policy


def test_static_is_one_cell_per_forward_and_always_first():
    assert parse_policy(STATIC.policy) == TopK(k=1)
    assert points() == [STATIC]
    assert points(["threshold", "topk:k=1"])[0] == STATIC
    assert [p.label for p in points(["threshold", "topk:k=1", "topk"])] == ["static", "threshold"]


def test_the_same_policy_in_two_spellings_is_one_point():
    found = points(["threshold:threshold=0.9", "threshold", "Threshold:threshold=0.90"])
    assert [p.label for p in found] == ["static", "threshold"]


def test_families_share_everything_but_their_numbers():
    found = points(["threshold:threshold=0.8", "threshold", "topk:k=2", "topk:k=2,score=random", "topk:k=4"])
    assert [(p.family, p.knob) for p in found[1:]] == [
        ("threshold", {"threshold": 0.8}),
        ("threshold", {"threshold": 0.9}),
        ("topk", {"k": 2}),
        ("topk:score=random", {}),
        ("topk", {"k": 4}),
    ]


def test_families_of_compositions_name_the_part():
    found = points(["adablock+localleap:radius=2", "adablock+localleap:radius=8"])
    assert [(p.family, p.knob) for p in found[1:]] == [
        ("adablock+localleap", {"localleap.radius": 2}),
        ("adablock+localleap", {"localleap.radius": 8}),
    ]


def test_grid_takes_all_combinations():
    grid = {"localleap": {"radius": [2, 4], "relaxed_threshold": [0.5, 0.75]}, "threshold": None}
    assert expand(grid) == [
        "localleap:relaxed_threshold=0.5,radius=2",
        "localleap:radius=2",
        "localleap:relaxed_threshold=0.5",
        "localleap",
        "threshold",
    ]
    assert expand(["threshold", {"topk": {"k": 2, "score": ["random", "margin"]}}]) == [
        "threshold",
        "topk:k=2,score=random",
        "topk:k=2,score=margin",
    ]
    assert expand({"adablock+threshold": {"threshold.threshold": [0.7], "adablock.default_length": None}}) == [
        "adablock+threshold:threshold=0.7"
    ]
    assert expand({"topk": {"spend": True, "steps": 4}}) == ["topk:steps=4,spend=true"]


def test_grid_file(tmp_path):
    file = tmp_path / "grid.yaml"
    file.write_text("threshold: {threshold: [0.5, 0.9]}\nfactor:\n")
    assert [p.label for p in points((), file)] == ["static", "threshold:threshold=0.5", "threshold", "factor"]


@pytest.mark.parametrize(
    ("grid", "sentence"),
    [
        ([], "the grid is"),
        ("threshold", "the grid is"),
        ([3], "the grid holds 3"),
        ({"threshold": [0.5]}, "gives threshold the parameters"),
        ({"threshold": {"threshold": []}}, "no value for threshold"),
        ({"adablock+threshold": {"threshold": 0.5}}, "write it as PART.threshold, PART one of adablock, threshold"),
    ],
)
def test_wrong_grids_end_in_a_sentence(grid, sentence):
    with pytest.raises(DllmError, match=sentence):
        expand(grid)


@pytest.mark.parametrize("grid", [{"treshold": None}, {"threshold": {"tau": 1}}, {"threshold": {"threshold": "high"}}])
def test_wrong_policies_in_a_grid(grid):
    with pytest.raises(PolicyError):
        expand(grid)


def test_wrong_grid_files(tmp_path):
    with pytest.raises(DllmError, match="cannot read grid"):
        points((), tmp_path / "none.yaml")
    file = tmp_path / "grid.yaml"
    file.write_text("threshold: [0.5")
    with pytest.raises(DllmError, match="is no YAML"):
        points((), file)


def test_our_own_grids_parse():
    assert len(points(DEFAULT_POLICIES)) == len(DEFAULT_POLICIES) + 1
    assert len(points((), TUNING_GRID)) > 20


def test_policy_files_go_out_and_come_back(tmp_path):
    contents = PolicyFile("threshold:threshold=0.7", "dual", {"block_length": 8}, {"model": "tiny"})
    write_policy_file(tmp_path / "p.json", contents)
    assert read_policy_file(tmp_path / "p.json") == contents
    assert resolve_policy(f"@{tmp_path}/p.json") == (parse_policy(contents.policy), "dual", {"block_length": 8})
    assert points([f"@{tmp_path}/p.json"])[1].label == "threshold:threshold=0.7"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is no JSON"),
        ("[]", "is no policy file"),
        (json.dumps({"policy": "threshold"}), "is no policy file"),
        (json.dumps({"version": 1, "policy": 3}), "is no policy file"),
        (json.dumps({"version": 1, "policy": "threshold", "cache": 3}), "names the cache 3"),
        (json.dumps({"version": 1, "policy": "threshold", "settings": []}), "is damaged"),
    ],
)
def test_wrong_policy_files(tmp_path, text, sentence):
    file = tmp_path / "p.json"
    file.write_text(text)
    with pytest.raises(DllmError, match=sentence):
        read_policy_file(file)


def test_missing_policy_file(tmp_path):
    with pytest.raises(DllmError, match="cannot read policy file"):
        resolve_policy(f"@{tmp_path}/none.json")
