"""``dllm-decode demo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dllm_decode.cli.common import (
    OUTPUT,
    BlockLength,
    CacheName,
    Device,
    ModelName,
    OutputFile,
    PolicyText,
    Seed,
    check_cache,
    check_policy,
    load,
    seconds,
    settings_of,
    stdout,
)
from dllm_decode.config import BLOCK_LENGTH
from dllm_decode.viewing.live import LiveView

if TYPE_CHECKING:
    from dllm_decode.viewing.demo import Shown

SHORT, LONG = "sort,chain,lines", "story,trip,sudokus"


def demo(
    model: ModelName = "tiny",
    tasks: Annotated[
        str | None,
        typer.Option(
            help=f"One prompt of each, separated by commas  [default: {SHORT}; for tiny-long {LONG}]",
            metavar="NAMES",
            show_default=False,
        ),
    ] = None,
    policy: PolicyText = "threshold",
    against: Annotated[str, typer.Option(help="What the closing table compares with.", metavar="POLICY")] = "topk:k=1",
    cache: CacheName = "auto",
    block_length: BlockLength = BLOCK_LENGTH,
    seed: Seed = 0,
    delay: Annotated[float, typer.Option(help="Seconds to rest after each forward.", callback=seconds)] = 0.12,
    band: Annotated[
        bool, typer.Option("--band", help="Mark AdaBlock's volatility band: masks neither confident nor hopeless.")
    ] = False,
    device: Device = None,
    svg: Annotated[
        Path | None, typer.Option(help="Also draw the last prompt and the table as a picture.", rich_help_panel=OUTPUT)
    ] = None,
) -> None:
    """Watch the bundled model answer prompts of its tasks, and what parallel decoding saved."""
    check_policy(policy)
    check_policy(against)
    check_cache(cache)
    from dllm_decode.config import GenerationConfig
    from dllm_decode.lab.problems import task_names
    from dllm_decode.tasks import samples
    from dllm_decode.viewing.band import BandWatch
    from dllm_decode.viewing.demo import Demo, picture, table

    names = tasks or (LONG if model == "tiny-long" else SHORT)
    problems = [samples(name, "test", 1, seed)[0] for name in task_names(names)]
    config = GenerationConfig.from_dict(
        settings_of(policy, "max_new_tokens", "infill", block_length=block_length, seed=seed)
    )
    picture_file = None if svg is None else OutputFile(svg, "the picture")
    show = Demo(load(model, device), policy, against, cache, config)
    out = stdout()
    shown: list[Shown] = []
    for problem in problems:
        view = LiveView(
            show.glyphs,
            console=out,
            title=f"{problem.task}, policy {policy}",
            prompt=problem.prompt,
            delay=delay if out.is_terminal else 0.0,
        )
        with view:
            shown.append(show.run(problem, view, BandWatch(view) if band else None))
        out.print()
    out.print(table(shown))
    if picture_file is not None and svg is not None:
        picture_file.append(picture(shown, show.glyphs))
        out.print(f"picture: {svg}", highlight=False, markup=False)
