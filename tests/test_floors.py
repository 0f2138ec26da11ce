"""Imports go down only: filters <- samplers <- dllm_decode <- scripts; the lower two know no transformers."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ("filters", "samplers", "dllm_decode", "scripts")
#: third-party packages each lower floor may import
ALLOWED = {"filters": {"torch", "safetensors"}, "samplers": {"torch"}}


def imported(path: Path) -> list[tuple[str, int]]:
    """Top-level packages that a file imports anywhere in it, with the line."""
    found = []
    package = path.relative_to(ROOT).parts[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name.split(".")[0], node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(((node.module or "").split(".")[0] if node.level == 0 else package, node.lineno))
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            name = node.args[0] if node.args else None
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                found.append((name.value.split(".")[0], node.lineno))
    return found


def offences(path: Path) -> list[str]:
    """What a file imports that its floor may not."""
    floor = path.relative_to(ROOT).parts[0]
    above = FLOORS[FLOORS.index(floor) + 1 :]
    out = []
    for name, line in imported(path):
        foreign = floor in ALLOWED and name not in (*FLOORS, *ALLOWED[floor], *sys.stdlib_module_names)
        if name in above or name == "tests" or foreign:
            out.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    return out


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_go_down_only(floor: str) -> None:
    files = sorted((ROOT / floor).rglob("*.py"))
    assert files, f"no Python files in {floor}"
    wrong = [line for path in files for line in offences(path)]
    assert not wrong, "\n".join(wrong)


def test_the_check_sees_what_it_should(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    bad = tmp_path / "samplers" / "bad.py"
    bad.parent.mkdir()
    bad.write_text(
        "import torch, math\nfrom filters import x\nfrom samplers.select import rank\n"
        "def f():\n    import transformers\n    from dllm_decode.loop import Run\n"
        "    importlib.import_module('scripts.train')\n"
    )
    assert offences(bad) == [
        "samplers/bad.py:5 imports transformers",
        "samplers/bad.py:6 imports dllm_decode",
        "samplers/bad.py:7 imports scripts",
    ]


def test_import_is_light() -> None:
    """`import dllm_decode` loads no torch: names are resolved on first use."""
    code = (
        "import sys, dllm_decode; heavy = {'torch', 'transformers', 'numpy'} & set(sys.modules); "
        "assert not heavy, heavy; assert 'generate' in dir(dllm_decode.DiffusionSampler)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_foreign_floors_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import dllm_decode

    with pytest.raises(ImportError, match=r"needs its own package 'json' beside it in .*, but Python finds .*json"):
        dllm_decode._check_floors(("json",))
    with pytest.raises(ImportError, match="finds none; remove or rename that one"):
        dllm_decode._check_floors(("no_such_package_at_all",))


def test_every_public_name_resolves() -> None:
    import dllm_decode

    for name in dllm_decode.__all__:
        assert getattr(dllm_decode, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Foo'"):
        dllm_decode.Foo  # noqa: B018
