"""Odd input of every kind: each must end with an answer, or with one sentence and the right exit code.

``python -m scripts.fuzz --cases 3000 --seed 0`` draws arguments of the command line, prompts, settings, policies,
policy files, checkpoint folders, filters, traces and records, mostly by damaging good ones. A fault is a traceback, an
error that is not ours, a hang, or an exit code other than 0 and 2; each is printed with the input that repeats it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

LIMIT = 20  # seconds of this process; one that sleeps has six times as long
NUMBERS = [
    "0",
    "1",
    "-1",
    "2",
    "16",
    "1.5",
    "nan",
    "inf",
    "-inf",
    "1e300",
    "1e-300",
    "9" * 23,
    "",
    "x",
    "none",
    "0x10",
]
TEXTS = [
    "",
    " ",
    "x",
    "copy: a b",
    "\ud800",
    "\x00",
    "\ufeffcopy: a",
    "<|mask|>",
    "<|mask|> a <|mask|>",
    "é" * 40,
    "-",
    "a\nb",
]
POLICIES = [
    "topk", "topk:k=2", "threshold", "threshold:threshold=0.5", "factor", "localleap", "adablock+threshold", "ccdds",
    "freedave:step=(topk:k=1),drafts=3", "learn2pd", "eotp", "sched+topk", "wino", "hierarchy", "lopa", "entropybound",
]  # fmt: skip
PIECES = [*":=,+|()/@", "topk", "k", "nan", "-1", "9" * 23, "none", "\\x0", "step=(", "threshold", " ", "\ud800"]
JUNK: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    1.5,
    10**23,
    "x",
    "",
    [],
    {},
    [[]],
    {"a": 1},
    float("nan"),
    10**9,
    [None],
    "\ud800",
]


class HangError(BaseException):
    """The input took too long."""


@dataclass(frozen=True)
class Fault:
    """An input that did not end as it should."""

    kind: str
    what: str
    input: str


def main(argv: list[str] | None = None) -> int:
    """Run; exit code 1 if there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case, to repeat one")
    options = parser.parse_args(argv)
    began, kinds = time.monotonic(), Counter[str]()
    faults = []
    for kind, fault in run(options.cases, options.seed, options.first):
        kinds[kind] += 1
        if fault is not None:
            faults.append(fault)
            print(
                f"{fault.kind}: {fault.what}\n  {fault.input}".encode("ascii", "backslashreplace").decode(), flush=True
            )
    counts = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    print(f"{sum(kinds.values())} cases, {len(faults)} faults, {time.monotonic() - began:.0f} s ({counts})")
    return int(bool(faults))


def run(cases: int, seed: int, first: int = 0) -> Iterator[tuple[str, Fault | None]]:
    """Kind and fault of each case; a case depends on (seed, its number) alone."""
    kinds: list[tuple[str, Callable[[random.Random, Path], tuple[str, Callable[[], object]]], int]] = [
        ("arguments", arguments, 6),
        ("prompts", prompts, 6),
        ("settings", settings, 6),
        ("policies", policies, 8),
        ("policy files", policy_files, 4),
        ("checkpoints", checkpoints, 4),
        ("filters", filters, 2),
        ("traces", traces, 4),
        ("records", records, 3),
    ]
    weights = [weight for _, _, weight in kinds]
    with tempfile.TemporaryDirectory() as home, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(first, first + cases):
            draw = random.Random(f"{seed}/{number}")
            kind, make, _ = draw.choices(kinds, weights)[0]
            folder = Path(home) / str(number)
            folder.mkdir()
            shown, call = make(draw, folder)
            fault = attempt(call)
            shutil.rmtree(folder, ignore_errors=True)
            what = f"--seed {seed} --first {number} --cases 1, {kind}: {shown}"
            yield kind, None if fault is None else Fault(*fault, what)


def attempt(call: Callable[[], object]) -> tuple[str, str] | None:
    """What is wrong with how a call ends; an integer it returns is an exit code."""
    from dllm_decode.errors import DllmError
    from samplers import PolicyError

    def alarm(*_: object) -> None:
        raise HangError

    before = [signal.signal(number, alarm) for number in (signal.SIGALRM, signal.SIGPROF)]
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    signal.alarm(6 * LIMIT)
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = call()
    except (DllmError, PolicyError) as error:
        return _sentence(str(error))
    except HangError:
        return "hang", f"more than {LIMIT} s"
    except BaseException as error:  # noqa: BLE001 - anything else is a fault
        return "raw error", f"{type(error).__name__}: {error!s:.200}"
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGALRM, before[0])
        signal.signal(signal.SIGPROF, before[1])
    said = err.getvalue()
    if "Traceback" in said:
        return "traceback", said[-200:]
    if isinstance(code, int) and not isinstance(code, bool):
        if code not in (0, 2) and not (code == 1 and "no finite numbers" in said):
            return f"exit code {code}", said[-200:]
        if code == 2:
            return _sentence(said.strip().removeprefix("dllm-decode: "))
    return None


def _sentence(said: str) -> tuple[str, str] | None:
    if not said.strip() or len(said) > 900 or not said.rstrip().endswith((".", ")", "?")):
        return "no sentence", said[:300]
    return None


@cache
def sampler() -> Any:
    """The bundled model."""
    from dllm_decode import DiffusionSampler

    return DiffusionSampler("tiny")


def cli(*args: str) -> Callable[[], int]:
    """A call of the command line in this process; the bundled model is loaded once."""
    from dllm_decode import models
    from dllm_decode.cli import main as command

    def call() -> int:
        loaded, real = sampler().model, models.load_model

        def load(name: Any, *more: Any, **options: Any) -> Any:
            given = [x for x in (*more, *options.values()) if x not in (None, "auto")]
            return loaded if name == "tiny" and not given else real(name, *more, **options)

        models.load_model = load
        stdin, sys.stdin = sys.stdin, io.StringIO("copy: a b")
        try:
            return command(list(args))
        finally:
            models.load_model, sys.stdin = real, stdin

    return call


def arguments(draw: random.Random, folder: Path) -> tuple[str, Callable[[], object]]:
    """Options of ``generate``, ``policies``, ``replay`` and ``view``, right and wrong."""
    command = draw.choice(["generate"] * 6 + ["policies", "replay", "view", "nothing", "evaluate", "compare"])
    args = [command]
    if command == "generate":
        args += [draw.choice(TEXTS), "--max-new-tokens", draw.choice(["4", "4", "4", *NUMBERS])]
        names = [
            "--block-length",
            "--temperature",
            "--top-p",
            "--top-k",
            "--seed",
            "--guidance",
            "--batch-size",
            "--samples",
        ]
        names += ["--refresh", "--refresh-window", "--suppress-tokens", "--stop", "--confidence", "--delay", "--cache"]
        names += ["--policy", "--device", "--dtype", "--trace", "--file", "--model", "--bogus"]
        for name in draw.sample(names, draw.randint(0, 4)):
            value = draw.choice(
                [*NUMBERS, *TEXTS, "cpu", "meta", "mps", "float16", "dual", "prefix", "clean", "window"]
            )
            if name == "--samples" and value.isdigit():
                value = value[:1]
            if name == "--trace":
                value = draw.choice(["", str(folder), str(folder / "t.jsonl"), "/nothing/t.jsonl"])
            if name == "--model":
                value = draw.choice(["", "nothing", str(folder), "tiny"])
            args += [name, value]
        args += draw.sample(
            ["--infill", "--json", "--raw", "--live", "--no-early-stop", "--estimate", "--band"], draw.randint(0, 2)
        )
    elif command in ("evaluate", "compare"):
        args += ["--tasks", draw.choice(["copi", "", "oracle-shuffle-99", "oracle-x", "oracle-shuffle-" + "9" * 23])]
        args += ["--samples", draw.choice(NUMBERS), "--seed" + "s" * (command == "compare"), draw.choice(NUMBERS)]
        args += ["--out", draw.choice(["", str(folder / "run")])] if command == "compare" else []
    else:
        args += draw.sample(
            [*TEXTS, *NUMBERS, "threshold", str(folder), "--row", "--out", "--json"], draw.randint(0, 3)
        )
        args = [arg for arg in args if command != "view" or arg != "--out"]
    return repr(args), cli(*args)


def prompts(draw: random.Random, folder: Path) -> tuple[str, Callable[[], object]]:
    """Prompts of the API and of prompt files."""
    if draw.random() < 0.5:
        prompt = draw.choice(
            [*JUNK, b"x", [450], [draw.choice(JUNK), 4], [{"role": "user", "content": draw.choice(JUNK)}]]
        )
        prompt = draw.choice([prompt, [prompt], [prompt, "x"], (1, 2), {"role": "user", "content": "x"}])
        infill = draw.random() < 0.3
        return repr(prompt), lambda: sampler().generate(prompt, max_new_tokens=4, infill=infill) and None
    lines = [
        draw.choice(
            [
                json.dumps(draw.choice(JUNK)),
                json.dumps({draw.choice(["prompt", "messages", "x"]): draw.choice(JUNK)}),
                json.dumps([{"role": draw.choice(JUNK), "content": draw.choice(JUNK)}]),
                json.dumps([{"role": "user", "content": [{"type": "text", "text": draw.choice(JUNK)}]}]),
                draw.choice(TEXTS),
                "{",
            ]
        )
        for _ in range(draw.randint(0, 2))
    ]
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    if draw.random() < 0.2:
        data = bytes(draw.randrange(256) for _ in range(20)) + data
    path = folder / draw.choice(["p.jsonl", "p.txt"])
    path.write_bytes(data)
    return repr((path.name, data)), cli("generate", "-f", str(path), "--max-new-tokens", "4", "--json")


def settings(draw: random.Random, folder: Path) -> tuple[str, Callable[[], object]]:
    """Settings of a generation."""
    from dllm_decode import GenerationConfig

    names = [*GenerationConfig().to_dict(), "block_lenght"]
    given = {
        name: draw.choice([*JUNK, 3, "window", "tree", (1, 2), ["b"]])
        for name in draw.sample(names, draw.randint(1, 3))
    }

    def call() -> object:
        config = GenerationConfig.from_dict({"max_new_tokens": 4, **given})
        if config.max_new_tokens <= 8:
            sampler().generate("copy: a b", **config.to_dict())
        return None

    return repr(given), call


def policies(draw: random.Random, folder: Path) -> tuple[str, Callable[[], object]]:
    """Policy strings: good ones with pieces put in, taken out or joined."""
    text = draw.choice(POLICIES)
    for _ in range(draw.randint(0, 3)):
        at = draw.randint(0, len(text))
        cut = draw.randint(0, 3)
        text = draw.choice([text[:at] + draw.choice(PIECES) + text[at + cut :], f"{text}+{draw.choice(POLICIES)}"])
    if text.startswith("@"):
        text = " " + text[1:]
    cache_name = draw.choice(["none", "prefix", "dual"])

    def call() -> object:
        from dllm_decode import DiffusionSampler

        made = DiffusionSampler(sampler().model, text, cache_name)
        made.generate("copy: a b", max_new_tokens=4, block_length=4)
        return None

    return repr((text, cache_name)), call


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


if __name__ == "__main__":
    sys.exit(main())
