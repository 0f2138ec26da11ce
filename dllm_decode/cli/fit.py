"""``dllm-decode fit``: what of a model fits this machine, and how fast it would be, from its config.json."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer
from rich.table import Table

from dllm_decode.cli.common import CacheDtype, Device, stdout, write_json


def fit(
    model: Annotated[str, typer.Argument(help="Folder with a config.json (no weights needed), hub id, or tiny.")],
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of a prompt.")] = 512,
    new: Annotated[int, typer.Option(min=1, help="New tokens.")] = 256,
    block: Annotated[int, typer.Option(min=1, help="Cells per block, where the model does not say.")] = 32,
    cache_dtype: CacheDtype = None,
    device: Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list.")] = False,
) -> None:
    """Say which dtype, quantisation, cache and batch fit this machine's memory, and how long they take at least.

    Times are floors at the rates measured here now (matrix product, copy), one cell per forward; a policy that commits
    n cells per forward divides them by about n.
    """
    from dllm_decode.config import GenerationConfig
    from dllm_decode.engine.cost import GIB
    from dllm_decode.engine.fit import best, fits
    from dllm_decode.engine.rates import rates_of
    from dllm_decode.models import inspect_config
    from dllm_decode.models.room import free_memory

    GenerationConfig(cache_dtype=cache_dtype)  # refuses an unknown one
    config, where = inspect_config(model, device)
    free = free_memory(where)
    rates = rates_of(where, block, 0.3)
    found = list(fits(config, rates, free, where.type, prompt, new, block, cache_dtype=cache_dtype))
    first = best(found)
    out = stdout()
    if as_json:
        write_json(out, [{**dataclasses.asdict(one), "best": one is first} for one in found], indent=2)
        return
    room = "unknown" if free is None else f"{free / GIB:.1f} GiB"
    kept = f", caches in {cache_dtype}" if cache_dtype else ""
    table = Table(title=f"{model} on {where}, {prompt} + {new} tokens, free memory {room}" + kept)
    for column in ("weights", "cache", "rows", "GiB", "ms per step", "s per answer", ""):
        table.add_column(
            column, justify="right" if column in ("rows", "GiB", "ms per step", "s per answer") else "left"
        )
    for one in found:
        numbers = (f"{one.rows}", f"{one.bytes / GIB:.2f}", f"{1e3 * one.step:.3g}", f"{one.answer:.3g}")
        table.add_row(one.weights, one.cache, *numbers, one.verdict + (" *" if one is first else ""))
    out.print(table)
    out.print("* try this first" if first is not None else "Nothing fits: free memory, or take a smaller model.")
