"""The rooms of the house: imports go down only, in no circle, and the lower floors know no heavy library.

An import counts wherever it stands: in a function, under ``TYPE_CHECKING``, or as ``importlib.import_module("...")``.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BASE = ("dllm_decode.config", "dllm_decode.errors", "dllm_decode.files")
POLICIES = ("samplers", "samplers.contract", "filters")
MODELS = (
    "dllm_decode.models",
    "dllm_decode.attention",
    "dllm_decode.kernels",
    "dllm_decode.interface",
    *POLICIES,
    *BASE,
)
ENGINE = ("dllm_decode.engine", *MODELS)
JOBS = ("dllm_decode.jobs", "dllm_decode.viewing", "dllm_decode.tasks", *ENGINE)
LAB = ("dllm_decode.lab", "dllm_decode.harness", *JOBS)
#: room -> the rooms it may import, beside itself; a module lies in the room with the longest name it starts with
ROOMS: dict[str, tuple[str, ...]] = {
    "filters": (),
    "samplers.contract": ("filters",),
    "samplers": ("samplers.contract", "filters"),
    "dllm_decode.errors": (),
    "dllm_decode.config": ("dllm_decode.errors",),
    "dllm_decode.files": ("dllm_decode.errors",),
    "dllm_decode.interface": (*POLICIES, *BASE),
    "dllm_decode.kernels": ("dllm_decode.interface", *BASE),
    "dllm_decode.attention": ("dllm_decode.kernels", "dllm_decode.interface", *BASE),
    "dllm_decode.models": ("dllm_decode.attention", "dllm_decode.kernels", "dllm_decode.interface", *BASE),
    "dllm_decode.engine": MODELS,
    "dllm_decode.tasks": BASE,
    "dllm_decode.viewing": ("dllm_decode.tasks", *ENGINE),
    "dllm_decode.jobs": JOBS[1:],
    "dllm_decode.harness": JOBS,
    "dllm_decode.lab": LAB,
    "dllm_decode.filter_training": LAB,
    "dllm_decode.serve": ("dllm_decode.viewing", "dllm_decode.tasks", *ENGINE),
    "dllm_decode.cli": ("dllm_decode.filter_training", "dllm_decode.serve", *LAB),
    "dllm_decode.__main__": ("dllm_decode.cli",),
    "dllm_decode": (),  # the front door: it names what others define, and imports it on first use
    "scripts": (
        "dllm_decode",
        "dllm_decode.cli",
        "dllm_decode.filter_training",
        "dllm_decode.serve",
        *LAB,
    ),
}
#: third-party packages each lower room may import
ALLOWED = {"filters": {"torch", "safetensors"}, "samplers": {"torch"}, "samplers.contract": {"torch"}}
TOPS = ("filters", "samplers", "dllm_decode", "scripts", "tests")


def modules(root: Path) -> dict[str, Path]:
    """Every module of the packages under ``root``, by name."""
    found = {}
    for top in TOPS[:-1]:
        for path in sorted((root / top).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room_of(module: str) -> str:
    """The room a module lies in."""
    parts = module.split(".")
    names = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((name for name in names if name in ROOMS), parts[0])


def imported(path: Path, known: Iterable[str], package: str) -> list[tuple[str, int]]:
    """What a file imports anywhere in it, with the line; a name is a module where there is one of that name."""
    found: list[tuple[str, int]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])
            base = base if node.level else node.module or ""
            for alias in node.names:
                name = f"{base}.{alias.name}"
                if name != "dllm_decode.__version__":
                    found.append((name if name in known else base, node.lineno))
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            name = node.args[0] if node.args else None
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                found.append((name.value, node.lineno))
    return found


def offences(root: Path) -> list[str]:
    """Every import that its room may not make, by file and line."""
    known, out = modules(root), []
    for module, path in known.items():
        room = room_of(module)
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        for name, line in imported(path, known, package):
            top, target = name.split(".")[0], room_of(name)
            if top in TOPS:
                wrong = target not in (room, *ROOMS[room])
            else:
                wrong = room in ALLOWED and top not in (*ALLOWED[room], *sys.stdlib_module_names)
            if wrong:
                out.append(f"{path.relative_to(root)}:{line} imports {name}: {room} may not")
    return out


def circles(root: Path) -> list[str]:
    """Modules that import each other, directly or on the way, one line per circle."""
    known = modules(root)
    edges = {}
    for module, path in known.items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        edges[module] = {name for name, _ in imported(path, known, package) if name in known and name != module}
    reach = {module: set(targets) for module, targets in edges.items()}
    for middle in known:
        for targets in reach.values():
            if middle in targets:
                targets |= reach[middle]
    within = {frozenset(m for m in reach[module] if module in reach[m]) for module in known if module in reach[module]}
    return sorted(" <-> ".join(sorted(circle)) for circle in within)


def test_imports_go_down_only() -> None:
    wrong = offences(ROOT)
    assert not wrong, "\n".join(wrong)


def test_no_import_runs_in_a_circle() -> None:
    found = circles(ROOT)
    assert not found, "\n".join(found)


def test_the_table_is_of_this_house() -> None:
    """Every module has a room; every room but those to come exists; no row of the table runs up or in a circle."""
    for module in modules(ROOT):
        assert room_of(module) in ROOMS, f"{module} lies in no room"
    order = list(ROOMS)
    for room, below in ROOMS.items():
        if room != "dllm_decode":
            late = [name for name in below if order.index(name) > order.index(room)]
            assert not late, f"{room} would import {late}, which stand above it"


def test_the_check_sees_what_it_should(tmp_path: Path) -> None:
    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    write(
        "samplers/bad.py",
        "import torch, math\nfrom filters import x\nfrom samplers.contract.select import rank\n"
        "def f():\n    import transformers\n    from dllm_decode.engine.loop import Run\n"
        "    importlib.import_module('scripts.train')\n",
    )
    write("samplers/contract/data.py", "if TYPE_CHECKING:\n    from samplers.bad import f\n")
    write("dllm_decode/engine/__init__.py", "")
    write("dllm_decode/engine/loop.py", "from dllm_decode.engine import step\n")
    write("dllm_decode/engine/step.py", "def f():\n    from .loop import Run\n")
    assert offences(tmp_path) == [
        "samplers/bad.py:5 imports transformers: samplers may not",
        "samplers/bad.py:6 imports dllm_decode.engine.loop: samplers may not",
        "samplers/bad.py:7 imports scripts.train: samplers may not",
        "samplers/contract/data.py:2 imports samplers.bad: samplers.contract may not",
    ]
    assert circles(tmp_path) == ["dllm_decode.engine.loop <-> dllm_decode.engine.step"]


def test_import_is_light() -> None:
    """`import dllm_decode` loads no torch: names are resolved on first use."""
    code = (
        "import sys, dllm_decode; heavy = {'torch', 'transformers', 'numpy'} & set(sys.modules); "
        "assert not heavy, heavy; assert 'generate' in dir(dllm_decode.DiffusionSampler)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_sampler_is_light() -> None:
    """The sampler comes without transformers: its model classes are imported when a checkpoint is loaded."""
    code = "import sys; from dllm_decode import DiffusionSampler; assert 'transformers' not in sys.modules"
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
