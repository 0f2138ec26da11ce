"""The recipe script: same figures as the command's function, and a grid that parses."""

from __future__ import annotations

import json

from dllm_decode.lab.compare import compare
from dllm_decode.lab.points import points
from scripts.check_resume import timeless, whole
from scripts.compare_policies import GRID, compare_policies, findings
from tests.dllm_decode.lab_toys import random_checkpoint


def test_the_recipe_is_what_the_command_runs(tmp_path):
    checkpoint = random_checkpoint(tmp_path / "model")
    grid = tmp_path / "grid.yaml"
    grid.write_text("threshold: {threshold: [0.1, 0.9]}\n")
    setting = {"samples": 2, "egp": False, "quiet": True}
    mine = compare_policies(str(checkpoint), "copy", tmp_path / "a", grid, **setting)
    other = compare(str(checkpoint), (), "copy", tmp_path / "b", grid=grid, **setting)
    for one, two in zip(mine["rows"], other["rows"], strict=True):
        assert (one["label"], one["nfe"], one["accuracy"]) == (two["label"], two["nfe"], two["accuracy"])
    assert {path.name for path in (tmp_path / "a").iterdir()} == {path.name for path in (tmp_path / "b").iterdir()}
    (sentence,) = findings(mine)
    assert sentence.startswith("cache none: at most 1 point below static, ")


def test_the_results_grid_names_real_policies():
    found = points((), GRID)
    assert len(found) > 20
    assert len({p.label for p in found}) == len(found)


def test_lines_are_compared_without_their_times():
    line = json.dumps({"key": "a", "wall_s": 0.5, "model_s": 0.4, "policy_s": 0.1, "nfe": 3}).encode()
    other = json.dumps({"key": "a", "wall_s": 9.5, "model_s": 0.4, "policy_s": 9.1, "nfe": 3}).encode()
    assert timeless(line) == timeless(other)
    assert timeless(line) != timeless(line.replace(b"3}", b"4}"))
    assert whole(line + b"\n" + other[:5]) == line + b"\n"
    assert whole(line) == b""
