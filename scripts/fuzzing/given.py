"""Input that is given: arguments, prompts, settings and policies, right and wrong."""

from __future__ import annotations

import io
import json
import random
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

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
    "", " ", "x", "copy: a b", "\ud800", "\x00", "\ufeffcopy: a", "<|mask|>", "<|mask|> a <|mask|>", "é" * 40, "-",
    "a\nb",
]  # fmt: skip
POLICIES = [
    "topk", "topk:k=2", "threshold", "threshold:threshold=0.5", "factor", "localleap", "adablock+threshold", "ccdds",
    "freedave:step=(topk:k=1),drafts=3", "learn2pd", "eotp", "sched+topk", "wino", "hierarchy", "lopa", "entropybound",
]  # fmt: skip
PIECES = [*":=,+|()/@", "topk", "k", "nan", "-1", "9" * 23, "none", "\\x0", "step=(", "threshold", " ", "\ud800"]
JUNK: list[Any] = [
    None, True, -1, 0, 1, 1.5, 10**23, "x", "", [], {}, [[]], {"a": 1}, float("nan"), 10**9, [None], "\ud800",
]  # fmt: skip


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
        names = (
            "--block-length --temperature --top-p --top-k --seed --guidance --batch-size --samples --refresh --cache "
            "--refresh-window --suppress-tokens --stop --confidence --delay --policy --device --dtype --trace --file "
            "--model --bogus"
        )
        for name in draw.sample(names.split(), draw.randint(0, 4)):
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
