"""The GPU's benchmarks as far as a CPU can check them: dry runs, floors, bars, pages."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
import typer
from click.testing import Result
from typer.testing import CliRunner

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.capture import graphs
from dllm_decode.engine.capture.ahead import Lookahead
from dllm_decode.engine.capture.graphs import StepGraphs
from dllm_decode.engine.cost import Machine, Shape
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.models import NativeModel
from scripts import bench_decode
from scripts.bench import gpu, gpu_layers, gpu_page, gpu_runs, gpu_smoke, whole_runs
from scripts.bench.gpu import GpuRow, Plan
from scripts.bench.gpu_page import BARS, H200
from scripts.bench.gpu_runs import Paced, RunRow
from scripts.bench.shapes import SHAPES, config_of, random_model
from scripts.docs_page import markdown_table, put, section
from tests.dllm_decode.engine.capture.test_graphs import Repeater

CPU = torch.device("cpu")
DRY = replace(Plan(CPU).shrunken(), lengths=(40,), batches=(1,), block=4, suffix=12, prompt=20)


def run(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(bench_decode.main)
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize(
    ("family", "kind", "expected"),  # B=1, 8 and 32
    [("llada", "dual step", (3.62, 4.87, 19.46)), ("llada", "opening", (18.83, 150.65, 602.59))],
)
def test_floors_of_an_h200(family: str, kind: str, expected: tuple[float, ...]) -> None:
    lines = gpu_page.floor_lines(H200, Plan(CPU))
    found = [line for line in lines if line.startswith(f"| {family}, {kind} | 1024 |")]
    assert found == [f"| {family}, {kind} | 1024 | " + " | ".join(f"{x:.2f}" for x in expected) + " |"]
    assert len(lines) == 2 + 2 * 3 * 3


def test_floors_follow_the_formula() -> None:
    # LLaDA-8B's weights are read once: 2 bytes each at 4.3 TB/s, and the cached keys of 1024 + 32 tokens.
    shape = Shape.of(config_of("llada"), 2)
    assert shape.trunk == pytest.approx(6.979e9, rel=1e-3) and shape.kv_bytes == 524_288
    read = 2 * (shape.trunk + shape.head) + shape.kv_bytes * (1024 + 32)
    assert shape.floor(H200, 1, 32, 1024, 16, cached=True) == pytest.approx(read / 4.3e12)


def test_a_dry_run_measures_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "rates", lambda plan: Machine(1e11, 1e10))
    monkeypatch.setattr(gpu_runs, "recorded_pace", lambda block: ((1, 2, 5),))
    done = run("--gpu", "--dry-run", "--textbook", "--json", "--threads", "1", "--batch", "2")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    names = [f"{f}, {c}, {k}" for f in ("llada", "dream") for c in ("prefix", "dual") for k in ("opening", "step")]
    assert [row["name"] for row in found["rows"]] == names
    for row in found["rows"]:
        assert row["ms"] > 0 and row["model_ms"] > 0 and row["textbook_ms"] > 0 and row["score_ms"] > 0
        assert row["floor_ms"] > 0 and row["peak"] is None and row["needed"] > 0
    floors = {row["name"]: row["floor_ms"] for row in found["rows"]}
    assert floors["llada, dual, step"] < floors["llada, prefix, step"] < floors["llada, dual, opening"]
    # Three blocks at a pace of 1, 2 and 5 of 8 cells: three forwards each.
    assert [run["forwards"] for run in found["runs"]] == [9, 9]
    assert set(found["errors"]) == {"llada", "dream"} and "torch" in found["versions"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--dry-run", "--family", "mercury"), "no family 'mercury'; use llada or dream"),
        (("--dry-run", "--length", "24"), "leaves no prompt before 24 cells"),
        (("--dry-run", "--docs", "page.md"), "figures mean nothing"),
    ],
)
def test_wrong_requests_end_in_a_sentence(options: tuple[str, ...], said: str) -> None:
    done = run("--gpu", *options)
    assert done.exit_code == 2 and said in " ".join(re.sub(r"[│╭╮╰╯─]", " ", done.output).split())


def test_whole_runs_follow_their_pace_with_steps_begun_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    models: list[NativeModel] = []
    original = gpu.random_model

    def recorded(family: str, plan: Plan) -> NativeModel:
        model = original(family, plan)
        graphs._known[model] = StepGraphs(model, Repeater(), needs_kernels=False)
        models.append(model)
        return model

    hits: list[float] = []
    monkeypatch.setattr(Lookahead, "hit", lambda look, seconds: hits.append(seconds))
    found = gpu_runs.whole_run(recorded("llada", DRY), DRY, Machine(1e11, 1e10), "llada", ((1, 1, 2), (2, 1, 1)))
    assert found.forwards == 9 and found.discarded == 0 and found.share > 0
    # The run before the one that counts, and that one: three blocks of an opening, a step, and a step begun ahead.
    assert len(models) == 1 and len(hits) == 6


def test_paces() -> None:
    policy = Paced(((3, 1), (1, 1, 2)))
    block, step = torch.tensor([0, 0, 0, 1, 2]), torch.tensor([0, 1, 2, 2, 1])
    assert policy.quota(block, step).tolist() == [3, 1, 10**6, 2, 1]
    assert policy.forecast == ("top", 3)


def test_shapes_that_do_not_fit_are_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gpu, "time_steps", full)
    assert list(gpu.step_rows(gpu.random_model("llada", DRY), "llada", DRY, Machine(1e11, 1e10), False)) == []
    assert "llada, dual, N=40, B=1: does not fit, left out" in capsys.readouterr().err


def row(name: str, ms: float, **changes: float | None) -> GpuRow:
    fields = {"model_ms": ms, "textbook_ms": 50.0, "floor_ms": 4.0, "score_ms": 0.05, "peak": 17.0, "needed": 15.5}
    return GpuRow(name, 1024, 1, ms, **{**fields, **changes})  # type: ignore[arg-type]


def test_bars_are_judged_by_the_worst() -> None:
    good = [row("llada, dual, step", 5.0), row("llada, dual, opening", 5.0, textbook_ms=None)]
    runs, errors = [RunRow("llada, whole run", 48, 150.0, 190.0)], {"llada": 0.01}
    assert gpu_page.missed(good, runs, errors) == []
    bad = [*good, row("dream, dual, step", 11.0, model_ms=6.0, peak=19.0), row("dream, dual, opening", 5.4)]
    said = gpu_page.missed(bad, [*runs, RunRow("dream, whole run", 48, 100.0, 190.0)], {**errors, "dream": 0.03})
    assert [sentence.split(":")[0] for sentence in said] == [
        "dream, dual, step, N=1024, B=1",  # times its floor
        "dream, dual, step, N=1024, B=1",  # textbook
        "dream, dual, opening, N=1024, B=1",
        "dream, whole run",
        "dream, dual, step, N=1024, B=1",  # memory
        "dream, dual, step, N=1024, B=1",  # sampler
        "dream",
    ]
    lines = gpu_page.bar_lines(bad, runs, errors, CPU)
    assert "| at most 1.35 | 2.75 (dream, dual, step, N=1024, B=1): missed |" in lines[2]
    assert "| at least 0.75 | 0.789 (llada, whole run): met |" in lines[5]


def test_nothing_measured_is_said_with_its_command() -> None:
    said = gpu_page.missed([], [], {})
    assert len(said) == len(BARS)
    assert said[1].endswith("not measured (run python -m scripts.bench_decode --gpu --textbook --batch 1).")


def test_the_page_holds_what_this_code_computes() -> None:
    text = (Path(__file__).parents[2] / "docs" / "performance.md").read_text()
    for line in gpu_page.floor_lines(H200, Plan(CPU)):
        assert line in text, "run python -m scripts.bench.gpu_page docs/performance.md"
    for bar in BARS:
        assert f"| {bar.what} | at {bar.side} {bar.limit:g} |" in text


def test_pages_are_written(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("".join(f"<!-- gpu {x}: begin -->\n<!-- gpu {x}: end -->\n" for x in ("floors", "bars")))
    assert gpu_page.main([str(page)]) == 0 and page.read_text().count("not measured") == len(BARS)
    gpu_page.write(page, [row("llada, dual, step", 5.0)], [RunRow("llada, whole run", 9, 1.0, 2.0, 1)], {}, CPU)
    text = page.read_text()
    assert "| llada, dual, step | 1024 | 1 | 5.00 | 50.00 | 4.00 | 1.25 | 1.00 | 17.00 | 15.50 |" in text
    assert "0.5 (llada, whole run): missed" in text and "1 more were begun ahead" in text
    assert gpu_page.main([]) == 2


def test_parts_of_a_layer(capsys: pytest.CaptureFixture[str]) -> None:
    with torch.no_grad():
        rows = [*gpu_layers.elementwise_rows(DRY, H200, (2,)), *gpu_layers.attention_rows(DRY, H200)]
    ways = {r.way for r in rows if r.what == "dream, attention"}
    assert {"sdpa", "reference"} <= ways and "flash" not in ways
    assert {r.what for r in rows} == {
        f"{f}, {part}" for f in ("llada", "dream") for part in ("residual and norm", "gate", "attention")
    }
    assert all(r.ms > 0 and r.floor_ms > 0 for r in rows)
    # q and k of 4 heads of 16, both of 40 slots: what one step must read.
    assert next(r.floor_ms for r in rows if r.what == "llada, attention") == pytest.approx(
        1e3 * 2 * 64 * 4 * 40 / 4.3e12
    )


def test_parts_of_a_layer_are_timed_as_replays() -> None:
    recorder, calls = Repeater(), count()
    ms, how = gpu_layers.spent(lambda: next(calls), CPU, 5, recorder)
    assert recorder.recorded == 1 and how == "" and ms > 0
    assert next(calls) % 5 == 0 and next(calls) > 5, "recording and every replay make all the calls"
    refusing = gpu_layers.spent(lambda: next(calls), CPU, 5, Repeater(fails=True))
    assert refusing[1] == ", launched one by one"
    assert gpu_layers.spent(lambda: next(calls), CPU, 5, None)[1] == "" and gpu_layers.recorder_of(DRY) is None


def test_first_light_runs_dry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "rates", lambda plan: Machine(1e11, 1e10))
    done = run("--gpu", "--smoke", "--dry-run", "--threads", "1")
    assert done.exit_code == 0, done.output
    last = " ".join(done.output.split("\n\n")[-1].split())
    assert "recorded equal: True" in last and "sdpa float32" in last and "dry run, the figures mean nothing" in last


def test_first_light_names_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "rates", lambda plan: Machine(1e11, 1e10))
    monkeypatch.setattr(gpu_smoke, "kernel_errors", lambda *_: [("triton", torch.float32, 0.5)])
    done = run("--gpu", "--smoke", "--dry-run", "--threads", "1")
    assert (
        done.exit_code == 1 and "triton in float32: relative error 5.0e-01, at most 0.0001 is allowed" in done.output
    )


def test_whole_runs_of_a_shape_and_of_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_runs, "rates", lambda plan: Machine(1e11, 1e10))
    machine = Machine(1e11, 1e10)
    (run,) = whole_runs.whole_runs(gpu.random_model("llada", DRY), DRY, machine, ["topk:k=2"], pairs=1)
    # Three blocks of four cells, two cells a forward.
    assert run.forwards == 6 and run.ahead > 0 and run.plain > 0 and run.textbook is not None and run.textbook > 0
    opening, step = (
        Shape.of(config_of("llada", small=True), 4).floor(machine, 1, tokens, 32, heads, cached=True)
        for tokens, heads in ((32, 4), (4, 2))
    )
    assert run.allowed == pytest.approx(12 / (3 * opening + 3 * step))
    app = typer.Typer()
    app.command()(whole_runs.main)
    done = CliRunner().invoke(app, ["--dry-run", "--model", "tiny", "--policy", "threshold", "--batch", "2"])
    assert done.exit_code == 0 and "| tiny | threshold | 2 |" in done.output, done.output
    refused = CliRunner().invoke(app, ["--dry-run", "--shape", "mercury"])
    assert refused.exit_code == 2 and "sdar-8b" in refused.output


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_every_shape_has_a_small_one_that_decodes(shape: str) -> None:
    model = random_model(shape, torch.float32, CPU, small=True)
    config = GenerationConfig(max_new_tokens=8, block_length=4)
    cache = "block" if model.attention_block else "dual"
    assert DiffusionSampler(model, "topk:k=2", cache, config).generate([[1, 2, 3]]).nfe[0] >= 4
    assert type(config_of(shape)) is type(model.module.config)


def test_shapes_have_the_published_sizes() -> None:
    # Weights in billions; of the mixture those that one token touches apart.
    sizes = {name: Shape.of(config_of(name), 2) for name in SHAPES}
    assert {n: round((s.trunk + 2 * s.head) / 1e9, 1) for n, s in sizes.items()} == {
        "llada": 8.0, "dream": 7.6, "sdar-1.7b": 2.0, "sdar-8b": 8.2, "llada2-mini": 16.2,
    }  # fmt: skip
    mini = sizes["llada2-mini"]
    assert (mini.touched(1) + 2 * mini.head) / 1e9 == pytest.approx(1.4, abs=0.1)


def test_a_table_keeps_other_models_of_the_same_machine(tmp_path: Path) -> None:
    page, where = tmp_path / "page.md", "a GPU, today."
    page.write_text("<!-- runs: begin -->\nnothing\n<!-- runs: end -->\n")
    assert whole_runs.others(section(page, "runs"), where, "b") == []
    table = markdown_table(("model", "policy"), [["a", "threshold"], ["b", "threshold"]])
    put(page, "runs", [where, "", *table])
    assert whole_runs.others(section(page, "runs"), where, "b") == ["| a | threshold |"]
    assert whole_runs.others(section(page, "runs"), "another GPU, today.", "b") == []


def test_lines_can_be_picked() -> None:
    plan = replace(DRY, shapes=((64, 2), (48, 1)), caches=("dual",))
    assert plan.cases == [(64, 2, "dual"), (48, 1, "dual")] and len(DRY.cases) == 2
    done = run("--gpu", "--dry-run", "--shape", "1024by8")
    assert done.exit_code == 2 and "give NxB" in done.output
