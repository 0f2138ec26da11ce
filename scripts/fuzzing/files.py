"""Files that are damaged: policies, checkpoints, filters, traces and records."""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from scripts.fuzzing.given import JUNK, cli, sampler


def damaged(draw: random.Random, value: Any) -> Any:
    """A JSON value with one place of it changed."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        name = draw.choice(list(value))
        how = draw.randrange(4)
        if how == 0:
            return {k: v for k, v in value.items() if k != name}
        if how == 1:
            return {**value, name + "x": value[name]}
        return {**value, name: damaged(draw, value[name])}
    if isinstance(value, list) and value and draw.random() < 0.7:
        at = draw.randrange(len(value))
        return draw.choice([value[:at] + value[at + 1 :], [*value[:at], damaged(draw, value[at]), *value[at + 1 :]]])
    return draw.choice(JUNK)


def cut(draw: random.Random, data: bytes) -> bytes:
    """Bytes with a piece missing, changed or added."""
    at = draw.randrange(len(data) + 1)
    return draw.choice([data[:at], data[at:], data[:at] + b"\xff" + data[at + 1 :], data[: at // 2] + data[at:], b""])


def policy_files(draw: random.Random, folder: Path) -> tuple[str, Callable[[], object]]:
    """Files behind ``@``."""
    whole = {
        "version": 1,
        "policy": "topk:k=2",
        "cache": "dual",
        "settings": {"block_length": 4, "suppress_tokens": [5]},
        "about": {},
    }
    data = json.dumps(damaged(draw, whole)).encode()
    if draw.random() < 0.3:
        data = cut(draw, data)
    path = folder / "p.json"
    path.write_bytes(data)
    return repr(data), cli("generate", "copy: a", "--max-new-tokens", "4", "-p", f"@{path}")


@cache
def bundled() -> Path:
    """The bundled checkpoint."""
    from dllm_decode.models.loading import BUNDLED

    return BUNDLED / "tiny"


def checkpoints(draw: random.Random, folder: Path) -> tuple[str, Callable[[], object]]:
    """The bundled checkpoint with one file damaged."""
    for path in bundled().iterdir():
        if path.is_file():
            (folder / path.name).symlink_to(path)
    names = sorted(p.name for p in folder.iterdir() if p.suffix in (".json", ".safetensors", ".jinja"))
    name = draw.choice(
        [*names, "config.json", "config.json", "generation_config.json", "model.safetensors.index.json"]
    )
    path, good = folder / name, b"{}"
    if path.exists():
        good = path.read_bytes()
        path.unlink()
    if draw.random() < 0.1:
        return f"{name} is missing", cli("generate", "x", "--max-new-tokens", "4", "-m", str(folder))
    if name.endswith(".index.json"):
        data = json.dumps(
            draw.choice([{}, {"weight_map": draw.choice(JUNK)}, {"weight_map": {"a": draw.choice(JUNK)}}])
        ).encode()
    elif name.endswith(".json") and draw.random() < 0.8:
        changed = damaged(draw, json.loads(good))
        data = json.dumps(changed).encode("utf-8", "surrogatepass")
    else:
        data = cut(draw, good)
    path.write_bytes(data)
    return f"{name}: {data[:600]!r}", cli("generate", "x", "--max-new-tokens", "4", "-m", str(folder))


def filters(draw: random.Random, folder: Path) -> tuple[str, Callable[[], object]]:
    """A shipped filter with its weights or its card damaged."""
    from filters.bank import SHIPPED

    for suffix in (".json", ".safetensors"):
        shutil.copy(next(SHIPPED.glob(f"*{suffix}")), folder / f"f{suffix}")
    card = folder / "f.json"
    if draw.random() < 0.7:
        card.write_text(json.dumps(damaged(draw, json.loads(card.read_text()))))
    else:
        path = draw.choice([card, folder / "f.safetensors"])
        path.write_bytes(cut(draw, path.read_bytes()))
    args = [
        "generate",
        "x",
        "--max-new-tokens",
        "4",
        "--block-length",
        "4",
        "-p",
        f"learn2pd:filter={folder / 'f.safetensors'}",
    ]
    return card.read_bytes()[:300].decode("utf-8", "replace"), cli(*args)


@cache
def good_trace() -> str:
    """A trace of two rows."""
    result = sampler().generate(["copy: a b", "x"], max_new_tokens=8, block_length=4)
    return "".join(line + "\n" for trace in result.trace for line in trace.to_lines())


def traces(draw: random.Random, folder: Path) -> tuple[str, Callable[[], object]]:
    """A trace that is cut, lacks a line or has wrong values: never replayed as if it were whole."""
    good = good_trace()
    lines = good.splitlines()
    at = draw.randrange(len(lines))
    how = draw.randrange(4)
    if how == 0:
        text = "\n".join(lines[:at] + lines[at + 1 :])
    elif how == 1:
        text = "\n".join(lines[:at])
    elif how == 2:
        text = "\n".join([*lines[:at], json.dumps(damaged(draw, json.loads(lines[at]))), *lines[at + 1 :]])
    else:
        text = cut(draw, good.encode()).decode("latin-1")
    path = folder / "t.jsonl"
    path.write_text(text + "\n", encoding="utf-8")
    command = draw.choice([["replay", str(path)], ["view", str(path), "--out", str(folder / "p.html")]])
    call = cli(*command)
    lacks = how in (0, 1)

    def checked() -> object:
        code = call()
        if code == 0 and lacks and text.count('"trace"') * 1 == good.count('"trace"'):
            raise AssertionError("a trace that lacks a line was taken for whole")
        return code

    return repr((command[0], text[:900])), checked


@cache
def good_run() -> Path:
    """A small comparison."""
    from dllm_decode.lab.compare import compare

    folder = Path(tempfile.mkdtemp()) / "run"
    with contextlib.redirect_stderr(io.StringIO()):
        compare(sampler().model, ["threshold"], "copy", folder, samples=2, egp=False, quiet=True)
    return folder


def records(draw: random.Random, folder: Path) -> tuple[str, Callable[[], object]]:
    """The folder of a comparison with a line, a value or a byte of it damaged: refused, or decoded again."""
    shutil.copytree(good_run(), folder / "run")
    path = folder / "run" / draw.choice(["records.jsonl", "records.jsonl", "setting.json"])
    data = path.read_bytes()
    lines = data.splitlines()
    at = draw.randrange(len(lines))
    if path.suffix == ".jsonl" and draw.random() < 0.7:
        lines[at] = json.dumps(damaged(draw, json.loads(lines[at]))).encode()
        data = b"\n".join(lines) + b"\n"
    elif path.suffix == ".json" and draw.random() < 0.7:
        data = json.dumps(damaged(draw, json.loads(data))).encode()
    else:
        data = cut(draw, data)
    path.write_bytes(data)

    def call() -> object:
        from dllm_decode.lab.compare import compare

        compare(sampler().model, ["threshold"], "copy", folder / "run", samples=2, egp=False, quiet=True)
        return None

    return repr((path.name, data[:600])), call
