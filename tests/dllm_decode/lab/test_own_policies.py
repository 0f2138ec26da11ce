"""Policies of classes that nobody has registered, as objects, in the lab."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dllm_decode.lab.compare import compare
from dllm_decode.lab.evaluate import evaluate
from dllm_decode.lab.points import points
from dllm_decode.lab.records import read_records
from samplers import EGP, EosStop, Policy, PolicyError, Threshold, bounded, commit


@dataclass(frozen=True)
class Lead(Policy):
    """Commit clear winners."""

    lead: float = bounded(0.5, least=0)
    needs = frozenset({"margin"})

    def decide(self, view: Any, prediction: Any, memory: Any) -> Any:
        return commit(prediction.margin >= self.lead, prediction), memory


def test_objects_go_on_record_by_their_strings() -> None:
    found = points([Lead(0.4), Lead() | EosStop(), Threshold(0.5), "threshold:threshold=0.5"])
    mine = f"{__name__}:Lead"
    assert [p.label for p in found] == ["static", f"{mine}(lead=0.4)", f"{mine}+eosstop", "threshold:threshold=0.5"]
    assert found[1].family == mine


def test_what_a_string_cannot_say_is_refused() -> None:
    @dataclass(frozen=True)
    class Inner(Lead):
        pass

    for policy in (Inner(), EGP(reference=((1, 2),))):
        with pytest.raises(PolicyError, match="does not say all of this policy"):
            points([policy])


@pytest.mark.slow
def test_compare_and_evaluate_take_them(tmp_path: Path) -> None:
    policies = [Lead(0.4), Lead(0.6) | EosStop()]
    compare("tiny", policies, "copy", tmp_path / "one", samples=4, quiet=True, egp=False)
    compare("tiny", policies, "copy", tmp_path / "two", samples=4, quiet=True, egp=False, processes=2)

    def plain(folder: str) -> list[Any]:
        return [(r["key"], r["tokens"], r["nfe"]) for r in read_records(tmp_path / folder)]

    assert len(plain("one")) == 12 and plain("one") == plain("two")
    report = evaluate("tiny", Lead(0.4), "copy", 4)
    assert report.policy == f"{__name__}:Lead(lead=0.4)"
