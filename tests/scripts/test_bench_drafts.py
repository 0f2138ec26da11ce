"""The benchmark of drafts: what it counts and fits, and that it says what it should on tiny sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from scripts.bench import drafts
from scripts.bench.drafts import MOST, Chances
from tests.toys import decode, tiny


def test_chances_are_counted_from_the_trace() -> None:
    result = decode(tiny("llada"), "freedave:drafts=8", [[1, 2], [3]], max_new_tokens=12, block_length=12)
    found = Chances()
    found.count(result)
    steps = [step for trace in result.trace for step in trace.steps if not step.opening]
    assert found.tried[0] == sum(step.rows > 1 for step in steps)
    # every cell beyond a forward's first was a draft that held, or completed the block and was not forwarded
    beyond = sum(len(step.cells) - 1 for step in steps)
    assert 0 <= beyond - found.held.sum() <= len(result.trace)
    assert (found.held <= found.tried).all() and (np.diff(found.tried) <= 0).all()


def test_the_law_is_found() -> None:
    place = np.arange(MOST - 1)
    a, r = Chances(np.full(MOST - 1, 1e6), 1e6 * 0.8 * 0.9**place).law()
    assert (a, r) == pytest.approx((0.8, 0.9))


@pytest.mark.slow
def test_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafts, "BATCHES", (1, 2))
    app = typer.Typer()
    app.command()(drafts.main)
    picture = tmp_path / "drafts.png"
    said = CliRunner().invoke(app, ["--samples", "1", "--repeats", "1", "--only", "copy", "--picture", str(picture)])
    assert said.exit_code == 0, said.output
    assert "| copy |" in said.output and "| all |" in said.output and "bar 1.05" in said.output
    assert picture.read_bytes().startswith(b"\x89PNG")
