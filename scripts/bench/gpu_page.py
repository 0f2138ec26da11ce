"""The GPU's bars and floors as sections of ``docs/performance.md``.

python -m scripts.bench.gpu_page docs/performance.md     # floors, and bars as not measured; needs no GPU
python -m scripts.bench_decode --gpu --textbook --docs docs/performance.md     # what a GPU measured
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import torch

from dllm_decode.engine.cost import Machine, Shape
from scripts.bench.gpu import FAMILIES, GpuRow, Plan, kinds_of
from scripts.bench.gpu_runs import RunRow
from scripts.bench.shapes import config_of
from scripts.docs_page import markdown_table, put

COMMAND = "python -m scripts.bench_decode --gpu"
SPARE_GIB = 1.0
#: Dense bf16 products and copies of an H200, measured rates.
H200 = Machine(790e12, 4.3e12)


@dataclass(frozen=True)
class Bar:
    """What a GPU must reach: ``limit`` at ``most`` or at ``least``; ``options`` are those of the command for it."""

    key: str
    what: str
    side: Literal["most", "least"]
    limit: float
    options: str = ""

    def met(self, value: float) -> bool:
        """Whether a measured value reaches it."""
        return value <= self.limit if self.side == "most" else value >= self.limit


BARS = (
    Bar("step", "dual block step, B=1, N=1024: times its floor", "most", 1.35, "--length 1024 --batch 1"),
    Bar("textbook", "dual block step, B=1: times faster than the textbook loop", "least", 5, "--textbook --batch 1"),
    Bar("opening", "opening forward: times its floor", "most", 1.3),
    Bar(
        "run",
        "whole run, prompt 1000, 256 cells: share of the forwards per second that the formulas allow",
        "least",
        0.75,
        "--length 1024 --batch 1",
    ),
    Bar("memory", "peak memory over weights, cache and 1 GiB", "most", 1.1),
    Bar("sampler", "sampler: per cent of a step", "most", 3),
    Bar("error", "logits in bf16 against fp32: relative error", "most", 2e-2, "--length 512 --batch 1"),
)


def measured(
    bar: Bar, rows: Sequence[GpuRow], runs: Sequence[RunRow], errors: dict[str, float]
) -> list[tuple[str, float]]:
    """What was measured for a bar: where, and the value."""
    out = []
    for row in rows:
        step = row.name.endswith("dual, step") and row.batch == 1
        value = None
        if (bar.key == "step" and step and row.length == 1024) or (
            bar.key == "opening" and row.name.endswith("opening")
        ):
            value = row.ms / row.floor_ms
        elif bar.key == "textbook" and step and row.textbook_ms is not None:
            value = row.textbook_ms / row.ms
        elif bar.key == "memory" and row.peak is not None:
            value = row.peak / (row.needed + SPARE_GIB)
        elif bar.key == "sampler":
            value = row.sampler_percent
        if value is not None:
            out.append((f"{row.name}, N={row.length}, B={row.batch}", value))
    if bar.key == "run":
        out += [(run.name, run.share) for run in runs]
    return out + (list(errors.items()) if bar.key == "error" else [])


def missed(rows: Sequence[GpuRow], runs: Sequence[RunRow], errors: dict[str, float]) -> list[str]:
    """One sentence per bar that was missed; bars that were not measured count as missed."""
    out = []
    for bar in BARS:
        found = measured(bar, rows, runs, errors)
        if not found:
            out.append(f"{bar.what}: not measured (run {' '.join([COMMAND, bar.options]).strip()}).")
        out += [
            f"{where}: {bar.what} is {value:.3g}, the bar is at {bar.side} {bar.limit:g}."
            for where, value in found
            if not bar.met(value)
        ]
    return out


def bar_lines(
    rows: Sequence[GpuRow], runs: Sequence[RunRow], errors: dict[str, float], device: torch.device | None
) -> list[str]:
    """The bars as a Markdown table, each with the worst that was measured; ``device`` = where, if anywhere."""
    body = []
    for bar in BARS:
        found = measured(bar, rows, runs, errors)
        result, where = "not measured", ("-", "-", "-")
        if found and device is not None:
            place, value = max(found, key=lambda x: x[1] if bar.side == "most" else -x[1])
            result = f"{value:.3g} ({place}): {'met' if bar.met(value) else 'missed'}"
            where = (name_of(device), versions(), date.today().isoformat())
        command = f"`{' '.join([COMMAND, bar.options]).strip()}`"
        body.append([bar.what, f"at {bar.side} {bar.limit:g}", result, *where, command])
    return markdown_table(("what", "bar", "measured, the worst", "machine", "versions", "date", "command"), body)


def floor_lines(machine: Machine, plan: Plan) -> list[str]:
    """Floors in milliseconds of every shape in the plan, as a Markdown table."""
    body = []
    for family in FAMILIES:
        shape = Shape.of(config_of(family, plan.dry), plan.dtype.itemsize)
        for cache in ("prefix", "dual"):
            for i, (kind, _, _) in enumerate(kinds_of(plan, 0, cache)):
                if (cache, kind) == ("prefix", "opening"):
                    continue  # the same as with the dual cache
                for length in plan.lengths:
                    _, tokens, heads = kinds_of(plan, length, cache)[i]
                    floors = [shape.floor(machine, b, tokens, length, heads, cached=True) for b in plan.batches]
                    what = "opening" if kind == "opening" else f"{cache} step"
                    body.append([f"{family}, {what}", str(length), *(f"{1e3 * f:.2f}" for f in floors)])
    return markdown_table(("forward", "N", *(f"B={b}, ms" for b in plan.batches)), body)


def row_lines(rows: Sequence[GpuRow], runs: Sequence[RunRow]) -> list[str]:
    """The whole table as measured."""

    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    head = [
        "what",
        "N",
        "B",
        "ms",
        "textbook ms",
        "floor ms",
        "times the floor",
        "sampler %",
        "peak GiB",
        "needed GiB",
    ]
    body = [
        [r.name, str(r.length), str(r.batch)]
        + [cell(x) for x in (r.ms, r.textbook_ms, r.floor_ms, r.ms / r.floor_ms, r.sampler_percent, r.peak, r.needed)]
        for r in rows
    ]
    return [
        *markdown_table(head, body),
        "",
        *(
            f"{run.name}: {run.forwards} forwards, {run.per_second:.1f} per second of {run.allowed:.1f} allowed "
            f"({run.share:.2f}); {run.discarded} more were begun ahead and thrown away."
            for run in runs
        ),
    ]


def show(
    rows: Sequence[GpuRow],
    runs: Sequence[RunRow],
    errors: dict[str, float],
    machine: Machine,
    plan: Plan,
    where: str,
) -> None:
    """Print what was measured; ``where`` = the machine and the versions in words."""
    print("decoding steps (median)" + (", dry run: the figures mean nothing" if plan.dry else ""))
    print(*row_lines(rows, runs), sep="\n")
    dtype = str(plan.dtype).removeprefix("torch.")
    for family, error in errors.items():
        print(f"{family}: relative error of the logits in {dtype} against fp32: {error:.1e}")
    flops, copy = machine.flops / 1e12, machine.bandwidth / 1e12
    print(f"this machine: {flops:.3g} TFLOP/s in {dtype}, {copy:.3g} TB/s copy; {where}")


def write(
    page: Path, rows: Sequence[GpuRow], runs: Sequence[RunRow], errors: dict[str, float], device: torch.device
) -> None:
    """Write what was measured into the page."""
    put(page, "gpu bars", [*bar_lines(rows, runs, errors, device), "", *row_lines(rows, runs)])


def name_of(device: torch.device) -> str:
    """The machine in words."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


def versions() -> str:
    """What computes."""
    found = []
    for package in ("torch", "triton", "flash-attn"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join(found)


def main(arguments: Sequence[str]) -> int:
    """Write the floors of an H200, and every bar as not measured."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("give the page to write to, such as docs/performance.md", file=sys.stderr)
        return 2
    page = Path(arguments[0])
    put(page, "gpu floors", floor_lines(H200, Plan(torch.device("cpu"))))
    put(page, "gpu bars", bar_lines([], [], {}, None))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
