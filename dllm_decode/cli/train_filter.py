"""``dllm-decode train-filter``."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from dllm_decode.cli.common import (
    DECODING,
    OUTPUT,
    AsJson,
    CacheName,
    Device,
    Dtype,
    ModelName,
    OutputFile,
    Seed,
    check_batch_size,
    check_cache,
    load,
    named_folder,
    stderr,
    stdout,
)
from dllm_decode.cli.prompts import read_prompts
from dllm_decode.config import BLOCK_LENGTH
from dllm_decode.errors import DllmError

if TYPE_CHECKING:
    from dllm_decode.filter_training.collect import AskSets
    from dllm_decode.filter_training.train import FilterReport

TRAINING = "Training"


def train_filter(
    model: ModelName = "tiny",
    tasks: Annotated[str, typer.Option(help="Bundled tasks to ask: 'all', or names with commas.")] = "all",
    samples: Annotated[int, typer.Option("--samples", "-n", help="Training problems per task.")] = 200,
    file: Annotated[
        str | None, typer.Option("--file", "-f", help="Prompts to ask instead, one per line, or .jsonl.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Cells per prompt of --file.")] = 256,
    block_length: Annotated[
        int, typer.Option("--block-length", help="Width of the filter: cells per block.", rich_help_panel=DECODING)
    ] = BLOCK_LENGTH,
    cache: CacheName = "none",
    batch_size: Annotated[int, typer.Option(help="Prompts decoded together.", rich_help_panel=DECODING)] = 32,
    feature: Annotated[
        str, typer.Option(help="confidence, or negative_entropy.", rich_help_panel=TRAINING)
    ] = "confidence",
    max_false_positives: Annotated[
        float,
        typer.Option(help="Share of accepted cells that may be wrong, on held-out prompts.", rich_help_panel=TRAINING),
    ] = 0.002,
    epochs: Annotated[int, typer.Option(help="Passes over the records.", rich_help_panel=TRAINING)] = 300,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also train by the reference's recipe.", rich_help_panel=TRAINING)
    ] = False,
    seed: Seed = 0,
    work: Annotated[
        Path,
        typer.Option(
            help="Folder of the collected records; an interrupted run continues there.",
            metavar="FOLDER",
            parser=named_folder,
        ),
    ] = Path("filter-records"),
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Folder for the filter and its card.",
            metavar="FOLDER",
            parser=named_folder,
            rich_help_panel=OUTPUT,
        ),
    ] = Path("filters-trained"),
    plot: Annotated[
        Path | None, typer.Option(help="Image file for the calibration curve.", rich_help_panel=OUTPUT)
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
) -> None:
    """Train Learn2PD's filter for a model: replay its own answers, fit, choose a threshold, measure the outcome."""
    check_batch_size(batch_size)
    check_cache(cache)
    if block_length < 1:
        raise DllmError(f"block_length is {block_length}; give a whole number from 1 up.")
    if plot is not None:
        from dllm_decode.filter_training.train import check_plots

        check_plots(plot)
        OutputFile(plot, "the calibration plot")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DllmError(f"cannot make the folder {str(out)!r} ({error.strerror}); give another for --out.") from error
    OutputFile(out / "filter.json", "the filter's card")
    prompts = None if file is None else read_prompts(None, file)

    from tqdm import tqdm

    from dllm_decode.filter_training.collect import asks_of_prompts, asks_of_tasks
    from dllm_decode.filter_training.train import train_filter as run
    from filters import FilterBank, FilterError, Recipe

    asks: AskSets
    try:
        recipe = Recipe(epochs=epochs, seed=seed)
    except FilterError as error:
        raise DllmError(str(error)) from error
    asks = asks_of_tasks(tasks, samples, seed) if prompts is None else asks_of_prompts(prompts, max_new_tokens, seed)
    loaded = load(model, device, dtype)
    bars: dict[str, Any] = {}
    with ExitStack() as stack:

        def progress(stage: str, done: int, size: int) -> None:
            if stage not in bars:
                bars[stage] = stack.enter_context(tqdm(total=size, desc=stage, disable=None))
            bars[stage].update(done)

        report = run(
            loaded,
            asks,
            work,
            block_length=block_length,
            max_false_positives=max_false_positives,
            recipe=recipe,
            cache=cache,
            feature=feature,
            batch_size=batch_size,
            compare=compare,
            progress=progress,
        )
    if as_json:
        facts = {"filter": str(report.learned), "threshold": report.learned.threshold, **report.to_dict()}
        stdout().file.write(json.dumps(facts) + "\n")
    else:
        print_report(report, stdout())
    try:
        FilterBank(out).add(report.learned)
    except FilterError as error:
        raise DllmError(str(error)) from error
    if plot is not None:
        report.plot(plot)
    stderr().print(f"saved {report.learned} in {out}", highlight=False)


#: of the open cells, or of those that are wrong
SHARES = {
    "precision": "precision",
    "recall": "recall",
    "false positives": "false_positives",
    "of all wrong": "false_positive_rate",
}


def print_report(report: FilterReport, out: Console) -> None:
    """The figures as tables."""
    train, valid, test = report.sizes
    fitted = report.fitted
    out.print(
        f"{report.learned}: {train} records to train, {valid} to validate, {test} to test; trained in "
        f"{fitted.seconds:.1f} s, validation loss {fitted.valid_loss:.4f} after epoch {fitted.epoch}",
        highlight=False,
    )
    table = Table(title="open cells", title_justify="left")
    table.add_column("", no_wrap=True)
    judges = [("filter, valid", report.valid), ("filter, test", report.test)]
    judges += [("confidence, test", report.alone)] if report.alone is not None else []
    for name, _ in judges:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row("threshold", *(f"{m.threshold:.5g}" for _, m in judges))
    for what, field in SHARES.items():
        table.add_row(what, *(f"{100 * getattr(m, field):.2f} %" for _, m in judges))
    table.add_row("accepted per forward", *(f"{m.accepted:.2f}" for _, m in judges))
    out.print(table)
    for name, fit, m in report.recipes:
        out.print(
            f"{name}: {fit.seconds:.1f} s, validation loss {fit.valid_loss:.4f}, recall {100 * m.recall:.2f} % with "
            f"{100 * m.false_positives:.2f} % false positives at {m.threshold:.5g} (test)",
            highlight=False,
        )
    table = Table(title=f"decoding {report.outcomes[0].prompts} test prompts", title_justify="left")
    table.add_column("policy")
    for head in ("NFE", "content tokens\nper forward", "same as static", "accuracy"):
        table.add_column(head, justify="right")
    for o in report.outcomes:
        right = "-" if o.accuracy is None else f"{100 * o.accuracy:.1f} %"
        table.add_row(o.policy, f"{o.nfe:.2f}", f"{o.tpf:.2f}", f"{100 * o.same:.1f} %", right)
    out.print(table)
    out.print(f"calibration error {report.calibration.error:.4f}", highlight=False)
