"""Training of the bundled model: rows, masks, optimiser, and a run that is interrupted and resumed."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast
from typer import BadParameter

from dllm_decode.interface.inputs import ForwardInput
from dllm_decode.models.llada import LLaDA
from dllm_decode.models.native import NativeModel
from dllm_decode.tasks import TASKS, long_tasks
from dllm_decode.tasks.tokenizer import BOS_ID, EOS_ID, MASK_ID, SEP_ID, decode, encode
from scripts.tiny.data import batches
from scripts.tiny.masks import FAR_WEIGHT, SHARES, TAIL_WEIGHT, mask_rows
from scripts.tiny.mix import parse_emphasis, parse_tasks
from scripts.tiny.model import build_model
from scripts.tiny.optim import orthogonalize
from scripts.tiny.rows import NAMES, make_drill, make_row
from scripts.tiny.settings import Run, learning_rate
from scripts.tiny.validate import decode_blocks
from scripts.train_tiny import Trainer
from tests.processes import alive, children, reads_proc


def tiny_run(folder: Path, steps: int) -> Run:
    return Run(
        out=folder / "out",
        work=folder / "work",
        minutes=0.0,
        steps=steps,
        processes=1,
        tokens=300,
        lr=0.01,
        hold=0.1,
        width=32,
        layers=1,
        heads=2,
        inner=32,
        seed=0,
        device="cpu",
        evaluate_every=0.0,
        save_every=0.0,
        samples=1,
        full_share=0.25,
        late_full_share=0.5,
        stale_share=0.5,
        floor=0.1,
        emphasis="",
        shots_share=0.06,
        tasks="all,long",
        start=None,
        compiled=False,
    )


def rows_of(name: str, count: int, seed: int = 0):
    rng = Random(seed)
    return [make_row(rng, name, full_share=0.5) for _ in range(count)]


@pytest.mark.parametrize("name", NAMES)
def test_masked_rows(name):
    rows = rows_of(name, 40)
    batch = mask_rows(rows, torch.Generator().manual_seed(0))
    masked = batch.tokens == MASK_ID
    assert torch.equal(masked, batch.weight > 0)
    assert torch.equal(batch.tokens[~masked], batch.target[~masked])
    assert set(batch.weight.unique().tolist()) <= set(torch.tensor([0.0, 1.0, FAR_WEIGHT, TAIL_WEIGHT]).tolist())
    for row, target, open_cells, weight in zip(rows, batch.target.tolist(), masked, batch.weight, strict=True):
        assert target[: len(row.ids)] == row.ids
        assert set(target[len(row.ids) :]) <= {EOS_ID}
        assert row.ids[0] == BOS_ID and row.ids[row.start - 1] == SEP_ID and row.ids[-1] == EOS_ID
        assert row.total >= len(row.ids)
        assert not open_cells[: row.start].any()
        assert weight[row.start : len(row.ids)].max() == 1.0  # some answer cell is learned from, fully


def test_low_rows_open_the_replaced_cell(monkeypatch):
    monkeypatch.setitem(SHARES, "replace_random", (1.0, 0.0, 0.0))
    rows = rows_of("replace_random", 2000)
    batch = mask_rows(rows, torch.Generator().manual_seed(0))
    single = forced = 0
    for row, tokens in zip(rows, batch.tokens, strict=True):
        answer = (tokens[row.start : len(row.ids)] == MASK_ID).nonzero()[:, 0].tolist()
        assert 1 <= len(answer) <= 4
        if len(answer) == 1:
            single += 1
            forced += answer[0] == row.cell
    assert 0.5 < single / len(rows) < 0.7
    assert 0.45 < forced / single < 0.68  # half of them by force, 1 in 5 to 9 of the others by chance


def test_block_rows_are_what_block_decoding_meets(monkeypatch):
    monkeypatch.setitem(SHARES, "lines", (0.0, 0.0, 1.0))
    rows = rows_of("lines", 200)
    batch = mask_rows(rows, torch.Generator().manual_seed(0))
    for row, tokens in zip(rows, batch.tokens, strict=True):
        masked = (tokens[row.start :] == MASK_ID).tolist()
        fits = [
            (size, low)
            for size in (8, 16, 32)
            for low in range(0, len(masked), size)
            if not any(masked[:low]) and any(masked[low : low + size]) and all(masked[low + size :])
        ]
        assert fits


def test_the_share_of_short_problems_is_as_asked():
    rng = Random(0)
    longest = {share: [make_row(rng, "extract", 0.0, 0.0, share).start for _ in range(40)] for share in (0.0, 1.0)}
    assert min(longest[0.0]) > 280 and max(longest[1.0]) < 200


def test_steps_are_many_and_full():
    mix = [1.0] * len(NAMES)
    steps = list(batches(Random(0), torch.Generator().manual_seed(0), mix, tokens=1000, full_share=0.3, steps=8))
    assert len(steps) == 8
    sizes = [sum(part.tokens.numel() for part in step) for step in steps]
    assert 800 < sum(sizes) / 8 < 1400


def test_orthogonalize_brings_singular_values_near_one():
    torch.manual_seed(0)
    for shape in ((3, 32, 32), (2, 96, 32), (2, 32, 96)):
        values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)).float())
        assert values.max() < 1.4
        assert values.median() > 0.6


def test_the_rate_warms_up_holds_and_falls_to_zero(tmp_path):
    run = tiny_run(tmp_path, 1)
    assert learning_rate(run, 0.0, 0) == pytest.approx(run.lr / 100)
    assert learning_rate(run, 0.05, 500) == run.lr
    assert learning_rate(run, 0.55, 500) == pytest.approx(run.lr / 2)
    assert learning_rate(run, 1.0, 500) == 0.0


def test_block_decoding_of_an_untrained_model_ends():
    model = build_model(32, 1, 2, 32, seed=0).eval()
    prompts = [[BOS_ID, *encode("copy: a b"), SEP_ID], [BOS_ID, *encode("sort: c b a d e"), SEP_ID]]
    for threshold, k, most in ((2.0, 1, 10), (2.0, 4, 4), (0.0, 1, 2)):
        answers, forwards = decode_blocks(model, prompts, canvas=10, block=8, threshold=threshold, k=k)
        assert all(len(answer) <= 10 and MASK_ID not in answer for answer in answers)
        assert forwards.max() <= most


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path):
    whole = tiny_run(tmp_path / "whole", steps=16)
    Trainer(whole, 0).train()

    run = tiny_run(tmp_path / "parts", steps=16)
    first = Trainer(run, 0)
    update = first._update

    def update_until_interrupted(batch, before):
        if first.step == 11:
            raise KeyboardInterrupt
        return update(batch, before)

    first._update = update_until_interrupted
    with pytest.raises(KeyboardInterrupt):
        first.train()
    second = Trainer(run, 0)
    assert second.step == 8  # the last checkpoint
    second.train()
    assert second.step == 16

    weights = load_file(whole.out / "model.safetensors")
    resumed = load_file(run.out / "model.safetensors")
    assert weights.keys() == resumed.keys()
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
    assert all(tensor.dtype == torch.bfloat16 for tensor in weights.values())

    model = LLaDA.from_pretrained(whole.out)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(whole.out)
    assert model.config.mask_token_id == tokenizer.mask_token_id == MASK_ID
    assert model.config.eos_token_id == tokenizer.eos_token_id == EOS_ID
    assert len(tokenizer) == model.config.vocab_size


def test_a_run_trains_on_the_tasks_asked_for(tmp_path):
    trainer = Trainer(dataclasses.replace(tiny_run(tmp_path, steps=8), tasks="sort,story"), 0)
    assert {name for name, weight in zip(NAMES, trainer.mix(), strict=True) if weight} == {"sort", "story"}
    seen = []
    update = trainer._update
    trainer._update = lambda batch, before: seen.extend(part.task for part in batch) or update(batch, before)
    trainer.train()
    assert {NAMES[task] for task in torch.cat(seen)} == {"sort", "story"}


def test_a_run_killed_between_evaluations_continues_from_its_last_checkpoint(tmp_path, monkeypatch):
    run = dataclasses.replace(tiny_run(tmp_path, steps=16), evaluate_every=1e9)
    killed = Trainer(run, 0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(killed, "_evaluate", lambda window: (_ for _ in ()).throw(KeyboardInterrupt))
        killed.train()
    assert killed.step == 16 and not run.out.exists()
    resumed = Trainer(run, 0)
    assert resumed.step == 8
    resumed.train()
    assert resumed.step == 16 and (run.out / "model.safetensors").exists()
    assert not list(run.work.glob("*.tmp"))


def test_a_run_starts_from_given_weights_and_shows_some_tasks_more_often(tmp_path):
    first = tiny_run(tmp_path / "first", steps=8)
    Trainer(first, 0).train()
    run = dataclasses.replace(
        tiny_run(tmp_path / "second", steps=8),
        start=first.out,
        floor=1.0,
        emphasis="shuffle=7,lines=3",
        shots_share=0.5,
    )
    second = Trainer(run, 0)
    saved = load_file(first.out / "model.safetensors")
    assert all(torch.equal(second.model.state_dict()[name].bfloat16(), tensor) for name, tensor in saved.items())
    mix = dict(zip(NAMES, second.mix(), strict=True))
    assert mix["shuffle"] == 7 * mix["copy"] and mix["lines"] == 3 * mix["copy"]
    with pytest.raises(BadParameter, match="'shufle'; the tasks are copy"):
        parse_emphasis("shufle=7")
    assert parse_tasks("all,long,story") == list(NAMES)
    for wrong in ("storry", "oracle-latin4", "parallelbench/copy", ""):
        with pytest.raises(BadParameter, match="give all, long or some of copy"):
            parse_tasks(wrong)


def test_training_lowers_the_loss(tmp_path):
    trainer = Trainer(dataclasses.replace(tiny_run(tmp_path, steps=1000), tokens=600, lr=0.05), 0)
    mix = [1.0] * len(NAMES)
    losses = []
    for seed in range(5):
        for batch in batches(Random(seed), torch.Generator().manual_seed(seed), mix, 600, 0.25):
            loss, weight = trainer._update(batch, 0.0).sum(1).tolist()
            losses.append(loss / weight)
    assert sum(losses[-8:]) / 8 < 0.9 * losses[0]


def test_every_task_has_its_mask_shares():
    assert set(SHARES) == {*TASKS, *long_tasks()}
    assert all(0 <= sum(shares) <= 1 for shares in SHARES.values())


def test_stale_rows_see_what_a_dual_cache_shows():
    rows = rows_of("sort", 3) + rows_of("lines", 2)
    stale = mask_rows(rows, torch.Generator().manual_seed(1), stale_share=1.0)
    assert stale.positions is not None and stale.queries is not None and stale.branch is not None
    module = build_model(width=32, layers=2, heads=2, inner=48, seed=0)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if name.endswith(("attn_out.weight", "ff_out.weight")):  # zero at first: nothing would mix
                weight.normal_(std=0.2)
    model = NativeModel(module, mask_id=MASK_ID)
    cells = stale.weight.flatten().nonzero()[:, 0]
    inp = ForwardInput(stale.tokens, stale.positions, stale.queries, stale.queries, stale.branch)
    trained = model.hidden(inp, cells)

    length = int((stale.branch[0] == -1).sum())
    seen = {}
    for row in range(len(rows)):
        count = int(stale.queries[row]) - length
        cache = model.new_cache(1, length)
        whole, slots = torch.tensor([length]), torch.arange(length)[None]
        opening = ForwardInput(stale.tokens[row : row + 1, :length], slots, whole, whole, cache=cache)
        model.hidden(opening, torch.zeros(1, dtype=torch.long))
        window = slice(length, length + count)
        step = ForwardInput(
            stale.tokens[row : row + 1, window],
            stale.positions[row : row + 1, window],
            torch.tensor([count]),
            whole,
            cache=cache,
        )
        seen[row] = model.hidden(step, torch.arange(count))
    width = stale.tokens.shape[1]
    decoded = torch.stack([seen[int(c) // width][int(c) % width - length] for c in cells])
    torch.testing.assert_close(trained, decoded, atol=1e-5, rtol=1e-5)


def test_a_drill_asks_for_each_of_its_pairs():
    rng = Random(4)
    for _ in range(30):
        row = make_drill(rng, "trip")
        text, answer = decode(row.ids[1 : row.start - 1]), decode(row.ids[row.start : -1])
        pairs, asked = text.removeprefix("set:").rsplit("\n", 1)
        found = [pair.strip() for pair in re.split("[;\n]| (?=[a-z]>)", answer) if pair.strip()]
        assert sorted(found) == sorted(pair.strip() for pair in re.split("[;\n]| (?=[a-z]>)", pairs) if pair.strip())
        assert [pair[0] for pair in found] == list(asked.replace(" ", "")) and 3 <= len(found) <= 12
        assert NAMES[row.task] == "trip" and row.total == len(row.ids) and row.ids[-1] == EOS_ID


def test_the_share_of_drills_is_as_asked():
    mix = [float(name == "trip") for name in NAMES]
    drawn = lambda share: [  # noqa: E731
        part.tokens[:, 1]
        for parts in batches(Random(1), torch.Generator().manual_seed(1), mix, 4000, 0.0, drills={"trip": share})
        for part in parts
    ]
    first = encode("set:")[0]
    assert all((tokens == first).all() for tokens in drawn(1.0))
    assert not any((tokens == first).any() for tokens in drawn(0.0))
    share = torch.cat(drawn(0.5)).eq(first).float().mean()
    assert 0.35 < share < 0.65


@pytest.mark.slow
@reads_proc
def test_training_processes_end_with_the_one_that_started_them(tmp_path):
    small = [
        "--width=32",
        "--layers=1",
        "--heads=2",
        "--inner=32",
        "--tokens=300",
        "--samples=1",
        "--no-compiled",
        "--minutes=9",
    ]
    folders = [f"--out={tmp_path / 'out'}", f"--work={tmp_path / 'work'}", "--save-every=0"]
    run = subprocess.Popen([sys.executable, "-m", "scripts.train_tiny", *small, *folders], stderr=subprocess.DEVNULL)
    started = []
    try:
        until = time.monotonic() + 240
        while time.monotonic() < until and not (tmp_path / "work" / "checkpoint.pt").exists():
            assert run.poll() is None
            time.sleep(0.1)
        started = children(run.pid)
        assert len(started) >= 2
        run.kill()
        until = time.monotonic() + 20
        while time.monotonic() < until and any(map(alive, started)):
            time.sleep(0.1)
        assert not [pid for pid in started if alive(pid)]
    finally:
        run.kill()
        run.wait()
        for pid in filter(alive, started):
            os.kill(pid, signal.SIGKILL)
