"""The code in the documentation runs."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import torch

from dllm_decode import CallableModel, DiffusionSampler

DOCS = Path(__file__).parents[1] / "docs"


def snippets(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(), flags=re.S)


def test_write_a_policy_runs(monkeypatch):
    first, second = snippets("write-a-policy.md")
    body = [line for line in first.splitlines() if line.strip() and not line.startswith(("from", "import"))]
    assert len(body) <= 15
    example = types.ModuleType("docs_example")
    monkeypatch.setitem(sys.modules, "docs_example", example)  # dataclasses look their module up
    exec(compile(first, "write-a-policy.md", "exec"), example.__dict__)
    policy = example.LeadFromTheLeft(lead=0.6)

    head = torch.randn(12, 12, generator=torch.Generator().manual_seed(3)) * 3
    model = CallableModel(lambda ids: head[ids].cumsum(1), mask_id=11, vocab_size=12)
    result = DiffusionSampler(model, policy).generate([[1, 2, 3], [4]], max_new_tokens=10, block_length=5)
    assert all(11 not in row for row in result.sequences)
    for trace in result.trace:
        for step in trace.steps:
            assert step.cells
    assert "DiffusionSampler" in second
