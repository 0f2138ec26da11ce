"""The CPU benchmarks on tiny sizes: what the figures mean, not what they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from dllm_decode import DiffusionSampler, GenerationConfig
from dllm_decode.engine.cost import Machine
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.models import LLaDA, LLaDAConfig, NativeModel, load_model
from dllm_decode.tasks import samples
from scripts import bench_decode
from scripts.bench import bars, bundled, exact_block
from scripts.bench.bundled import Workload, bundled_rows, refresh_rows, refresh_table
from scripts.bench.grow import NAME, Sizes, draw_growth, growth_table, measure_growth, peak_growth
from scripts.bench.measure import Row
from scripts.docs_page import put
from scripts.make_checkpoint import make_checkpoint

MACHINE = Machine(1e11, 1e10)
SMALL = Sizes(
    layers=1, width=64, vocabulary=128, block=8, per_step=4, lengths=(24, 40), batches=(1, 2), length=32, repeats=1
)


def test_refresh_settings_differ_in_what_openings_cost():
    model = load_model("tiny")
    loads = (Workload("json", "kv_json", 4), Workload("whole", "copy", 8, canvas=24, early_stop=False))
    rows = refresh_rows(5, model, loads, ((1, 0), (2, 0), ("window", 0), ("window", 8)))
    assert [(r["refresh"], r["window"]) for r in rows] == 2 * [(1, 0), (2, 0), ("window", 0), ("window", 8)]
    for always, second, never, wide in (rows[:4], rows[4:]):
        assert always["full"] == always["openings"] and always["difference"] == 0 and always["speedup"] == 1
        assert never["full"] < second["full"] < always["full"]
        assert never["tokens"] < second["tokens"] < always["tokens"] and never["tokens"] < wide["tokens"]
        assert all(r["opening_tokens"] >= r["openings"] for r in (always, second, never, wide))
        assert all(
            0 <= r["low"] <= r["accuracy"] <= r["high"] <= 1 and r["n"] == 5 for r in (always, second, never, wide)
        )
    assert rows[4]["nfe"] >= 3  # without early stop every block is opened
    lines = refresh_table(rows)
    assert len(lines) == 2 + len(rows) and len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| json | 1 | - |") and lines[6].startswith("| whole | 1 | - |")


def test_bundled_figures_belong_together(monkeypatch):
    monkeypatch.setattr(bundled, "CELLS", 8)
    monkeypatch.setattr(bundled, "TIMED", 1)
    found = bundled_rows(2)
    assert found["prompt tokens, least"] >= 150 and found["prompts"] == 2
    assert found["ratio"] == pytest.approx(found["dual tokens/s"] / found["none tokens/s"])
    assert found["points"] == found["dual accuracy"] - found["none accuracy"]
    assert 0 <= found["mcnemar p"] <= 1
    for cache in ("none", "dual"):
        low, high = found[f"{cache} accuracy, low"], found[f"{cache} accuracy, high"]
        assert low <= found[f"{cache} accuracy"] <= high


def test_bars_of_the_bundled_run():
    good = {"ratio": 3.0, "points": -0.5}
    assert bench_decode.missed([], (), good) == []
    said = bench_decode.missed([], (), {"ratio": 1.5, "points": -1.5})
    assert [sentence.startswith("bundled model: ") for sentence in said] == [True, True]


def test_growth_is_measured_beside_its_floor(tmp_path):
    by_length, by_batch = measure_growth(MACHINE, SMALL)
    assert [(g.cache, g.length) for g in by_length] == [("none", 24), ("none", 40), ("dual", 24), ("dual", 40)]
    assert [(g.cache, g.batch) for g in by_batch] == [("none", 1), ("none", 2), ("dual", 1), ("dual", 2)]
    for one in (*by_length, *by_batch):
        assert set(one.times) == ({"no cache, step"} if one.cache == "none" else {"dual, step", "dual, opening"})
        assert all(ms > 0 and floor > 0 for ms, floor in one.times.values())
        assert one.floor < one.estimate
    floors = [one.times["no cache, step"][1] for one in by_length[:2]]
    assert floors[0] < floors[1]
    assert by_length[2].floor < by_length[3].floor  # the cache grows with N
    lines = growth_table([*by_length, *by_batch])
    assert len(lines) == 2 + 4 + 2 * 4  # head; four shapes without cache; four with, two kinds of forward each
    pytest.importorskip("matplotlib")
    draw_growth(tmp_path / "docs", SMALL, by_length, by_batch)
    assert (tmp_path / "docs" / NAME).read_bytes().startswith(b"\x89PNG")


def test_peak_growth_sees_a_large_buffer():
    before = peak_growth(lambda: None)
    if before is None:
        pytest.skip("this system does not say what a process holds")
    grown = peak_growth(lambda: bytearray(b"x" * 2**26))
    assert 2**26 <= grown < 2**28
    assert before < 2**24


def run(*arguments: str):
    app = typer.Typer()
    app.command()(bench_decode.main)
    return CliRunner().invoke(app, list(arguments))


def test_sections_are_written_between_their_markers(tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "WORKLOADS", (Workload("json", "kv_json", 8),))
    monkeypatch.setattr(bench_decode, "machine_rates", lambda _: MACHINE)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- refresh: begin -->\nold\n<!-- refresh: end -->\nafter\n")
    found = run("--no-steps", "--refresh", "--problems", "2", "--threads", "1", "--docs", str(page))
    assert found.exit_code == 0, found.output
    text = page.read_text()
    assert text.startswith("before\n<!-- refresh: begin -->") and text.endswith("<!-- refresh: end -->\nafter\n")
    assert "\nold\n" not in text and "| json | 1 | - |" in text and "2 held-out problems" in text


def test_a_page_without_markers_is_refused(tmp_path):
    page = Path(tmp_path / "page.md")
    page.write_text("<!-- a: end -->\n<!-- a: begin -->\n")
    with pytest.raises(SystemExit, match="once each"):
        put(page, "a", ["x"])
    page.write_text("<!-- a: begin -->\n<!-- a: end -->\n")
    put(page, "a", ["x"])
    once = page.read_text()
    put(page, "a", ["x"])
    assert page.read_text() == once and "\nx\n" in once


def test_the_exact_block_cache_next_to_the_dual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_block, "TASKS", {name: exact_block.TASKS[name] for name in ("copy", "kv_json")})
    full = LLaDAConfig(
        d_model=32, n_layers=1, n_heads=2, mlp_hidden_size=32, vocab_size=600, embedding_size=600, mask_token_id=0
    )
    tokenizer = load_model("tiny").tokenizer
    models: dict[str, DenoisingModel] = {}
    for name, block in (("tiny", None), ("tiny-block", 8)):
        torch.manual_seed(0)
        module = LLaDA(LLaDAConfig(**{**full.to_diff_dict(), "block_size": block}))
        models[name] = NativeModel(module, mask_id=0, tokenizer=tokenizer, name=name)
    rows, different = exact_block.measure("topk:k=4", 2, models)
    assert different == 0 and [row.way for row in rows] == list(exact_block.WAYS)
    by_way = {row.way: row for row in rows}
    assert by_way[exact_block.EXACT].tokens < by_way[exact_block.PLAIN].tokens
    assert exact_block.ratio(rows) > 0 and len(exact_block.lines(rows)) == 2 + len(rows)


def test_a_bar_is_judged_by_its_column():
    rows = [Row("a", "", 2.0, 8.0, 1.0), Row("b", "", 3.0, None, None)]
    assert bars.Bar("a", "speedup", 4.0).judge(rows) is None
    assert bars.Bar("a", "over_floor", 1.5, most=True).judge(rows) == "a: over_floor is 2.00, the bar is at most 1.5."
    assert "was not measured" in (bars.Bar("b", "speedup", 4.0).judge(rows) or "")
    lines = bars.bar_lines(rows, [bars.Bar("a", "speedup", 5.0), bars.Bar("b", "ms", 4, most=True)])
    assert "4.00, missed" in lines[2] and "3.00, met" in lines[3]


def test_rows_of_the_bars_measure_what_they_say(tmp_path):
    host = bars.host_rows(steps=3, sizes=((2, 64),))[0]
    assert host.name == "outside model and scoring, B=2, G=64" and host.ms > 0
    row = bars.bundled_row(prompts=1, repeats=1, cells=16)
    assert row.speedup is not None and row.speedup > 0
    make_checkpoint("llada-8b", tmp_path, scale=16)
    small = bars.eight_row(tmp_path, prompt=8, block=8)
    assert small.shape == "L2 d256" and small.over_floor is not None and small.over_floor > 1


def test_the_textbook_loop_decodes_the_same_answer():
    model = load_model("tiny")
    prompt = model.tokenizer.encode_prompt(samples("lines", "test", 1, 7)[0].prompt)
    sampler = DiffusionSampler(model, "threshold", "dual", GenerationConfig(max_new_tokens=32, block_length=16))
    ours = sampler.generate([prompt], early_stop=False).sequences[0]
    assert bars.textbook_answer(model, prompt, 32) == ours
