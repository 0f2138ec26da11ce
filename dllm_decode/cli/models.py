"""``dllm-decode models``."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer
from rich.table import Table

from dllm_decode.cli.common import stdout, write_json


def models(as_json: Annotated[bool, typer.Option("--json", help="A JSON list.")] = False) -> None:
    """List the models that load, with attention, caches and how each was verified, and those that are refused."""
    from dllm_decode.models.families import LISTED

    out = stdout()
    if as_json:
        write_json(out, [{**dataclasses.asdict(line), "caches": line.caches} for line in LISTED], indent=2)
        return
    table = Table()
    for column in ("model", "family", "sizes", "attention", "caches", "verified"):
        table.add_column(column, overflow="fold")
    for line in LISTED:
        table.add_row(line.name, line.family, line.sizes, line.attention, line.caches, line.verified)
    out.print(table)
