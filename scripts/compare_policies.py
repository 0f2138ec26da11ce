"""Compare decoding policies, step by step: the recipe behind ``dllm-decode compare``.

    python -m scripts.compare_policies --docs docs/results.md     # all of that page; run again to go on
    python -m scripts.compare_policies --samples 5 --tasks copy --cache none --out runs/small    # the same, small

Each step is one function of ``dllm_decode.lab``; import them to build a comparison of your own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dllm_decode.lab.plots import check_plots, write_plots
from dllm_decode.lab.records import Record
from dllm_decode.lab.report import write_report
from dllm_decode.lab.runner import run
from dllm_decode.lab.setting import plan, read_setting
from dllm_decode.lab.summary import summarise
from dllm_decode.lab.tables import write_tables
from scripts.results_page import findings, write_results

GRIDS = Path(__file__).parent / "grids"
GRID, ORACLE_GRID = GRIDS / "results.yaml", GRIDS / "oracles.yaml"
ORACLES = "oracle-indep-6-4,oracle-shuffle-6,oracle-replace-8,oracle-choose-4-6,oracle-latin4"


def compare_policies(
    model: str,
    tasks: str,
    out: Path,
    grid: Path = GRID,
    quiet: bool = False,
    processes: int = 1,
    plots: bool = False,
    **setting: Any,
) -> tuple[dict[str, Any], list[Record]]:
    """Run one comparison from beginning to end.

    Args:
        model: what ``load_model`` takes; ``"none"`` if all tasks are exact oracles.
        tasks: ``"all"`` or names separated by commas.
        out: the run folder.
        grid: YAML of policies and parameters.
        quiet: no progress bar.
        processes: that decode side by side.
        plots: also draw ``plots/*.png``.
        **setting: caches, samples, seeds, templates, ...; see :func:`dllm_decode.lab.setting.plan`.

    Returns:
        The summary, as in ``summary.json``, and the records.
    """
    # 1. Say what is to be compared. Everything wrong is found here or in step 2, before the first forward.
    comparison = plan(model, (), tasks, grid=grid, **setting)

    # 2. Decode what the folder does not hold yet: one line per finished sample, safe against a kill at any moment.
    records = run(comparison, out, quiet=quiet, processes=processes)

    # 3. Sum up. Static decoding of the same samples is what all others are compared with, pair by pair.
    summary = summarise(read_setting(out), records)

    # 4. The same numbers as JSON, CSV and Markdown; then the page with plots and replays, and the plots as PNG.
    write_tables(out, summary)
    write_report(out)
    if plots:
        write_plots(out, summary)
    return summary, records


def main(
    model: Annotated[str, typer.Option(help="Checkpoint folder, hub id, or 'tiny'.")] = "tiny",
    tasks: Annotated[str, typer.Option(help="'all', or names separated by commas.")] = "all",
    cache: Annotated[str, typer.Option(help="Such as none,dual.")] = "none,dual",
    samples: Annotated[int, typer.Option(min=1, help="Per task.")] = 60,
    draws: Annotated[int, typer.Option(min=0, help="Per exact oracle; 0 leaves them out.")] = 200,
    grid: Annotated[Path, typer.Option(help="YAML of policies and parameters.")] = GRID,
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/results"),
    processes: Annotated[int, typer.Option(min=1, help="That decode side by side, sharing the CPU.")] = 2,
    docs: Annotated[Path | None, typer.Option(help="Page to write, with its pictures in a folder beside it.")] = None,
) -> None:
    """Compare; see the module's own text."""
    if docs is not None:
        check_plots()
    shared = {"processes": processes, "plots": docs is not None}
    oracles = None
    if draws:
        exact = {"samples": draws, "temperature": 1.0, "block_length": None, "batch_size": draws}
        oracles, _ = compare_policies("none", ORACLES, out / "oracles", ORACLE_GRID, **exact, **shared)
    summary, records = compare_policies(model, tasks, out, grid, caches=cache, samples=samples, **shared)
    for sentence in findings(summary, records):
        print(sentence)
    if docs is not None:
        write_results(docs, out, summary, records, oracles)


if __name__ == "__main__":
    typer.run(main)
