"""What decodes a batch job: this process, or several of this machine, under a progress bar."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dllm_decode.cli.common import load, stderr
from dllm_decode.errors import DllmError

if TYPE_CHECKING:
    from dllm_decode.jobs.folder import JobFolder

GRACE = 1.5  #: seconds that workers have together to end by themselves


def work_here(
    job: JobFolder, decoder: Any, device: str | None, batch_size: int, max_errors: int | None, quiet: bool = False
) -> None:
    """Decode in this process."""
    from dllm_decode.jobs.worker import Decoder, Worker
    from dllm_decode.models.fingerprint import checkpoint_fingerprint

    settings = job.manifest.settings
    if checkpoint_fingerprint(settings.model) != settings.fingerprint:
        raise DllmError(f"the checkpoint {settings.model!r} is not the one that the job was made with; put it back.")
    if decoder is None:
        decoder = Decoder(load(settings.model, device, settings.dtype, settings.quantize), settings, batch_size)
    worker = Worker(job, decoder, max_errors)
    with nullcontext(lambda: None) if quiet else progress_bar(job) as told:
        worker.run(on_part=lambda shard: told())


def work_in_processes(
    job: JobFolder, workers: int, device: str | None, batch_size: int, max_errors: int | None
) -> None:
    """Decode in several processes of this machine; what one that fails leaves, the others take over."""
    command = [sys.executable, "-m", "dllm_decode", "batch", "work", str(job.path), "--quiet"]
    command += ["--batch-size", str(batch_size), "--stale-after", str(job.stale_after)]
    command += [] if device is None else ["--device", device]
    command += [] if max_errors is None else ["--max-errors", str(max_errors)]
    running = [subprocess.Popen(command) for _ in range(workers)]
    try:
        with progress_bar(job) as told:
            while any(process.poll() is None for process in running):
                time.sleep(0.2)
                told()
    finally:
        for process in running:
            process.terminate()  # nothing happens to one that has ended
        until = time.monotonic() + GRACE
        for process in running:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:  # what it was at is decoded again; nothing is lost
                process.kill()
                process.wait()
    if not job.progress().complete:
        codes = sorted({process.returncode for process in running if process.returncode})
        raise DllmError(
            f"the workers ended (exit codes {codes}) before the job was finished; run the same command again."
        )


@contextmanager
def progress_bar(job: JobFolder) -> Iterator[Callable[[], None]]:
    """A progress bar over the lines of a job, with tokens per second and time left; called, it looks again."""
    tokens, began = job.progress().tokens, time.perf_counter()
    columns = (TextColumn("lines"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, TimeRemainingColumn(), console=stderr()) as progress:
        task = progress.add_task("lines", total=job.manifest.lines, rate="")

        def look() -> None:
            found = job.progress()
            rate = (found.tokens - tokens) / max(1e-9, time.perf_counter() - began)
            progress.update(task, completed=found.done, rate=f"{rate:.0f} tokens/s")

        look()
        try:
            yield look
        finally:
            look()
