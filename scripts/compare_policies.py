"""Compare decoding policies, step by step: the recipe behind ``dllm-decode compare``.

    python -m scripts.compare_policies                            # what docs/results.md shows; run again to go on
    python -m scripts.compare_policies --samples 5 --tasks copy   # the same, small
    python -m scripts.compare_policies --docs docs/results.md     # and copy the tables there when it is done

Each step is one function of ``dllm_decode.lab``; import them to build a comparison of your own.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from dllm_decode.lab.curves import best_at_loss, pareto
from dllm_decode.lab.report import write_report
from dllm_decode.lab.runner import run
from dllm_decode.lab.setting import plan, read_setting
from dllm_decode.lab.summary import ALL, summarise
from dllm_decode.lab.tables import write_tables
from dllm_decode.models import load_model

GRID = Path(__file__).parent / "grids" / "results.yaml"


def compare_policies(
    model_name: str, tasks: str, out: Path, grid: Path = GRID, quiet: bool = False, **setting: Any
) -> dict[str, Any]:
    """Run one comparison from beginning to end.

    Args:
        model_name: what ``load_model`` takes.
        tasks: ``"all"`` or names separated by commas.
        out: the run folder.
        grid: YAML of policies and parameters.
        quiet: no progress bar.
        **setting: caches, samples, seeds, templates, ...; see :func:`dllm_decode.lab.setting.plan`.

    Returns:
        The summary, as in ``summary.json``.
    """
    # 1. Say what is to be compared. Everything wrong is found here or in step 2, before the first forward.
    comparison = plan(model_name, (), tasks, grid=grid, **setting)

    # 2. Decode what the folder does not hold yet: one line per finished sample, safe against a kill at any moment.
    records = run(comparison, out, load_model(model_name), quiet=quiet)

    # 3. Sum up. Static decoding of the same samples is what all others are compared with, pair by pair.
    summary = summarise(read_setting(out), records)

    # 4. The same numbers as JSON, CSV and Markdown; then the page with plots and replays.
    write_tables(out, summary)
    write_report(out)
    return summary


def findings(summary: dict[str, Any]) -> list[str]:
    """The short answer, per cache: what is fastest at one point of loss, and what nothing else beats."""
    sentences = []
    for cache in summary["setting"]["caches"]:
        rows = [row for row in summary["rows"] if row["task"] == ALL and row["cache"] == cache]
        static = rows[0]
        best = best_at_loss(rows, static["accuracy"], 1)
        front = ", ".join(row["label"] for row in pareto(rows))
        if best is not None:
            sentences.append(
                f"cache {cache}: at most 1 point below static, {best['label']} is fastest with "
                f"{best['tpf_content']:.2f} content tokens per forward (static: {static['tpf_content']:.2f}); "
                f"unbeaten: {front}"
            )
    return sentences


def main(
    model: Annotated[str, typer.Option(help="Checkpoint folder, hub id, or 'tiny'.")] = "tiny",
    tasks: Annotated[str, typer.Option(help="'all', or names separated by commas.")] = "all",
    cache: Annotated[str, typer.Option(help="Such as none,dual.")] = "none,dual",
    samples: Annotated[int, typer.Option(help="Per task.")] = 100,
    grid: Annotated[Path, typer.Option(help="YAML of policies and parameters.")] = GRID,
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/results"),
    docs: Annotated[Path | None, typer.Option(help="Also copy the tables to this Markdown file.")] = None,
) -> None:
    """Compare; see the module's own text."""
    summary = compare_policies(model, tasks, out, grid, caches=cache, samples=samples)
    for sentence in findings(summary):
        print(sentence)
    if docs is not None:
        shutil.copyfile(out / "summary.md", docs)


if __name__ == "__main__":
    typer.run(main)
