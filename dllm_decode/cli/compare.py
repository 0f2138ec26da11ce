"""``dllm-decode compare``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from dllm_decode.cli.common import (
    DECODING,
    OUTPUT,
    AsJson,
    BlockLength,
    Device,
    Dtype,
    ModelName,
    Quantize,
    Split,
    Temperature,
    label_text,
    named_folder,
    stderr,
    stdout,
    write_json,
)
from dllm_decode.config import BLOCK_LENGTH
from dllm_decode.errors import DllmError

if TYPE_CHECKING:
    from collections.abc import Mapping

Policies = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        "-p",
        help="One to compare, as for 'generate', or @FILE; repeatable. [default: ten, with their papers' values]",
        metavar="POLICY",
        show_default=False,
        rich_help_panel=DECODING,
    ),
]
Grid = Annotated[
    Path | None,
    typer.Option(
        "--grid",
        help="YAML such as 'threshold: {threshold: [0.7, 0.8, 0.9]}'.",
        metavar="FILE",
        rich_help_panel=DECODING,
    ),
]
Templates = Annotated[
    str, typer.Option(help="Wordings of the prompts: mixed (one each, drawn), all, or numbers such as 0,2.")
]
Canvas = Annotated[
    str,
    typer.Option(
        help="task: each task's own; answer: near the answer's length, fair to fixed schedules.",
        rich_help_panel=DECODING,
    ),
]
BatchSize = Annotated[int, typer.Option(help="Samples decoded together.", rich_help_panel=DECODING)]
Processes = Annotated[
    int,
    typer.Option(help="That decode side by side on a CPU; the records are the same.", rich_help_panel=DECODING),
]
OutFolder = Annotated[
    Path,
    typer.Option(
        "--out", "-o", help="Folder of the run.", metavar="FOLDER", parser=named_folder, rich_help_panel=OUTPUT
    ),
]


def compare(
    out: OutFolder,
    model: ModelName = "tiny",
    policy: Policies = None,
    grid: Grid = None,
    tasks: Annotated[
        str,
        typer.Option(help="'all', 'long', or names with commas; oracle-shuffle-7 and the like too.", metavar="NAMES"),
    ] = "all",
    cache: Annotated[
        str, typer.Option(help="Such as none or none,dual.", metavar="KINDS", rich_help_panel=DECODING)
    ] = "none",
    samples: Annotated[int, typer.Option("--samples", "-n", help="Per task and seed.")] = 100,
    seeds: Annotated[str, typer.Option(help="Of problems and draws, such as 0,1.", metavar="NUMBERS")] = "0",
    templates: Templates = "mixed",
    split: Split = "test",
    canvas: Canvas = "task",
    block_length: BlockLength = BLOCK_LENGTH,
    batch_size: BatchSize = 16,
    temperature: Temperature = 0.0,
    egp: Annotated[bool, typer.Option("--egp/--no-egp", help="Also run the EGP bound.")] = True,
    processes: Processes = 1,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    as_json: AsJson = False,
) -> None:
    """Compare policies, with intervals, bounds, tables and a report; run it again to go on where it stopped."""
    from dllm_decode.lab.compare import compare as run

    with resumable():
        summary = run(
            model,
            policy or (),
            tasks,
            out,
            grid=grid,
            caches=cache,
            samples=samples,
            seeds=numbers(seeds, "seeds"),
            templates=wordings(templates),
            split=split,
            canvas=canvas,
            block_length=block_length,
            batch_size=batch_size,
            temperature=temperature,
            egp=egp,
            processes=processes,
            device=device,
            dtype=dtype,
            quantize=quantize,
        )
    from dllm_decode.lab.tables import left_out

    console = stdout()
    if as_json:
        write_json(console, summary)
        return
    for kind in summary["setting"]["caches"]:
        console.print(overview(summary, kind, console.width))
    for sentence in left_out(summary["setting"]):
        say(console, sentence)
    for name in ("summary.md", "summary.csv", "summary.json", "report.html"):
        say(console, str(out / name))


def overview(summary: Mapping[str, Any], cache: str, width: int = 80) -> Table:
    """The figures over all of a run's tasks, for a terminal of so many columns."""
    from dllm_decode.lab.columns import number, percent, shown
    from dllm_decode.tasks import TASKS

    tasks = summary["setting"]["tasks"]
    what = "all tasks" if set(tasks) >= set(TASKS) else ", ".join(tasks) if len(tasks) < 5 else f"{len(tasks)} tasks"
    table = Table(title=f"{what}, cache {cache}, {summary['setting']['samples']} samples each", title_justify="left")
    table.add_column("policy", no_wrap=True)
    for head in ("accuracy\n%", "points to\nstatic", "content\nTPF", "NFE", "tokens/s"):
        table.add_column(head, justify="right", no_wrap=True)
    rows = [r for r in summary["rows"] if r["cache"] == cache and r["task"] == "all"]
    for row in sorted(rows, key=lambda r: r["tpf_content"] if r["tpf_content"] is not None else -math.inf):
        share, points = percent(row["accuracy"]), shown(row, "difference")
        rest = (number(row["tpf_content"]), number(row["nfe"], 1), number(row["tokens_per_s"], 0))
        label, interval = (
            (label_text(row["label"], 20), "\n[") if width < 110 else (label_text(row["label"], 48), " [")
        )
        table.add_row(label, share, points.replace(" [", interval), *rest)
    return table


def numbers(text: str, name: str) -> list[int]:
    """Whole numbers separated by commas."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise DllmError(f"--{name} is {text!r}; give whole numbers separated by commas, such as 0,1.") from error


def wordings(text: str) -> list[int] | None:
    """What ``--templates`` asks for; None mixes."""
    if text == "mixed":
        return None
    return [0, 1, 2] if text == "all" else numbers(text, "templates")


@contextmanager
def resumable() -> Iterator[None]:
    """Say, when interrupted, that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        say(stderr(), "interrupted: the same command goes on where it stopped")
        raise


def say(console: Console, sentence: str) -> None:
    """A sentence, wrapped by the terminal."""
    console.print(sentence, highlight=False, markup=False, soft_wrap=True)
