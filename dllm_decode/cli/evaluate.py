"""``dllm-decode evaluate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dllm_decode.cli.common import (
    DECODING,
    OUTPUT,
    BlockLength,
    CacheName,
    Device,
    Dtype,
    ModelName,
    PolicyText,
    Seed,
    Temperature,
    check_batch_size,
    check_cache,
    check_policy,
    load,
    stderr,
    stdout,
    write_json,
)

if TYPE_CHECKING:
    from dllm_decode.lab.evaluate import EvaluationReport, SampleRecord


def evaluate(
    model: ModelName = "tiny",
    tasks: Annotated[str, typer.Option(help="'all', or names separated by commas.", metavar="NAMES")] = "all",
    samples: Annotated[int, typer.Option("--samples", "-n", help="Fresh samples per task.")] = 200,
    policy: PolicyText = "topk:k=1",
    cache: CacheName = "none",
    block_length: BlockLength = 16,
    batch_size: Annotated[
        int,
        typer.Option(help="Samples decoded together; greedy results do not depend on it.", rich_help_panel=DECODING),
    ] = 32,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    split: Annotated[str, typer.Option(help="Of the problems: train, valid or test.")] = "test",
    template: Annotated[int | None, typer.Option(help="Wording of all prompts (0, 1 or 2). [default: mixed]")] = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.", rich_help_panel=OUTPUT)] = False,
) -> None:
    """Accuracy and cost of a policy on the bundled tasks, each on the canvas its task suggests."""
    check_batch_size(batch_size)
    check_policy(policy)
    check_cache(cache)
    from dllm_decode.config import GenerationConfig
    from dllm_decode.lab.evaluate import EvaluationReport, draw_problems, task_names
    from dllm_decode.lab.evaluate import evaluate as run

    names = task_names(tasks)
    draw_problems(names, min(samples, 1), split=split, seed=seed, template=template)
    GenerationConfig(block_length=block_length, temperature=temperature, seed=seed)
    loaded = load(model, device, dtype)

    done: list[SampleRecord] = []
    note = stderr()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=note, disable=not note.is_terminal, transient=True) as bar:
        whole = bar.add_task("decoding", total=samples * len(names))

        def progress(batch: list[SampleRecord]) -> None:
            done.extend(batch)
            bar.update(whole, advance=len(batch), description=batch[0].task)

        try:
            report = run(
                loaded,
                policy,
                names,
                samples,
                split=split,
                seed=seed,
                block_length=block_length,
                cache=cache,
                batch_size=batch_size,
                template=template,
                progress=progress,
                temperature=temperature,
            )
        except KeyboardInterrupt:
            bar.stop()
            partial = EvaluationReport.of(policy, done)
            tasks_done = {name: task for name, task in partial.tasks.items() if task.samples == samples}
            note.print(f"interrupted: {len(tasks_done)} of {len(names)} tasks are complete", highlight=False)
            if tasks_done:
                _show(EvaluationReport(policy, tasks_done), as_json)
            raise
    _show(report, as_json)


def _show(report: EvaluationReport, as_json: bool) -> None:
    out = stdout()
    if as_json:
        write_json(out, report.to_dict())
    else:
        print_report(report, out)


def print_report(report: EvaluationReport, out: Console) -> None:
    """The report as a table."""
    table = Table(title=f"policy {report.policy}", title_justify="left")
    table.add_column("task")
    for head in ("samples", "accuracy", "95 % interval", "NFE", "content tokens\nper forward"):
        table.add_column(head, justify="right")
    for name, task in report.tasks.items():
        low, high = task.interval
        table.add_row(
            name,
            str(task.samples),
            f"{100 * task.accuracy:.1f} %",
            f"{100 * low:.1f} to {100 * high:.1f}",
            f"{task.nfe:.1f}",
            f"{task.tpf_content:.2f}",
        )
    table.add_section()
    count = len(report.tasks)
    table.add_row(
        "mean",
        "",
        f"{100 * report.mean_accuracy:.1f} %",
        "",
        f"{sum(t.nfe for t in report.tasks.values()) / count:.1f}",
        f"{sum(t.tpf_content for t in report.tasks.values()) / count:.2f}",
    )
    out.print(table)
