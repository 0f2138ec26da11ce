"""Does the server hold what it promises?  ``python -m scripts.check_serving WHAT``; exit code 1 names what does not.

Everything runs on the bundled model over real sockets, in this process but for ``drain``.  Figures of time mean
something on an idle machine only.  On a GPU, ``throughput --shape llada --places 32`` and ``equal --shape llada`` take
random bf16 weights of a published shape (in small on a CPU).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import torch
import typer

from dllm_decode.engine.scheduler import Limits
from dllm_decode.models import NativeModel, load_model
from scripts.bench.shapes import SHAPES, random_model
from scripts.serving.abuse import abort, drain, flood, fuzz, poison, soak
from scripts.serving.host import Host
from scripts.serving.work import Failures, equal, fair, first, overhead, throughput


def random_texts(shape: str) -> NativeModel:
    """Random weights of a shape, on a GPU if there is one, with the bundled tokenizer: texts without sense."""
    if shape not in SHAPES:
        raise typer.BadParameter(f"there is no shape {shape!r}; use {', '.join(SHAPES)}.")
    gpu = torch.cuda.is_available()
    device, dtype = torch.device("cuda" if gpu else "cpu"), torch.bfloat16 if gpu else torch.float32
    model = random_model(shape, dtype, device, small=not gpu)
    return NativeModel(model.module, mask_id=model.mask_id, tokenizer=load_model("tiny").tokenizer, name="tiny")


def main(
    what: Annotated[str, typer.Argument(help="Which promise, such as equal or soak; or all.")],
    requests: Annotated[int | None, typer.Option(help="How many; default by check.")] = None,
    concurrency: Annotated[int, typer.Option(help="Clients at a time.")] = 32,
    places: Annotated[int, typer.Option(help="Of the server.")] = 16,
    queue: Annotated[int, typer.Option(help="Of the server.")] = 256,
    max_tokens: Annotated[int, typer.Option(help="Canvas of soak.")] = 16,
    seed: Annotated[int, typer.Option(help="Of fuzz.")] = 0,
    shape: Annotated[str | None, typer.Option(help=f"Random weights: {', '.join(SHAPES)}.")] = None,
) -> None:
    """Check one promise, or all of them."""
    torch.set_num_threads(1)
    checks: dict[str, Callable[[Host], Failures]] = {
        "equal": lambda host: equal(host, requests or 2000, concurrency),
        "throughput": lambda host: throughput(host, requests or 400, places),
        "overhead": lambda host: overhead(host, requests or 200),
        "first": lambda host: first(host, requests or 100),
        "fair": fair,
        "soak": lambda host: soak(host, requests or 10_000, max_tokens),
        "abort": lambda host: abort(host, requests or 500),
        "fuzz": lambda host: fuzz(host, requests or 3000, seed),
        "flood": lambda host: flood(host, max(concurrency, 200)),
        "poison": poison,
        "drain": lambda host: drain(),
    }
    if what != "all" and what not in checks:
        raise typer.BadParameter(f"{what!r} is no check; give one of {', '.join(checks)}, all.")
    model, wrong = load_model("tiny") if shape is None else random_texts(shape), []
    for name in checks if what == "all" else [what]:
        size = 32 if name == "flood" else max(queue, 2 * concurrency)
        with Host(model, Limits(places=24 if name == "fair" else places, queue=size)) as host:
            wrong += [f"{name}: {fault}" for fault in checks[name](host)]
    for fault in wrong:
        typer.echo(fault, err=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    typer.run(main)
