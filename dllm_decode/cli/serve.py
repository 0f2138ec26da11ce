"""``dllm-decode serve``: OpenAI's API over one model."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from dllm_decode.cli.common import (
    DECODING,
    CacheDtype,
    Device,
    Dtype,
    ModelName,
    PolicyText,
    Quantize,
    Temperature,
    check_cache,
    check_policy,
    read_text,
)
from dllm_decode.errors import DllmError

SERVER, LIMITS = "Server", "Limits"


def serve(
    model: ModelName = "tiny",
    host: Annotated[str, typer.Option(help="Address to listen on.", rich_help_panel=SERVER)] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port.", min=1, max=65535, rich_help_panel=SERVER)] = 8000,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Name the model is served under; default its own.", rich_help_panel=SERVER),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Another host name to answer to, or '*'; repeatable.", rich_help_panel=SERVER),
    ] = None,
    api_key_file: Annotated[
        str | None,
        typer.Option(help="File of API keys, one a line; or set DLLM_API_KEY.", rich_help_panel=SERVER),
    ] = None,
    page: Annotated[
        bool, typer.Option("--page/--no-page", help="The playground at /.", rich_help_panel=SERVER)
    ] = True,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse unknown fields.", rich_help_panel=SERVER)] = False,
    drain: Annotated[
        float, typer.Option(help="Seconds that admitted requests have after SIGTERM.", min=0, rich_help_panel=SERVER)
    ] = 30.0,
    places: Annotated[
        int, typer.Option(help="Rows decoded together, per setting.", min=1, rich_help_panel=LIMITS)
    ] = 16,
    pools: Annotated[int, typer.Option(help="Settings decoded side by side.", min=1, rich_help_panel=LIMITS)] = 8,
    queue: Annotated[int, typer.Option(help="Requests that may wait.", min=1, rich_help_panel=LIMITS)] = 128,
    opening_budget: Annotated[
        int, typer.Option(help="Tokens that openings of blocks may take per tick.", min=1, rich_help_panel=LIMITS)
    ] = 512,
    most_tokens: Annotated[
        int, typer.Option(help="Longest canvas a request may ask for.", min=1, rich_help_panel=LIMITS)
    ] = 1024,
    most_n: Annotated[int, typer.Option(help="Answers a request may ask for (n).", min=1, rich_help_panel=LIMITS)] = 8,
    most_stops: Annotated[
        int, typer.Option(help="Stop strings a request may give.", min=1, max=16, rich_help_panel=LIMITS)
    ] = 4,
    deadline: Annotated[
        float | None, typer.Option(help="Seconds a request may take.", min=0.001, rich_help_panel=LIMITS)
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(
            help="GiB for caches and work; default four fifths of what is free.", min=0, rich_help_panel=LIMITS
        ),
    ] = None,
    policy: PolicyText = "threshold",
    cache: Annotated[
        str | None,
        typer.Option(
            help="KV cache; default block for block-causal models, else dual.",
            metavar="KIND",
            rich_help_panel=DECODING,
        ),
    ] = None,
    cache_dtype: CacheDtype = None,
    max_new_tokens: Annotated[
        int, typer.Option(help="Canvas of a request that does not say.", min=1, rich_help_panel=DECODING)
    ] = 128,
    block_length: Annotated[int, typer.Option(help="Cells per block.", min=1, rich_help_panel=DECODING)] = 32,
    temperature: Temperature = 0.0,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
) -> None:
    """Serve a model: OpenAI's API, a playground at /. Requests join and leave the running batch."""
    if any(find_spec(module) is None for module in ("starlette", "uvicorn", "prometheus_client")):
        raise DllmError("the server needs the extra 'serve'; install it with: pip install 'dllm-decode[serve]'.")
    if cache is not None:
        check_cache(cache)
    check_policy(policy)
    keys = _keys(api_key_file)

    from dllm_decode.config import GenerationConfig
    from dllm_decode.engine.load import load_model
    from dllm_decode.engine.scheduler import Limits
    from dllm_decode.serve.server import serve as run
    from dllm_decode.serve.settings import Serving

    config = GenerationConfig(
        max_new_tokens=max_new_tokens, block_length=block_length, temperature=temperature, cache_dtype=cache_dtype
    )
    serving = Serving(
        name=name or Path(model).name or model,
        policy=policy,
        cache=cache,
        config=config,
        most_tokens=max(most_tokens, max_new_tokens),
        most_n=most_n,
        most_stops=most_stops,
        strict=strict,
        deadline=deadline,
        drain=drain,
        keys=keys,
        hosts=(*(allow_host or ()), *([host] if host not in ("0.0.0.0", "::") else [])),
        page=page,
    )
    limits = Limits(
        places=places,
        pools=pools,
        queue=queue,
        opening_budget=opening_budget,
        bytes=None if memory is None else int(memory * 2**30),
    )
    shown = f"[{host}]" if ":" in host else host
    typer.echo(f"serving {serving.name} on http://{shown}:{port} (the model loads meanwhile; Ctrl-C drains)", err=True)
    run(lambda: load_model(model, dtype=dtype, device=device, quantize=quantize), serving, limits, host, port)


def _keys(path: str | None) -> tuple[str, ...]:
    text = "" if path is None else read_text(path, "API keys")
    found = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if path is not None and not found:
        raise DllmError(f"{path!r} holds no API key; write one a line.")
    own = os.environ.get("DLLM_API_KEY")
    return tuple(found + ([own] if own else []))
