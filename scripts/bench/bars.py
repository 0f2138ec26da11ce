"""The CPU's bars, one row each: what is measured, and how much it must or may be.

Rows of steps come from ``bench_decode``; here are the bundled model against the textbook loop on the same weights, the
host's time per forward, the memory that a prompt leaves behind, and the 8B shape in bf16.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.engine.step import ModelStep
from dllm_decode.models import load_model
from dllm_decode.models.native import NativeModel
from dllm_decode.models.packed import PackedLinear, PackedRows
from dllm_decode.tasks import few_shot, samples
from scripts.bench.measure import Row, middle, prompts_of, random_llada, time_ours
from scripts.bench.textbook import Textbook
from scripts.docs_page import markdown_table

THRESHOLD, CELLS, BLOCK = 0.9, 96, 16
HOSTS = ((1, 128), (32, 1024), (32, 4096))


@dataclass(frozen=True)
class Bar:
    """``column`` of the row ``name`` must be at least (or, ``most``, at most) ``limit``; ``None`` = not measured."""

    name: str
    column: str
    limit: float
    most: bool = False

    def judge(self, rows: Sequence[Row]) -> str | None:
        """One sentence if it is missed; a row that was not measured counts as missed."""
        row = next((row for row in rows if row.name == self.name), None)
        got = None if row is None else getattr(row, self.column)
        word = f"{'at most' if self.most else 'at least'} {self.limit:g}"
        if got is None:
            return f"{self.name}: {self.column} was not measured, the bar is {word}."
        missed = got > self.limit if self.most else got < self.limit
        return f"{self.name}: {self.column} is {got:.2f}, the bar is {word}." if missed else None


def outside_name(rows: int, cells: int) -> str:
    """Of a row of the table."""
    return f"outside model and scoring, B={rows}, G={cells}"


BUNDLED, MANY, EIGHT = "bundled model, threshold 0.9, dual, B=1", "a prompt leaves behind, KiB", "8B shape, bf16, step"
BARS = (
    Bar("step, no cache, T=0", "speedup", 7.5),
    Bar("step, no cache, T=1", "speedup", 15),
    Bar("step, dual, T=0", "speedup", 3.2),
    Bar("step, dual, T=0", "over_floor", 2.0, most=True),
    Bar(BUNDLED, "speedup", 2.0),
    *(Bar(outside_name(*at), "ms", limit, most=True) for at, limit in zip(HOSTS, (0.7, 1.5, 4.0), strict=True)),
    Bar(MANY, "ms", 16, most=True),  # its tokens and trace; the canvas of 64 rows is there anyway
)
EIGHT_BAR = Bar(EIGHT, "over_floor", 1.5, most=True)


def bar_lines(rows: Sequence[Row], bars: Sequence[Bar]) -> list[str]:
    """The bars as a Markdown table, each with what was measured."""
    body = []
    for bar in bars:
        row = next((row for row in rows if row.name == bar.name), None)
        got = None if row is None else getattr(row, bar.column)
        said = "not measured" if got is None else f"{got:.2f}, {'missed' if bar.judge(rows) else 'met'}"
        what = {"speedup": "times faster", "over_floor": "times the floor", "ms": ""}[bar.column]
        body.append([bar.name, what, f"{'at most' if bar.most else 'at least'} {bar.limit:g}", said])
    return markdown_table(("what", "", "bar", "measured"), body)


def bundled_row(prompts: int = 8, repeats: int = 3, cells: int = CELLS, model: NativeModel | None = None) -> Row:
    """Whole answers of the bundled model, one prompt at a time, in turn with the textbook loop; ms per answer."""
    model = load_model("tiny") if model is None else model
    assert model.tokenizer is not None
    chosen = samples("lines", "test", prompts, 7)
    ids = [model.tokenizer.encode_prompt(few_shot(sample, min_tokens=150)) for sample in chosen]
    config = GenerationConfig(max_new_tokens=cells, block_length=BLOCK, early_stop=False)
    sampler = DiffusionSampler(model, f"threshold:threshold={THRESHOLD}", "dual", config)
    ours, books = [], []
    for turn in range(repeats + 1):  # the first warms up
        for prompt in ids:
            began = time.perf_counter()
            sampler.generate([prompt])
            between = time.perf_counter()
            textbook_answer(model, prompt, cells)
            ended = time.perf_counter()
            if turn:
                ours.append(between - began)
                books.append(ended - between)
    return Row(BUNDLED, f"{cells} cells, b{BLOCK}", middle(ours), middle(books), None)


def textbook_answer(model: NativeModel, prompt: list[int], cells: int) -> list[int]:
    """One answer by the textbook loop, dual cache, every cell at or above the threshold in each step."""
    book = Textbook(model.module, model.mask_id)
    row = torch.tensor([prompt + [model.mask_id] * cells])
    for start in range(len(prompt), len(prompt) + cells, BLOCK):
        past = None
        while bool((row[:, start : start + BLOCK] == model.mask_id).any()):
            past = book.step(row, (start, start + BLOCK), 1, 0.0, past, "dual", THRESHOLD)
    return row[0, len(prompt) :].tolist()


def host_rows(steps: int = 20, sizes: Sequence[tuple[int, int]] = HOSTS) -> list[Row]:
    """Milliseconds of a block step outside the model and its scoring, which are those of a tiny random model."""
    out = []
    for rows, cells in sizes:
        model = random_llada(1, 64, 300, cells + 8)
        config = GenerationConfig(max_new_tokens=cells, block_length=32, early_stop=False)
        sampler = DiffusionSampler(model, f"threshold:threshold={THRESHOLD}", "dual", config)
        times: list[float] = []
        with _inside() as spent:
            marks: list[tuple[float, float]] = []

            def clock(*_: Any, marks: list[tuple[float, float]] = marks, spent: list[float] = spent) -> None:
                marks.append((time.perf_counter(), spent[0]))
                if len(marks) > steps:
                    raise _Enough

            with suppress(_Enough):
                sampler.generate(prompts_of(model, 8, rows), on_prediction=clock)
        # From one forward's prediction to the next; the first was of the opening.
        times = [b[0] - a[0] - (b[1] - a[1]) for a, b in zip(marks[1:], marks[2:], strict=False)]
        out.append(Row(outside_name(rows, cells), f"L1 d64, {len(times)} steps", middle(times), None, None))
    return out


class _Enough(Exception):
    """Enough steps have been seen."""


@contextmanager
def _inside() -> Iterator[list[float]]:
    """Adds up the seconds in the model and its scoring."""
    run, spent = ModelStep.run, [0.0]

    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return run(*args, **kwargs)
        finally:
            spent[0] += time.perf_counter() - began

    ModelStep.run = timed  # type: ignore[method-assign]
    try:
        yield spent
    finally:
        ModelStep.run = run  # type: ignore[method-assign]


def many_row(few: int = 1000, many: int = 10_000) -> Row:
    """KiB that the process holds more with each prompt of one ``generate`` (8 cells each), its result included."""
    config = GenerationConfig(max_new_tokens=8, block_length=8, early_stop=False)
    sampler = DiffusionSampler(random_llada(1, 64, 300, 32), "topk:k=4", "dual", config)
    peaks = []
    for count in (few, many):
        held = sampler.generate([[5, 6, 7, 8]] * count)
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        peaks.append(pages * resource.getpagesize() / 1024)  # the process's high-water mark may be of an earlier run
        assert len(held.sequences) == count
    return Row(MANY, f"{few} and {many} prompts", (peaks[1] - peaks[0]) / (many - few), None, None)


def eight_row(checkpoint: Path, prompt: int = 224, block: int = 32) -> Row:
    """A block step of a checkpoint in bf16 next to the time of its matrix products alone, over as many tokens."""
    model = load_model(checkpoint, dtype="bfloat16", device="cpu")
    _, steps, _ = time_ours(model, prompt, block, block, 4, "dual", 0.0)
    products = [m for m in model.module.modules() if isinstance(m, PackedLinear | torch.nn.Linear)]
    joint = {id(part._whole[0]): part._whole[0] for part in model.module.modules() if isinstance(part, PackedRows)}
    x = {m.in_features: torch.randn(block, m.in_features).bfloat16() for m in [*products, *joint.values()]}
    alone = []
    with torch.no_grad():
        for _ in range(3):
            began = time.perf_counter()
            for product in [*products, *joint.values()]:
                product(x[product.in_features])
            alone.append(time.perf_counter() - began)
    config = model.module.config
    return Row(EIGHT, f"L{config.num_hidden_layers} d{config.hidden_size}", middle(steps), None, middle(alone))
