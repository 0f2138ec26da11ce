"""The code in the documentation runs."""

from __future__ import annotations

import re
import sys
import types
from dataclasses import fields
from pathlib import Path

import pytest

from samplers import FreeDave, Policy, Prediction, SchED
from samplers.contract.policy import ROLES, Scope
from tests.toys import FAMILIES, MASK, decode, tiny

DOCS = Path(__file__).parents[1] / "docs"


def snippets(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(), flags=re.S)


@pytest.fixture
def example(monkeypatch) -> types.ModuleType:
    """The module that a reader of docs/write-a-policy.md has written: both its classes."""
    module = types.ModuleType("docs_example")
    monkeypatch.setitem(sys.modules, "docs_example", module)  # dataclasses look their module up
    for code in snippets("write-a-policy.md")[::2]:
        exec(compile(code, "write-a-policy.md", "exec"), module.__dict__)
    return module


def test_the_policy_has_as_many_lines_as_it_says():
    text = (DOCS / "write-a-policy.md").read_text()
    lines = [line for line in snippets("write-a-policy.md")[0].splitlines() if line.strip()]
    assert "Fifteen lines that run" in text and len(lines) <= 15


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_policy_does_what_it_says(example, family, cache):
    """Clear winners beside decided text, and always the best cell; in a batch as alone; composed and accelerated."""
    policy = example.LeadFromTheLeft(lead=0.1)
    model, prompts = tiny(family, 2), [[1, 2, 3], [4]]
    settings = {"max_new_tokens": 12, "block_length": 6}
    result = decode(model, policy, prompts, cache, **settings)
    together = 0
    for row, trace in enumerate(result.trace):
        assert MASK not in result.sequences[row]
        for number, step in enumerate(trace.steps):
            before = trace.replay(number)
            alone = [cell for cell in step.cells if cell and before[cell - 1] == MASK]
            assert step.cells and len(alone) <= 1, step  # the best cell may stand anywhere
            together += len(step.cells) > 1
        assert decode(model, policy, prompts[row], cache, **settings).sequences[0] == result.sequences[row]
    assert together
    fast = decode(model, FreeDave(policy) | SchED(stale=True), prompts, cache, **settings)
    slow = decode(model, policy | SchED(stale=True), prompts, cache, **settings)
    assert fast.sequences == slow.sequences


@pytest.mark.parametrize("use", [1, 3])
def test_its_use_runs(example, capsys, use):
    exec(compile(snippets("write-a-policy.md")[use], "write-a-policy.md", "exec"), example.__dict__)
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_second_policy_does_what_it_says(example, family, cache):
    """Two looks at each block, then what two forwards left where it was and the best cell; in a batch as alone."""
    policy = example.Settled(drift=0.3, first_looks=2)
    model, prompts = tiny(family, 2), [[1, 2, 3], [4]]
    settings = {"max_new_tokens": 12, "block_length": 6, "early_stop": False}
    result = decode(model, policy, prompts, cache, **settings)
    together = 0
    for row, trace in enumerate(result.trace):
        assert MASK not in result.sequences[row]
        for start in (0, 6):
            counts = [len(step.cells) for step in trace.steps if step.start == start]
            assert counts[:2] == [0, 0] and all(counts[2:]), counts
            together += max(counts) > 1
        alone = decode(model, policy, prompts[row], cache, **settings)
        assert [s.cells for s in alone.trace[0].steps] == [s.cells for s in trace.steps]
    assert together


def test_the_documented_declarations_exist():
    """Every name in backquotes that the page says a part may declare or play."""
    text = (DOCS / "write-a-policy.md").read_text()
    roles = re.findall(r"^\| `(\w+)\(", text, flags=re.M)
    assert sorted(roles) == sorted(ROLES)
    declared = text[text.index("Declarations beside the roles") :].partition("`bind(setting)`")[0]
    for name in ("needs", "scope", "revises", "forecast"):
        assert f"`{name}`" in declared and hasattr(Policy, name)
    for need in ("entropy", "margin", "logit_margin", "logits", "probs"):
        assert f"`{need}`" in declared and need in {f.name for f in fields(Prediction)}
    for scope in Scope.__members__.values():
        assert f"`Scope.{scope.name}`" in declared


PAGES = [DOCS.parent / "README.md", DOCS.parent / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_modules_exist(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert ":" in link or (page.parent / link).exists(), f"{page.name} links {link}"
    for module in re.findall(r"python -m (scripts[\w.]+)", text):
        assert (DOCS.parent / (module.replace(".", "/") + ".py")).exists(), f"{page.name} runs {module}"


def test_every_page_is_listed_and_every_room_is_described():
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in DOCS.glob("*.md") if page.name != "README.md" and page.name not in index] == []
    rooms = (DOCS / "contributing.md").read_text(encoding="utf-8")
    folders = [path.parent for path in (DOCS.parent / "dllm_decode").glob("*/__init__.py")]
    assert [folder.name for folder in sorted(folders) if f"{folder.name}/`" not in rooms] == []
