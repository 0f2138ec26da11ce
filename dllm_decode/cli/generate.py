"""``dllm-decode generate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import track

from dllm_decode.cli.answers import print_cost, print_text, record, text_of
from dllm_decode.cli.common import (
    DECODING,
    OUTPUT,
    SAMPLING,
    BlockLength,
    CacheDtype,
    CacheName,
    Device,
    Dtype,
    ModelName,
    OutputFile,
    PolicyText,
    Quantize,
    Seed,
    SuppressTokens,
    Temperature,
    check_batch_size,
    check_cache,
    check_policy,
    load,
    seconds,
    settings_of,
    stderr,
    stdout,
    write_json,
)
from dllm_decode.cli.estimate import print_estimate
from dllm_decode.cli.prompts import Prompt, read_prompts, shown
from dllm_decode.config import BLOCK_LENGTH, GenerationConfig
from dllm_decode.errors import DllmError
from dllm_decode.viewing.glyphs import Glyphs, annotate
from dllm_decode.viewing.live import LiveView

if TYPE_CHECKING:
    from dllm_decode.engine.randomness import Place
    from dllm_decode.engine.result import GenerationResult
    from dllm_decode.engine.sampler import DiffusionSampler


def generate(
    prompt: Annotated[
        str | None, typer.Argument(help="The prompt; without it -f or standard input is read.", show_default=False)
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file", "-f", help="Prompts, one per line (.jsonl: JSON strings or chat messages); - is stdin."
        ),
    ] = None,
    model: ModelName = "tiny",
    policy: PolicyText = "threshold",
    cache: CacheName = "auto",
    cache_dtype: CacheDtype = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(help="Cells to generate. [default: 128; 0 with --infill]", rich_help_panel=DECODING),
    ] = None,
    block_length: BlockLength = BLOCK_LENGTH,
    infill: Annotated[
        bool,
        typer.Option(
            "--infill", help="Decode the masks inside the prompts too (implies --raw).", rich_help_panel=DECODING
        ),
    ] = False,
    early_stop: Annotated[
        bool,
        typer.Option("--early-stop/--no-early-stop", help="Stop once the text has ended.", rich_help_panel=DECODING),
    ] = True,
    stop: Annotated[
        list[str] | None,
        typer.Option("--stop", help="End at this text; repeatable.", metavar="TEXT", rich_help_panel=DECODING),
    ] = None,
    suppress_tokens: SuppressTokens = None,
    confidence: Annotated[
        str,
        typer.Option(
            help="Read from the clean or the filtered softmax; auto: as the model's own sampler.",
            metavar="KIND",
            rich_help_panel=DECODING,
        ),
    ] = "auto",
    batch_size: Annotated[
        int, typer.Option(help="Prompts decoded together; answers do not depend on it.", rich_help_panel=DECODING)
    ] = 1,
    temperature: Temperature = 0.0,
    top_p: Annotated[float | None, typer.Option(help="Nucleus of the draw.", rich_help_panel=SAMPLING)] = None,
    top_k: Annotated[int | None, typer.Option(help="Tokens in the draw.", rich_help_panel=SAMPLING)] = None,
    guidance: Annotated[
        float, typer.Option(help="Classifier-free guidance scale; 0 is off.", rich_help_panel=SAMPLING)
    ] = 0.0,
    seed: Seed = 0,
    samples: Annotated[
        int, typer.Option("--samples", "-n", help="Answers to each prompt.", rich_help_panel=SAMPLING)
    ] = 1,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    chat: Annotated[
        bool | None,
        typer.Option(
            "--chat/--raw", help="Use the model's chat template, or the text as it is. [default: if it has one]"
        ),
    ] = None,
    refresh: Annotated[
        str,
        typer.Option(
            help="With a cache: recompute the whole row every N blocks, or in the first block only ('window').",
            metavar="N|window",
            rich_help_panel=DECODING,
        ),
    ] = "1",
    refresh_window: Annotated[
        int,
        typer.Option(
            help="Cells on either side of the block that the other openings recompute.", rich_help_panel=DECODING
        ),
    ] = 0,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Print the memory it would take, and do nothing else.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per prompt and line.", rich_help_panel=OUTPUT)
    ] = False,
    trace: Annotated[
        Path | None, typer.Option(help="Save how the canvases filled in, for 'replay'.", rich_help_panel=OUTPUT)
    ] = None,
    live: Annotated[
        bool | None,
        typer.Option(
            "--live/--no-live", help="Watch the canvas fill in. [default: on a terminal]", rich_help_panel=OUTPUT
        ),
    ] = None,
    delay: Annotated[
        float,
        typer.Option(
            help="Seconds to rest after each forward of the live view.", rich_help_panel=OUTPUT, callback=seconds
        ),
    ] = 0.0,
    band: Annotated[
        bool,
        typer.Option(
            "--band",
            help="Mark AdaBlock's volatility band in the live view: masks neither confident nor hopeless.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
) -> None:
    """Decode prompts, and watch the canvas fill in."""
    prompts = read_prompts(prompt, file)
    check_batch_size(batch_size)
    if as_json and live:
        raise DllmError("--json and --live were both given; give one of them.")
    out = stdout()
    watch = out.is_terminal and not as_json if live is None else live
    if watch and batch_size > 1:
        raise DllmError(f"the live view follows one prompt, but --batch-size is {batch_size}; add --no-live.")
    if band and not watch:
        raise DllmError("--band marks cells of the live view, which is off; add --live.")
    if samples < 1:
        raise DllmError(f"--samples is {samples}; give a whole number from 1 up.")
    chat = False if infill and chat is None else chat
    config = GenerationConfig.from_dict(
        settings_of(
            policy,
            max_new_tokens=(0 if infill else 128) if max_new_tokens is None else max_new_tokens,
            block_length=block_length,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            seed=seed,
            guidance=guidance,
            suppress_tokens=suppress_tokens or (),
            stop=tuple(stop or ()),
            confidence=confidence,
            early_stop=early_stop,
            infill=infill,
            refresh=int(refresh) if refresh.isdecimal() else refresh,
            refresh_window=refresh_window,
            cache_dtype=cache_dtype,
        )
    )
    if estimate:
        check_cache(cache)
        print_estimate(
            prompts,
            model=model,
            policy=policy,
            cache=cache,
            config=config,
            batch_size=batch_size,
            chat=chat,
            device=device,
            dtype=dtype,
        )
        return
    traces = None if trace is None else OutputFile(trace, "the trace")
    check_policy(policy)
    check_cache(cache)
    from dllm_decode.engine.randomness import places_of
    from dllm_decode.engine.sampler import DiffusionSampler

    sampler = DiffusionSampler(load(model, device, dtype, quantize), policy, cache, config)
    sampler.check(prompts, chat=chat)

    places = places_of(len(prompts), samples, None)
    batches = [places[i : i + batch_size] for i in range(0, len(places), batch_size)]
    note = stderr()
    quiet = watch or not note.is_terminal or len(batches) < 2
    for batch in track(batches, "decoding", console=note, disable=quiet):
        result = _decode(sampler, [prompts[i] for i, _ in batch], batch, chat, watch, out, delay, band)
        for row, (index, sample) in enumerate(batch):
            if as_json:
                drawn = {"sample": sample} if samples > 1 else {}
                write_json(out, {**record(sampler, prompts[index], result, row), **drawn})
            else:
                titles = [f"prompt {index + 1}"] if len(prompts) > 1 else []
                titles += [f"sample {sample + 1}"] if samples > 1 else []
                print_text(out, text_of(sampler, result, row), ", ".join(titles) if out.is_terminal else "")
                if note.is_terminal and not watch:
                    print_cost(note, result, row)
        if traces is not None:
            for one in result.trace:
                annotate(one, sampler.model)
            traces.append("".join(line + "\n" for one in result.trace for line in one.to_lines()))


def _decode(
    sampler: DiffusionSampler,
    batch: list[Prompt],
    places: list[Place],
    chat: bool | None,
    watch: bool,
    out: Console,
    delay: float,
    band: bool,
) -> GenerationResult:
    if not watch:
        return sampler.generate(batch, chat=chat, places=places)
    from dllm_decode.viewing.band import BandWatch
    from samplers import spell

    title = f"{spell(sampler.policy)}, cache {sampler.cache}, {sampler.model.name}"
    glyphs = Glyphs.of_model(sampler.model)
    with LiveView(glyphs, console=out, title=title, prompt=shown(batch[0]), delay=delay) as view:
        watcher = BandWatch(view) if band else None
        return sampler.generate(batch, chat=chat, on_step=view, on_prediction=watcher, places=places)
