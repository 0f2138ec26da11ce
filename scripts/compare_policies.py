"""Every policy on the bundled model and on the exact oracles, and the page that says what was found.

    python -m scripts.compare_policies --docs docs/results.md     # all of that page; run again to go on
    python -m scripts.compare_policies --model tiny-long --tasks long --cache dual --draws 0 --samples 40 \
        --block-length 16 --docs docs/results-long.md             # the long tasks' page
    python -m scripts.compare_policies --samples 5 --tasks copy --cache none --out runs/small    # the same, small

The comparisons are those of ``dllm-decode compare``; what it leaves behind lies in ``--out`` too. The policies are
those of ``--grid`` and the model's tuned values (``scripts/grids/tuned.json``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dllm_decode.config import BLOCK_LENGTH
from dllm_decode.filter_training.train import check_plots
from dllm_decode.lab.compare import compare
from dllm_decode.lab.records import read_records
from scripts.plots import write_plots
from scripts.policy_table import TUNED, read_tuned, spelled
from scripts.results_page import findings, write_results

GRIDS = Path(__file__).parent / "grids"
GRID, ORACLE_GRID = GRIDS / "results.yaml", GRIDS / "oracles.yaml"
ORACLES = "oracle-indep-6-4,oracle-shuffle-6,oracle-replace-8,oracle-choose-4-6,oracle-latin4"


def main(
    model: Annotated[str, typer.Option(help="Checkpoint folder, hub id, or a bundled model.")] = "tiny",
    tasks: Annotated[str, typer.Option(help="'all', or names separated by commas.")] = "all",
    cache: Annotated[str, typer.Option(help="Such as none,dual.")] = "none,dual",
    samples: Annotated[int, typer.Option(min=1, help="Per task.")] = 60,
    draws: Annotated[int, typer.Option(min=0, help="Per exact oracle; 0 leaves them out.")] = 200,
    block_length: Annotated[int, typer.Option(min=1, help="Cells of a block.")] = BLOCK_LENGTH,
    grid: Annotated[Path, typer.Option(help="YAML of policies and parameters.")] = GRID,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/results-MODEL without.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="That decode side by side, sharing the CPU.")] = 2,
    docs: Annotated[Path | None, typer.Option(help="Page to write, with its pictures in a folder beside it.")] = None,
) -> None:
    """Compare; see the module's own text."""
    if docs is not None:
        check_plots()
    out = Path("runs") / f"results-{Path(model).name}" if out is None else out
    oracles = None
    if draws:
        exact = {"samples": draws, "temperature": 1.0, "block_length": None, "batch_size": draws}
        oracles = compare("none", (), ORACLES, out / "oracles", grid=ORACLE_GRID, processes=processes, **exact)
    tuned = [spelled(policy) for policy in read_tuned(TUNED).get(Path(model).name, {}).values() if policy is not None]
    plan = {"caches": cache, "samples": samples, "block_length": block_length, "processes": processes, "lenient": True}
    summary = compare(model, tuned, tasks, out, grid=grid, **plan)
    records = read_records(out)
    for sentence in findings(summary, records):
        print(sentence)
    if docs is not None:
        for folder, found in ((out, summary), (out / "oracles", oracles)):
            if found is not None:
                write_plots(folder, found)
        asked = {
            "model": (model, "tiny"),
            "tasks": (tasks, "all"),
            "cache": (cache, "none,dual"),
            "draws": (draws, 200),
        }
        options = "".join(f"--{name} {given} " for name, (given, default) in asked.items() if given != default)
        write_results(docs, out, summary, records, oracles, tuned, options)


if __name__ == "__main__":
    typer.run(main)
