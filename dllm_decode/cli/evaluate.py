"""``dllm-decode evaluate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dllm_decode.cli.common import (
    DECODING,
    AsJson,
    BlockLength,
    CacheName,
    Device,
    Dtype,
    ModelName,
    PolicyText,
    Quantize,
    Seed,
    Split,
    Temperature,
    label_text,
    load,
    settings_of,
    stderr,
    stdout,
    write_json,
)
from dllm_decode.config import BLOCK_LENGTH

if TYPE_CHECKING:
    from dllm_decode.lab.evaluate import EvaluationReport


def evaluate(
    model: ModelName = "tiny",
    tasks: Annotated[str, typer.Option(help="'all', 'long', or names separated by commas.", metavar="NAMES")] = "all",
    samples: Annotated[int, typer.Option("--samples", "-n", help="Fresh samples per task.")] = 200,
    policy: PolicyText = "topk:k=1",
    cache: CacheName = "none",
    block_length: BlockLength = BLOCK_LENGTH,
    batch_size: Annotated[
        int,
        typer.Option(help="Samples decoded together; answers do not depend on it.", rich_help_panel=DECODING),
    ] = 32,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    split: Split = "test",
    template: Annotated[int | None, typer.Option(help="Wording of all prompts (0, 1 or 2). [default: mixed]")] = None,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    as_json: AsJson = False,
) -> None:
    """Accuracy and cost of a policy on the bundled tasks, each on the canvas its task suggests."""
    from dllm_decode.lab.evaluate import EvaluationReport
    from dllm_decode.lab.evaluate import evaluate as run
    from dllm_decode.lab.problems import task_names
    from dllm_decode.lab.records import Ledger

    ledger = Ledger()
    how = f"model {model}, cache {cache}, temperature {temperature:g}, {split} split, seed {seed}"
    try:
        report = run(
            model,
            policy,
            tasks,
            samples,
            split=split,
            seed=seed,
            cache=cache,
            batch_size=batch_size,
            template=template,
            load=lambda name: load(name, device, dtype, quantize),
            ledger=ledger,
            **settings_of(policy, "max_new_tokens", "infill", block_length=block_length, temperature=temperature),
        )
    except KeyboardInterrupt:
        held = [record["task"] for record in ledger.records.values()]
        whole = {name for name in held if held.count(name) == samples}
        found = f"interrupted: {len(whole)} of {len(task_names(tasks))} tasks are complete"
        stderr().print(found, highlight=False)
        if whole:
            _show(
                EvaluationReport.of(policy, (r for r in ledger.records.values() if r["task"] in whole)), as_json, how
            )
        raise
    _show(report, as_json, how)


def _show(report: EvaluationReport, as_json: bool, how: str) -> None:
    if as_json:
        write_json(stdout(), report.to_dict())
    else:
        print_report(report, stdout(), how)


def print_report(report: EvaluationReport, out: Console, how: str) -> None:
    """The report as a table; ``how``: what was chosen, for its heading."""
    title = f"{label_text(f'policy {report.policy}', out.width)}\n{how}"
    table = Table(title=Text(title), title_justify="left", min_width=min(out.width, len(how)))
    table.add_column("task")
    for head in ("samples", "accuracy", "95 % interval", "NFE", "content tokens\nper forward"):
        table.add_column(head, justify="right")

    def row(name: str, samples: str, interval: str, accuracy: float, nfe: float, tpf: float) -> None:
        table.add_row(name, samples, f"{100 * accuracy:.1f} %", interval, f"{nfe:.1f}", f"{tpf:.2f}")

    costs = ("accuracy", "nfe", "tpf_content")
    for name, task in report.tasks.items():
        low, high = task["interval"]
        row(name, str(task["samples"]), f"{100 * low:.1f} to {100 * high:.1f}", *(task[cost] for cost in costs))
    table.add_section()
    row("mean", "", "", *map(report.mean, costs))
    out.print(table)
