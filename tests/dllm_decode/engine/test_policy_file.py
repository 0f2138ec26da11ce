"""Policy files: everything in them is taken, or said to be left; what they may not hold is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dllm_decode import DiffusionSampler, GenerationConfig
from dllm_decode.cli import main
from dllm_decode.engine.policy_file import policy_string, read_policy_file
from dllm_decode.errors import DllmError

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
    assert policy_string(file) == "topk:k=2"
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
