"""Policy files: everything in them is taken, or said to be left; what they may not hold is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dllm_decode import DiffusionSampler, GenerationConfig
from dllm_decode.cli import main
from dllm_decode.engine.policy_file import read_policy_file, resolve_policy
from dllm_decode.errors import DllmError
from dllm_decode.lab.points import points
from samplers import PolicyError, Threshold, TopK

SETTINGS = {"block_length": None, "suppress_tokens": [5, 6], "precision": "reference", "stop": ["zz"], "seed": 4}


def written(folder: Path, **contents: Any) -> str:
    path = folder / "p.json"
    path.write_text(json.dumps({"version": 1, "policy": "topk:k=2", **contents}), encoding="utf-8")
    return f"@{path}"


def test_the_api_takes_all_of_it(tmp_path: Path) -> None:
    file = written(tmp_path, cache="dual", settings=SETTINGS)
    sampler = DiffusionSampler("tiny", file)
    assert sampler.cache == "dual" and sampler.config == GenerationConfig.from_dict(SETTINGS)
    assert sampler.config.suppress_tokens == (5, 6)
    own = GenerationConfig(block_length=4)
    assert DiffusionSampler("tiny", file, config=own).config == own
    assert DiffusionSampler("tiny", file, "none").cache == "none"


def test_the_command_takes_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, cache="dual", settings=SETTINGS)
    trace = tmp_path / "t.jsonl"
    assert main(["generate", "x", "-p", file, "--trace", str(trace), "--max-new-tokens", "8", "--seed", "9"]) == 0
    meta = json.loads(trace.read_text(encoding="utf-8").splitlines()[0])["meta"]
    want = GenerationConfig.from_dict({**SETTINGS, "seed": 9, "max_new_tokens": 8}).to_dict()
    assert meta["cache"] == "dual" and meta["config"] == want
    capsys.readouterr()


def test_what_is_left_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = written(tmp_path, cache="dual", settings={"block_length": 4})
    assert points([file])[1].policy == "topk:k=2"
    assert "it also sets cache, block_length" in caplog.text
    assert (
        main(["evaluate", "-p", written(tmp_path, settings={"max_new_tokens": 4}), "--tasks", "copy", "-n", "1"]) == 0
    )


@pytest.mark.parametrize(
    ("contents", "sentence"),
    [
        ({"setings": {}}, r"holds 'setings' \(did you mean 'settings'\?\); it may hold version, policy,"),
        (
            {"settings": {"block_lenght": 4}},
            r"unknown generation setting 'block_lenght' \(did you mean",
        ),
        ({"settings": {"suppress_tokens": "ab"}}, "suppress_tokens is 'ab'; give a tuple of token ids"),
        ({"cache": "dula"}, "names the cache 'dula'; use one of none, prefix, dual, block"),
        ({"cache": 3}, "names the cache 3"),
        ({"settings": []}, "settings and about must be objects"),
    ],
)
def test_what_it_may_not_hold(tmp_path: Path, contents: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DllmError, match=sentence):
        read_policy_file(written(tmp_path, **contents)[1:])


def test_one_place_says_what_a_policy_argument_is(tmp_path: Path) -> None:
    file = written(tmp_path, cache="dual", settings={"block_length": 4})
    assert resolve_policy(file) == (TopK(2), "dual", {"block_length": 4})
    assert resolve_policy("threshold") == resolve_policy(Threshold()) == (Threshold(), None, {})
    with pytest.raises(PolicyError, match="unknown policy 'treshold'"):
        resolve_policy(written(tmp_path, policy="treshold"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("@p.json", "'@p.json' names a file to read, which is not allowed here; spell the policy out."),
        (" @p.json", "names a file to read"),
        ("os:system(command=ls)", "names a class to import"),
        ("learn2pd:filter=x.safetensors", "filter names a file to read"),
        ("freedave:step=(tests.toys:Mine)", "names a class to import"),
        ("pcsampler:table=x.json", "table names a file to read"),
        ("freedave:step=" + "(freedave:step=" * 3000 + "topk" + ")" * 3000, "nested too deep"),
    ],
)
def test_what_a_stranger_may_not_give(text: str, sentence: str) -> None:
    with pytest.raises(PolicyError, match=re.escape(sentence)):
        resolve_policy(text, trusted=False)
    adablock = resolve_policy("adablock:delimiters=\\n/5+localleap:radius=2", trusted=False)
    assert adablock == resolve_policy("adablock:delimiters=\\n/5+localleap:radius=2")
