"""What was measured on the CPU as sections of ``docs/performance.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import torch

from dllm_decode.engine.cost import Machine
from dllm_decode.lab.setting import machine
from scripts.bench.measure import Row
from scripts.docs_page import markdown_table, put


def write_sections(page: Path, sections: Mapping[str, Sequence[str]], rates: Machine) -> None:
    """Write each section between its markers, under a line on the machine and the day.

    Args:
        page: the Markdown file.
        sections: lines by the name of the markers.
        rates: of this machine, as measured for the floors.
    """
    for name, lines in sections.items():
        put(page, name, [about(rates), "", *lines])


def about(rates: Machine) -> str:
    """The machine, its rates and the day."""
    return (
        f"{machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}; "
        f"{rates.flops / 1e9:.0f} GFLOP/s fp32, {rates.bandwidth / 1e9:.0f} GB/s copy; {date.today().isoformat()}."
    )


def step_section(rows: Sequence[Row], shares: Mapping[str, float]) -> list[str]:
    """The table of steps, and the share of the runs outside the model where it was measured."""
    head = ("what", "ms", "textbook ms", "floor ms", "times faster", "times the floor")
    body = []
    for row in rows:
        numbers = (row.ms, row.textbook_ms, row.floor_ms, row.speedup, row.over_floor)
        digits = (1, 1, 1, 2, 1)
        shown = ["-" if n is None else f"{n:.{d}f}" for n, d in zip(numbers, digits, strict=True)]
        body.append([row.name, *shown])
    outside = ", ".join(f"{share:.1f} % ({name})" for name, share in shares.items())
    said = ["", f"Outside the model (policy, scoring, bookkeeping): {outside}."] if shares else []
    return [*markdown_table(head, body), *said]


def bundled_section(found: Mapping[str, float | None]) -> list[str]:
    """The bundled model end to end, in one paragraph."""

    def share(cache: str) -> str:
        accuracy, low, high = (found[f"{cache} accuracy{part}"] for part in ("", ", low", ", high"))
        return f"{accuracy:.1f} % ({low:.1f} to {high:.1f})"

    interval = (
        "" if found["points, low"] is None else f", 95 % {found['points, low']:+.1f} to {found['points, high']:+.1f}"
    )
    return [
        f"Dual cache: {found['dual tokens/s']:.0f} canvas tokens per second; no cache: {found['none tokens/s']:.0f}; "
        f"{found['ratio']:.1f} times as many (bar: 2). Accuracy over {found['prompts']:.0f} prompts: {share('dual')} "
        f"against {share('none')}; the same prompts differ by {found['points']:+.1f} points{interval} "
        f"({found['gained']:.0f} gained, {found['lost']:.0f} lost, McNemar p {found['mcnemar p']:.2f})."
    ]
