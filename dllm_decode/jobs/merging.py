"""The answers of a finished job as one file, in the order of the input."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from dllm_decode.errors import DllmError
from dllm_decode.jobs.files import written_whole
from dllm_decode.jobs.folder import JobFolder
from dllm_decode.jobs.parquet import write_parquet


def merge(job: JobFolder, out: Path) -> int:
    """Write the answers in order, whole or not at all; ``.parquet`` or JSON lines by the name.

    Args:
        job: a finished one.
        out: the file.

    Returns:
        Lines written.

    Raises:
        DllmError: shards are missing, a part does not answer its lines, or the file cannot be written.
    """
    missing = sorted(set(range(len(job.manifest.shards))) - job.finished())
    if missing:
        raise DllmError(
            f"{len(missing)} of {len(job.manifest.shards)} shards are not finished (the first is {missing[0]}); run "
            f"'dllm-decode batch work {job.path}' until they are."
        )
    count = 0

    def lines() -> Iterator[bytes]:
        nonlocal count
        for shard in range(len(job.manifest.shards)):
            for line in checked(job, shard):
                count += 1
                yield line

    if out.suffix == ".parquet":
        write_parquet(out, (json.loads(line) for line in lines()))
    else:
        with written_whole(out) as file:
            file.writelines(lines())
    return count


def checked(job: JobFolder, shard: int) -> list[bytes]:
    """A part's lines; each answers the line of the input in its place."""
    asked = job.manifest.read(shard)
    try:
        given = job.part(shard).read_bytes().splitlines(keepends=True)
        ids = [(found := json.loads(line)).get("custom_id", found.get("id")) for line in given]
    except (OSError, ValueError, AttributeError) as error:
        raise DllmError(
            f"the part {str(job.part(shard))!r} is damaged ({error}); remove it, and go on with the job."
        ) from error
    if ids != [line.id for line in asked]:
        raise DllmError(
            f"the part {str(job.part(shard))!r} does not answer lines {job.manifest.shards[shard].first} and after; "
            "remove it, and go on with the job."
        )
    return given
