"""``dllm-decode models``."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer
from rich.table import Table

from dllm_decode.cli.common import stdout, write_json


def models(as_json: Annotated[bool, typer.Option("--json", help="A JSON list.")] = False) -> None:
    """List the models that load, with attention, caches and how each was verified, and those that are refused."""
    from dllm_decode.models.families import LISTED, VERIFIED

    out = stdout()
    if as_json:
        write_json(out, [{**dataclasses.asdict(line), "caches": line.caches} for line in LISTED], indent=2)
        return
    table = Table()
    for column in ("model", "sizes", "attention", "caches", "verified"):
        table.add_column(column)
    for line in LISTED:
        if line.family:
            table.add_row(line.name, line.sizes, line.attention, line.caches, line.verified)
    out.print(table)
    for word, meaning in list(VERIFIED.items())[:-1]:
        out.print(f"{word}: {meaning}", highlight=False)
    refused = (f"{line.name} ({line.why})" for line in LISTED if not line.family)
    out.print(f"refused: {', '.join(refused)}", highlight=False)
