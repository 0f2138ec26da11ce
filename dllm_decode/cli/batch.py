"""``dllm-decode batch``: files of prompts to files of answers, resumable, by any number of workers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from dllm_decode.cli.common import (
    BlockLength,
    CacheDtype,
    CacheName,
    Device,
    Dtype,
    ModelName,
    PolicyText,
    Quantize,
    Seed,
    Temperature,
    check_batch_size,
    check_cache,
    check_policy,
    load,
    named_folder,
    stderr,
    stdout,
    write_json,
)
from dllm_decode.cli.workers import progress_bar, work_here, work_in_processes

if TYPE_CHECKING:
    from dllm_decode.jobs.folder import JobFolder


class Batch(typer.core.TyperGroup):
    """``batch INPUT ...`` is ``batch run INPUT ...``: the other words are commands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command in where it is left out."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=Batch,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Decode a file of prompts, resumable: [bold]batch INPUT.jsonl -o JOB[/bold]; more workers join with "
    "[bold]batch work JOB[/bold] on any machine that sees the folder.",
)

JobPath = Annotated[Path, typer.Argument(help="Folder of the job.", metavar="JOB")]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Rows decoded together by a worker; changes no answer.")]
MaxErrors = Annotated[
    int | None,
    typer.Option("--max-errors", help="Stop when more lines than that have failed. [default: never]", min=0),
]
Stale = Annotated[
    float, typer.Option("--stale-after", help="Seconds of silence after which a claim is taken over.", min=1)
]


@app.command()
def run(
    source: Annotated[
        Path, typer.Argument(help="JSON lines (ours or OpenAI's batch lines) or Parquet.", metavar="INPUT")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", help="Folder of the job: made, or gone on with.", metavar="JOB", parser=named_folder
        ),
    ],
    workers: Annotated[int, typer.Option(help="Processes on this machine.", min=1)] = 1,
    model: ModelName = "tiny",
    policy: PolicyText = "threshold",
    cache: CacheName = "none",
    cache_dtype: CacheDtype = None,
    max_new_tokens: Annotated[int, typer.Option(help="Cells per answer, where a line does not say.")] = 128,
    block_length: BlockLength = 32,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--raw", help="Put text prompts in the chat template. [default: if there is one]"),
    ] = None,
    batch_size: BatchSize = 16,
    shard_lines: Annotated[int, typer.Option(help="Lines per shard, the unit of work.", min=1)] = 256,
    max_errors: MaxErrors = None,
    stale_after: Stale = 60.0,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    merged: Annotated[
        Path | None, typer.Option("--merge", help="Also write the answers to this file, .jsonl or .parquet.")
    ] = None,
    ray: Annotated[
        str | None, typer.Option(help="Let a Ray cluster place the workers: 'auto', 'local' or an address.")
    ] = None,
    actors: Annotated[int, typer.Option(help="With --ray: workers.", min=1)] = 1,
    gpus_per_actor: Annotated[float, typer.Option(help="With --ray: GPUs of each.", min=0)] = 0.0,
    cpus_per_actor: Annotated[float, typer.Option(help="With --ray: CPUs of each.", min=0)] = 1.0,
    ray_timeout: Annotated[float, typer.Option(help="With --ray: seconds to wait for room.", min=1)] = 120.0,
) -> None:
    """Make a job of a file of prompts, or go on with it."""
    check_batch_size(batch_size)
    from dllm_decode.config import GenerationConfig
    from dllm_decode.jobs.folder import JobFolder
    from dllm_decode.jobs.manifest import JobSettings, Manifest
    from dllm_decode.jobs.parquet import to_json_lines

    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        block_length=block_length,
        temperature=temperature,
        seed=seed,
        cache_dtype=cache_dtype,
    )
    there = (out / "manifest.jsonl").exists()
    if there and JobFolder(out, Manifest.load(out / "manifest.jsonl")).progress().complete:
        # Nothing is left to decode: neither the model nor torch is needed.
        mark = Manifest.load(out / "manifest.jsonl").settings.fingerprint
    else:
        from dllm_decode.models.fingerprint import checkpoint_fingerprint

        check_cache(cache)
        check_policy(policy)
        mark = checkpoint_fingerprint(model)
    settings = JobSettings(model, dtype, mark, policy, cache, config.to_dict(), chat, quantize)
    if source.suffix == ".parquet":
        lines = out.with_name(out.name + ".input.jsonl")  # beside the job, whose folder must be new
        if not lines.exists():
            to_json_lines(source, lines)
        source = lines
    decoder = None
    if not there:
        from dllm_decode.jobs.worker import Decoder

        decoder = Decoder(load(model, device, dtype, quantize), settings, batch_size)
    manifest, resumed = _prepared(source, out, settings, shard_lines, decoder)
    job = JobFolder.open(out, stale_after)
    what, again = ("going on with", f", {len(job.finished())} finished") if resumed else ("made", "")
    shards = f"{len(manifest.shards)} shard{'s' * (len(manifest.shards) > 1)}"
    stderr().print(f"{what} {out}: {manifest.lines} lines in {shards}{again}", markup=False, highlight=False)
    if not job.progress().complete:
        if ray is not None:
            from dllm_decode.jobs.on_ray import run_on_ray

            with progress_bar(job) as told:
                run_on_ray(
                    job, ray, actors, cpus_per_actor, gpus_per_actor, ray_timeout, device, batch_size, max_errors, told
                )
        elif workers == 1:
            work_here(job, decoder, device, batch_size, max_errors)
        else:
            decoder = None
            work_in_processes(job, workers, device, batch_size, max_errors)
    _report(job)
    if merged is not None:
        merge(out, merged)


@app.command()
def work(
    job: JobPath,
    batch_size: BatchSize = 16,
    max_errors: MaxErrors = None,
    stale_after: Stale = 60.0,
    device: Device = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Join a job as one more worker, until every shard is finished."""
    check_batch_size(batch_size)
    from dllm_decode.jobs.folder import JobFolder

    opened = JobFolder.open(job, stale_after)
    if not opened.progress().complete:
        work_here(opened, None, device, batch_size, max_errors, quiet)
    if not quiet:
        _report(opened)


@app.command()
def status(
    job: JobPath, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False
) -> None:
    """How far a job is: lines, rate, time left, workers, errors."""
    from dataclasses import asdict

    from dllm_decode.jobs.folder import JobFolder
    from dllm_decode.jobs.manifest import Manifest

    found = JobFolder(job, Manifest.load(job / "manifest.jsonl")).progress()
    if as_json:
        write_json(stdout(), {**asdict(found), "complete": found.complete, "seconds_left": found.seconds_left})
        return
    table = Table(title=str(job), show_header=False)
    left = found.seconds_left
    rows = {
        "lines": f"{found.done} of {found.lines}",
        "shards": f"{found.finished} of {found.shards}",
        "errors": str(found.errors),
        "content tokens": str(found.tokens),
        "lines per second": f"{found.rate:.1f}" if found.rate else "not known yet",
        "time left": "none" if found.complete else "not known yet" if left is None else f"{left:.0f} s",
        "workers alive": ", ".join(found.workers) or "none",
    }
    for line in rows.items():
        table.add_row(*line)
    stdout().print(table)


@app.command()
def merge(
    job: JobPath,
    out: Annotated[Path, typer.Option("-o", "--out", help="File of the answers: .jsonl, or .parquet.")],
) -> None:
    """Write the answers of a finished job to one file, in the order of its input."""
    from dllm_decode.jobs.folder import JobFolder
    from dllm_decode.jobs.merging import merge as merged

    stderr().print(f"{merged(JobFolder.open(job), out)} answers written to {out}")


def _prepared(source: Path, out: Path, settings: Any, shard_lines: int, decoder: Any) -> tuple[Any, bool]:
    """The manifest, made with a count of the lines that are checked."""
    from dllm_decode.jobs.manifest import create_or_resume

    with stderr().status("checking the input") as busy:

        def told(number: int) -> None:
            if number % 1000 == 0:
                busy.update(f"checking the input: {number} lines")

        check = None if decoder is None else decoder.check
        return create_or_resume(source, out, settings, shard_lines=shard_lines, check=check, progress=told)


def _report(job: JobFolder) -> None:
    found = job.progress()
    said = f"{found.done} of {found.lines} lines are answered, {found.errors} with an error"
    hint = f"; write them to a file with: batch merge {job.path} -o OUT.jsonl" if found.complete else ""
    stderr().print(said + hint)
