"""What a decoding step costs, next to the textbook loop and to the floor of this machine.

    python -m scripts.bench_decode --textbook            # the table
    python -m scripts.bench_decode --textbook --check    # exit 1 naming each bar this machine misses; about 4 minutes
    python -m scripts.bench_decode --no-steps --check --8b DIR   # a bf16 step of what make_checkpoint wrote to DIR
    python -m scripts.bench_decode --bundled             # the bundled model end to end, dual cache against none
    python -m scripts.bench_decode --refresh             # what a cheaper refresh of the dual cache costs and gains
    python -m scripts.bench_decode --grow docs           # step time and memory against N and B, as plots
    python -m scripts.bench_decode --textbook --bundled --refresh --grow docs --docs docs/performance.md
    python -m scripts.bench_decode --gpu --textbook      # LLaDA-8B's and Dream-7B's shapes on a GPU, with its bars
    python -m scripts.bench_decode --gpu --smoke         # first light: kernels agree, one shape, one line to paste
    python -m scripts.bench_decode --gpu --dry-run       # the same code on the CPU with shrunken shapes

All figures of a table come from one process on the same weights.  Floors: ``dllm_decode/engine/cost.py`` with the
matrix product and copy rates measured at the start.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from dllm_decode.engine.cost import Machine, Shape
from dllm_decode.engine.rates import machine_rates
from scripts.bench import bars, gpu_page, gpu_runs, gpu_smoke
from scripts.bench import gpu as gpu_bench
from scripts.bench.bundled import bundled_rows, refresh_note, refresh_rows, refresh_table
from scripts.bench.grow import NAME as GROWTH_NAME
from scripts.bench.grow import plot_growth
from scripts.bench.measure import Row, middle, prompts_of, random_llada, time_ours, time_textbook
from scripts.bench.page import about, bundled_section, step_section, write_sections

LAYERS, WIDTH, VOCABULARY = 4, 512, 126_464
PROMPT, NEW, BLOCK, K = 128, 128, 32, 4
SHAPE = f"L{LAYERS} d{WIDTH} V{VOCABULARY} N{PROMPT + NEW} b{BLOCK}"

BUNDLED_BAR, BUNDLED_POINTS = 2.0, 1.0  # dual over none in tokens per second; accuracy points apart


def step_rows(machine: Machine, textbook: bool, repeats: int) -> tuple[list[Row], dict[str, float]]:
    """The step table, and the share (per cent) of each kind of run spent outside the model."""
    model = random_llada(LAYERS, WIDTH, VOCABULARY, PROMPT + NEW)
    theirs = random_llada(LAYERS, WIDTH, VOCABULARY, PROMPT + NEW, packed=False)  # as the papers' code has them
    shape = Shape.of(model.module.config, 4)
    total = PROMPT + NEW
    rows, shares = [], {}
    time_ours(model, PROMPT, BLOCK, BLOCK, K, "none", 0.0)  # warm-up: allocator, thread pool
    for cache, temperature in (("none", 0.0), ("none", 1.0), ("prefix", 0.0), ("dual", 0.0), ("dual", 1.0)):
        new = NEW if cache != "none" else 2 * BLOCK
        runs, books = [], []
        for _ in range(repeats):
            runs.append(time_ours(model, total - new, new, BLOCK, K, cache, temperature))
            if textbook:
                once = new if temperature == 0 else BLOCK
                books.append(
                    time_textbook(theirs, prompts_of(theirs, total - new), once, BLOCK, K, cache, temperature)
                )
        masked = (BLOCK - K) // 2  # mean masks left in a block over its steps
        tokens = {"none": total, "prefix": new, "dual": BLOCK}[cache]
        kinds = [("step", 1, tokens, masked)] + ([("opening", 0, total, BLOCK)] if cache != "none" else [])
        for kind, at, forwarded, heads in kinds:
            ours, book = ([x for run in found for x in run[at]] for found in (runs, books))
            floor = shape.floor(machine, 1, forwarded, total, heads, cached=cache != "none")
            name = f"{kind}, {'no cache' if cache == 'none' else cache}, T={temperature:g}"
            rows.append(Row(name, SHAPE, middle(ours), middle(book) if book else None, 1e3 * floor))
        shares[f"{cache}, T={temperature:g}"] = 100 * sorted(run[2] for run in runs)[len(runs) // 2]
    return rows, shares


def half_rows(repeats: int) -> list[Row]:
    """The steps at temperature 0 in bf16, where this processor multiplies it; fp32 is the default on a CPU."""
    if not torch.cpu._is_avx512_bf16_supported():
        return []
    model = random_llada(LAYERS, WIDTH, VOCABULARY, PROMPT + NEW, packed=False)
    model.module.to(torch.bfloat16)
    model.module.ready()
    time_ours(model, PROMPT, BLOCK, BLOCK, K, "none", 0.0)  # warm-up
    rows = []
    for cache, name, new in (("none", "no cache", 2 * BLOCK), ("dual", "dual", NEW)):
        steps = [x for _ in range(repeats) for x in time_ours(model, PROMPT + NEW - new, new, BLOCK, K, cache, 0.0)[1]]
        rows.append(Row(f"step, {name}, T=0, bf16", SHAPE, middle(steps), None, None))
    return rows


def missed(rows: list[Row], found: Sequence[bars.Bar], bundled: dict[str, float | None] | None) -> list[str]:
    """One sentence per bar that this machine misses; bars of what was not measured count as missed."""
    out = [said for bar in found if (said := bar.judge(rows)) is not None]
    if bundled is None:
        return out
    ratio, points = bundled["ratio"] or 0.0, bundled["points"] or 0.0
    if ratio < BUNDLED_BAR:
        out.append(f"bundled model: dual is {ratio:.2f}x no cache in tokens/s, the bar is {BUNDLED_BAR}x.")
    if abs(points) > BUNDLED_POINTS:
        out.append(f"bundled model: accuracy differs by {points:.1f} points, the bar is {BUNDLED_POINTS:g}.")
    return out


def gpu_table(
    dry_run: bool,
    textbook: bool,
    families: list[str] | None,
    lengths: list[int] | None,
    batches: list[int] | None,
    pairs: list[str] | None,
    caches: list[str] | None,
    as_json: bool,
    docs: Path | None,
    smoke: bool,
) -> list[str]:
    """Measure on a GPU, print, write to the page, and return the missed bars."""
    unknown = [name for name in families or [] if name not in gpu_bench.FAMILIES]
    if unknown:
        raise typer.BadParameter(f"there is no family {unknown[0]!r}; use {' or '.join(gpu_bench.FAMILIES)}.")
    plan = gpu_bench.plan_for(dry_run, docs)
    plan = replace(plan, lengths=tuple(lengths or plan.lengths), batches=tuple(batches or plan.batches))
    try:
        plan = replace(plan, shapes=tuple((int(n), int(b)) for n, b in (x.split("x") for x in pairs or [])))
    except ValueError as error:
        raise typer.BadParameter(f"--shape is {pairs!r}; give NxB, such as 1024x8.") from error
    if unknown := [name for name in caches or [] if name not in plan.caches]:
        raise typer.BadParameter(f"--cache is {unknown[0]!r}; use {' or '.join(plan.caches)}.")
    plan = replace(plan, caches=tuple(caches or plan.caches))
    short = [n for n, _, _ in plan.cases if n <= plan.suffix]
    if short:
        raise typer.BadParameter(
            f"N = {short[0]} leaves no prompt before {plan.suffix} cells; give a larger --length."
        )
    chosen = families or list(gpu_bench.FAMILIES)
    machine = gpu_bench.rates(plan)
    where = f"{gpu_page.name_of(plan.device)}, {gpu_page.versions()}"
    if smoke:
        return gpu_smoke.smoke(plan, machine, where)
    rows: list[gpu_bench.GpuRow] = []
    runs: list[gpu_runs.RunRow] = []
    errors: dict[str, float] = {}
    pace = gpu_runs.recorded_pace(plan.block)
    for name in chosen:  # the page is written as it goes, so that what was measured survives whatever comes next
        model = gpu_bench.random_model(name, plan)
        for row in gpu_bench.step_rows(model, name, plan, machine, textbook):
            rows.append(row)
            print(*gpu_page.row_lines([row], [])[2:3], file=sys.stderr, flush=True)
            if docs is not None:
                gpu_page.write(docs, rows, runs, errors, plan.device)
        runs.append(gpu_runs.whole_run(model, plan, machine, name, pace))
        errors[name] = gpu_runs.relative_error(model, plan)
        del model
    if as_json:
        record = {"rows": [asdict(r) for r in rows], "runs": [asdict(r) for r in runs], "errors": errors}
        print(json.dumps({**record, "machine": asdict(machine), "versions": where}))
    else:
        gpu_page.show(rows, runs, errors, machine, plan, where)
    if docs is not None:
        gpu_page.write(docs, rows, runs, errors, plan.device)
    return gpu_page.missed(rows, runs, errors)


def main(
    textbook: Annotated[bool, typer.Option(help="Also run the papers' loop on the same weights.")] = False,
    bundled: Annotated[bool, typer.Option(help="Also run the bundled model end to end.")] = False,
    refresh: Annotated[
        bool, typer.Option(help="Also measure refresh= and refresh_window= on the bundled model.")
    ] = False,
    grow: Annotated[Path | None, typer.Option(help="Folder for the growth plots.")] = None,
    docs: Annotated[
        Path | None, typer.Option(help="Page to write what was measured into, between its markers.")
    ] = None,
    steps: Annotated[bool, typer.Option(help="The table of steps.")] = True,
    eight: Annotated[
        Path | None,
        typer.Option("--8b", help="Also a bf16 step of this checkpoint, such as make_checkpoint's llada-8b."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each kind.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    samples: Annotated[int, typer.Option(min=1, help="Prompts of the bundled run.")] = 400,
    problems: Annotated[int, typer.Option(min=1, help="Problems per workload of --refresh.")] = 160,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    check: Annotated[bool, typer.Option(help="Exit 1 naming each bar that this machine misses.")] = False,
    gpu: Annotated[bool, typer.Option(help="The GPU's table instead: published shapes, random bf16 weights.")] = False,
    smoke: Annotated[bool, typer.Option(help="With --gpu: kernels, recordings and one shape, in minutes.")] = False,
    dry_run: Annotated[bool, typer.Option(help="With --gpu: shrunken shapes on the CPU.")] = False,
    family: Annotated[list[str] | None, typer.Option(help="With --gpu: llada, dream (default both).")] = None,
    length: Annotated[list[int] | None, typer.Option(help="With --gpu: N (default 512, 1024, 2048).")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="With --gpu: B (default 1, 8, 32).")] = None,
    shape: Annotated[list[str] | None, typer.Option(help="With --gpu: NxB instead, such as 1024x8.")] = None,
    cache: Annotated[list[str] | None, typer.Option(help="With --gpu: prefix, dual (default both).")] = None,
) -> None:
    """Measure; see the module's own text."""
    torch.set_num_threads(threads)
    if gpu:
        sentences = gpu_table(dry_run, textbook, family, length, batch, shape, cache, as_json, docs, smoke)
        check = check or smoke
        for sentence in sentences if check else []:
            print(sentence, file=sys.stderr)
        raise typer.Exit(1 if check and sentences else 0)
    machine = machine_rates(BLOCK)
    rows, shares = step_rows(machine, textbook, repeats) if steps else ([], {})
    if steps:
        rows += [*half_rows(repeats), *bars.host_rows(), bars.many_row()]
        rows += [bars.bundled_row(repeats=repeats)] if textbook else []
    large = [bars.eight_row(eight)] if eight else []
    end_to_end = bundled_rows(samples) if bundled else None
    refreshed = refresh_rows(problems) if refresh else []
    sections: dict[str, list[str]] = {}
    if rows:
        sections["steps"] = [*step_section(rows, shares), "", *bars.bar_lines(rows, bars.BARS)]
    if large:
        sections["8b"] = [*step_section(large, {}), "", *bars.bar_lines(large, [bars.EIGHT_BAR])]
    if end_to_end is not None:
        sections["bundled"] = bundled_section(end_to_end)
    if refreshed:
        sections["refresh"] = [refresh_note(refreshed), "", *refresh_table(refreshed)]
    if grow is not None:
        sections["growth"] = plot_growth(grow, machine)
        if docs is not None:
            picture = os.path.relpath(grow / GROWTH_NAME, docs.parent)
            sections["growth"] = [f"![How time and memory grow]({picture})", "", *sections["growth"]]
    if as_json:
        record = [{**asdict(r), "speedup": r.speedup, "over_floor": r.over_floor} for r in [*rows, *large]]
        shown = {"rows": record, "outside_model_percent": shares, "bundled": end_to_end}
        print(json.dumps({**shown, "refresh": refreshed}))
    else:
        for lines in sections.values():
            print(*lines, sep="\n")
        print(about(machine))
    if docs is not None:
        write_sections(docs, sections, machine)
    if check:
        judged = (*(bars.BARS if steps else ()), *([bars.EIGHT_BAR] if large else ()))
        sentences = missed([*rows, *large], judged, end_to_end)
        for sentence in sentences:
            print(sentence, file=sys.stderr)
        raise typer.Exit(1 if sentences else 0)


if __name__ == "__main__":
    typer.run(main)
