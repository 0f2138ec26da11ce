"""Parquet in and out, a batch of rows at a time; needs the extra ``parquet`` (pyarrow)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from dllm_decode.errors import DllmError
from dllm_decode.jobs.files import written_whole

ROWS = 1024


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DllmError("Parquet files need pyarrow; install it with: pip install 'dllm-decode[parquet]'.") from error
    return pyarrow


def read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file as objects, without columns that are null.

    Raises:
        DllmError: no pyarrow, or not such a file.
    """
    pa = _pyarrow()
    try:
        with pa.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS):
                for row in batch.to_pylist():
                    yield {name: value for name, value in row.items() if value is not None}
    except (OSError, pa.ArrowException) as error:
        raise DllmError(
            f"{str(path)!r} cannot be read as Parquet ({error}); give such a file, or JSON lines."
        ) from error


def to_json_lines(path: Path, out: Path) -> None:
    """The rows of a Parquet file as JSON lines."""
    with written_whole(out) as file:
        for row in read_parquet(path):
            try:
                file.write(json.dumps(row).encode() + b"\n")
            except TypeError as error:
                raise DllmError(
                    f"a row of {str(path)!r} is not JSON ({error}); use text, numbers and lists."
                ) from error


def write_parquet(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write answers. What is no text or number is written as JSON text, so that all parts have the same columns."""
    pa = _pyarrow()
    rows = iter(rows)
    names = (
        "id",
        "text",
        "texts",
        "finish_reason",
        "content_tokens",
        "nfe",
        "tokens_forwarded",
        "custom_id",
        "response",
        "error",
    )
    whole = ("content_tokens", "nfe", "tokens_forwarded")
    schema = pa.schema([(name, pa.int64() if name in whole else pa.string()) for name in names])

    def cell(name: str, value: Any) -> Any:
        if value is None or (isinstance(value, int) if name in whole else isinstance(value, str)):
            return value
        return None if name in whole else json.dumps(value)

    with written_whole(path) as file, pa.parquet.ParquetWriter(file, schema) as writer:
        while some := list(islice(rows, ROWS)):
            columns = [
                pa.array([cell(name, row.get(name)) for row in some], schema.field(name).type) for name in names
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))
