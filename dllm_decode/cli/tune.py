"""``dllm-decode tune``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from dllm_decode.cli.common import (
    AsJson,
    BlockLength,
    CacheName,
    Device,
    Dtype,
    ModelName,
    Seed,
    check_cache,
    stdout,
    write_json,
)
from dllm_decode.cli.compare import (
    BatchSize,
    Canvas,
    Grid,
    OutFolder,
    Policies,
    Processes,
    Templates,
    resumable,
    say,
    wordings,
)
from dllm_decode.config import BLOCK_LENGTH


def tune(
    out: OutFolder,
    model: ModelName = "tiny",
    tasks: Annotated[str, typer.Option(help="'all', 'long', or names with commas.", metavar="NAMES")] = "all",
    max_drop: Annotated[float, typer.Option(help="Points of accuracy it may cost against static decoding.")] = 1.0,
    policy: Policies = None,
    grid: Grid = None,
    search: Annotated[
        str, typer.Option(help="Candidates without --policy or --grid: 'policies' or 'compositions'.")
    ] = "policies",
    per: Annotated[
        str, typer.Option(help="Speed that counts: content tokens per 'forward', forwarded 'row' or 'second'.")
    ] = "forward",
    cache: CacheName = "none",
    samples: Annotated[int, typer.Option("--samples", "-n", help="Per task on the valid split, last round.")] = 100,
    fewest: Annotated[int, typer.Option(min=1, help="Per task on the valid split, first round.")] = 10,
    test_samples: Annotated[int, typer.Option(help="Per task on the test split.")] = 200,
    templates: Templates = "mixed",
    canvas: Canvas = "task",
    block_length: BlockLength = BLOCK_LENGTH,
    batch_size: BatchSize = 16,
    seed: Seed = 0,
    processes: Processes = 1,
    device: Device = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
) -> None:
    """Find the fastest policy within a limit of loss; writes OUT/policy.json for --policy @OUT/policy.json."""
    check_cache(cache)
    from dllm_decode.lab.tune import POLICY_NAME, REPORT_NAME, RESULT_NAME
    from dllm_decode.lab.tune import tune as run

    with resumable():
        tuned = run(
            model,
            tasks,
            out,
            max_drop=max_drop,
            policies=policy or (),
            grid=grid,
            search=search,
            per=per,
            cache=cache,
            samples=samples,
            fewest=fewest,
            test_samples=test_samples,
            seed=seed,
            processes=processes,
            device=device,
            dtype=dtype,
            templates=wordings(templates),
            canvas=canvas,
            block_length=block_length,
            batch_size=batch_size,
        )
    console = stdout()
    if as_json:
        write_json(console, json.loads((out / RESULT_NAME).read_text(encoding="utf-8")))
        return
    say(console, tuned.sentence)
    for name in (POLICY_NAME, REPORT_NAME):
        say(console, str(out / name))
