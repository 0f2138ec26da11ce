"""The papers' headlines on a small random model: which runs make a chain, and what a check notices."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from dllm_decode.models import LLaDA, LLaDAConfig, NativeModel, load_model
from scripts import headlines
from scripts.headlines import HEADLINES, Run, differences, links, measure


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> NativeModel:
    monkeypatch.setattr(headlines, "TASKS", ("chain",))
    monkeypatch.setattr(headlines, "LONGEST", 16)
    monkeypatch.setattr(headlines, "HEADLINES", tuple(h for h in HEADLINES if h.name.startswith(("Fast", "SchED"))))
    module = LLaDA(
        LLaDAConfig(
            d_model=32, n_layers=1, n_heads=2, mlp_hidden_size=32, vocab_size=600, embedding_size=600, mask_token_id=0
        )
    )
    return NativeModel(module, mask_id=0, eos_ids=(1,), tokenizer=load_model("tiny").tokenizer, name="tiny")


def test_a_chain_changes_one_thing_at_a_time() -> None:
    for line in HEADLINES:
        chain = list(links(line).values())[:4]
        for before, after in zip(chain, chain[1:], strict=False):
            assert sum(a != b for a, b in zip(before, after, strict=True)) <= 1
        assert chain[0][2] is False and chain[3][:2] == (line.policy, line.cache)


def test_runs_that_headlines_share_are_decoded_once(model: NativeModel) -> None:
    found = measure(headlines.HEADLINES, 3, 2, model)
    assert found["Fast-dLLM, prefix, 256"]["it stops"] == found["Fast-dLLM, dual, 256"]["it stops"]
    base = found["SchED, 256"]["paper's baseline"]
    assert (base.forwards, base.count) == (2 * 16, 2) and base.over(base, "forwards") == 1
    assert base.tokens > found["Fast-dLLM, dual, 256"]["with the cache"].tokens
    assert found["SchED, 256"]["it stops"].count == 3 and found["SchED, 256"][headlines.FEW].count == 2
    assert len(headlines.lines(found)) > 2 + len(found)


def test_a_check_names_what_is_off() -> None:
    was = {"a": {"it stops": asdict(Run(1.0, 100, 5, 18, 20))}}
    assert differences({"a": {"it stops": Run(9.0, 101, 5, 17, 20)}}, was) == []
    off = differences({"a": {"it stops": Run(9.0, 120, 5, 9, 20)}, "b": {"it stops": Run(1, 1, 1, 1, 1)}}, was)
    assert [line.partition(":")[0] for line in off] == ["a, it stops", "a, it stops", "b, it stops"]


def test_the_page_and_its_check(model: NativeModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(headlines, "load_model", lambda name: model)
    page = tmp_path / "headlines.md"
    page.write_text("<!-- headlines: begin -->\n<!-- headlines: end -->\n")
    app = typer.Typer()
    app.command()(headlines.main)
    done = CliRunner().invoke(app, ["--count", "1", "--docs", str(page)])
    assert done.exit_code == 0, done.output
    assert "| SchED, 256 |" in page.read_text() and json.loads((tmp_path / "headlines.json").read_text())
    check = ["--count", "1", "--check", "--published", str(tmp_path / "headlines.json")]
    assert CliRunner().invoke(app, check).exit_code == 0
    wrong = json.loads((tmp_path / "headlines.json").read_text())
    wrong["SchED, 256"]["it stops"]["forwards"] = 1
    (tmp_path / "headlines.json").write_text(json.dumps(wrong))
    failed = CliRunner().invoke(app, check)
    assert failed.exit_code == 1 and "SchED, 256, it stops: " in failed.output
