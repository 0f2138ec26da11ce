"""Several processes decode what one decodes, in the same order, and end with it."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import time
from dataclasses import replace

import pytest
import torch

from dllm_decode.config import GenerationConfig
from dllm_decode.errors import DllmError
from dllm_decode.lab.points import STATIC
from dllm_decode.lab.records import NAME, Ledger, parse
from dllm_decode.lab.runner import Runner, decode, run
from dllm_decode.lab.setting import EGP, FORMAT, keep_setting, plan, read_setting
from dllm_decode.lab.share import Decoder
from dllm_decode.lab.workers import FAILED, FOLDER, Failure, Worker, crew, shards_of
from dllm_decode.models import load_model
from samplers import PolicyError
from tests.dllm_decode.lab.lab_toys import hesitant, random_checkpoint, timeless


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return random_checkpoint(tmp_path_factory.mktemp("model"))


def comparison(checkpoint, samples=10):
    """Shares of up to 8 samples."""
    policies = ["threshold:threshold=0.2", "topk:k=2,score=random"]
    return plan(str(checkpoint), policies, "copy", samples=samples, batch_size=1)


@pytest.fixture(scope="module")
def alone(checkpoint, tmp_path_factory):
    """The folder and the records of a run by one process."""
    folder = tmp_path_factory.mktemp("alone")
    return folder, run(comparison(checkpoint), folder, quiet=True)


@pytest.mark.slow
def test_two_processes_write_what_one_writes(checkpoint, alone, tmp_path):
    first, alone = alone
    seen: list[tuple[int, int]] = []
    together = run(
        comparison(checkpoint), tmp_path / "b", quiet=True, processes=2, on_batch=lambda *done: seen.append(done)
    )
    assert list(map(timeless, together)) == list(map(timeless, alone))
    assert seen == [(done, 40) for done in (8, 10, 18, 20, 28, 30, 38, 40)]
    assert not (tmp_path / "b" / FOLDER).exists()
    settings = [read_setting(folder) for folder in (first, tmp_path / "b")]
    assert [setting["processes"] for setting in settings] == [1, 2]
    # A folder is gone on with by any number of processes, with the threads per process that it began with.
    lines = (tmp_path / "b" / NAME).read_bytes().splitlines(keepends=True)
    (tmp_path / "b" / NAME).write_bytes(b"".join(lines[:7]))
    again = run(comparison(checkpoint), tmp_path / "b", quiet=True)
    assert again[:7] == together[:7] and list(map(timeless, again)) == list(map(timeless, alone))
    assert read_setting(tmp_path / "b")["threads"] == settings[1]["threads"]


def test_a_folder_keeps_its_threads(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        run(plan("hesitant", [], "copy", samples=1), tmp_path, hesitant(), quiet=True)
        assert read_setting(tmp_path)["threads"] == 3
        torch.set_num_threads(1)
        run(plan("hesitant", [], "copy", samples=1), tmp_path, hesitant(), quiet=True)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("processes", "message"), [(0, "processes is 0; give a whole number from 1 up"), (True, "processes is True")]
)
def test_wrong_numbers_are_refused(tmp_path, processes, message):
    with pytest.raises(DllmError, match=message):
        run(plan("hesitant", [], "copy", samples=1), tmp_path / "new", hesitant(), processes=processes)
    assert not (tmp_path / "new").exists()


def test_quantised_weights_are_loaded_here_for_one_process(tmp_path):
    with pytest.raises(DllmError, match="quantize is 'int8', but processes share plain weights only"):
        run(plan("tiny", [], "copy", samples=1), tmp_path / "new", processes=2, quantize="int8")
    with pytest.raises(DllmError, match="the model is loaded already"):
        run(plan("hesitant", [], "copy", samples=1), tmp_path / "new", hesitant(), quantize="int8")
    assert not (tmp_path / "new").exists()


def test_a_model_that_cannot_be_sent_is_refused(tmp_path):
    with pytest.raises(DllmError, match="model 'hesitant' cannot be sent to other processes .*; use one process"):
        run(plan("hesitant", [], "copy", samples=1), tmp_path, hesitant(), quiet=True, processes=2)


def worker(model, checkpoint, folder):
    """One in this process."""
    runner = Runner(comparison(checkpoint), model)
    shards = shards_of(runner, folder)
    shards.make()
    return Worker(shards, list(runner.shares()), {}, Decoder(model, GenerationConfig(), 1), "me")


def test_a_failure_elsewhere_is_told_here(checkpoint, tmp_path):
    ignorant = worker(hesitant(("sort",)), checkpoint, tmp_path)  # it raises on any other task
    with pytest.raises(SystemExit):
        ignorant.run({0})
    assert not list(ignorant.shards.claims.iterdir()), "others may try"
    broken = pickle.loads((ignorant.shards.path / FAILED).read_bytes())
    assert isinstance(broken, Failure) and broken.error is None
    assert f"decoding copy with {STATIC.policy} failed" in broken.text and "KeyError" in broken.text
    ignorant.shares[0] = replace(ignorant.shares[0], point=replace(STATIC, policy="nonsense"))
    with pytest.raises(SystemExit):
        ignorant.run({0})
    assert isinstance(pickle.loads((ignorant.shards.path / FAILED).read_bytes()).error, PolicyError)


def test_a_share_of_egp_does_without_whoever_was_to_decode_its_aim(checkpoint, alone, tmp_path):
    """The process that had claimed static decoding has died: its share is taken over."""
    mine = worker(load_model(checkpoint), checkpoint, tmp_path)
    egp = max(range(8), key=lambda i: (mine.shares[i].point == EGP, -i))
    gone = {"worker": "gone", "host": socket.gethostname(), "pid": 1, "born": "never"}
    (mine.shards.claims / f"{0:08d}").write_text(json.dumps(gone))
    mine.run({egp})
    assert mine.shards.finished() == {0, egp} and not list(mine.shards.claims.iterdir())
    part = mine.shards.part(egp)
    wanted = [record for record in alone[1] if record["label"] == "egp"][:8]
    assert list(map(timeless, parse(part.read_bytes(), part)[1])) == list(map(timeless, wanted))


@pytest.mark.slow
def test_a_process_that_dies_is_done_without_and_the_last_one_ends_the_run_with_a_sentence(
    checkpoint, alone, tmp_path
):
    runner = Runner(comparison(checkpoint), load_model(checkpoint))
    with crew(runner, tmp_path / "one", frozenset(), 2, 1) as others:
        while not others.shards.alive():
            time.sleep(0.02)
        os.kill(int(others.shards.alive()[0].split("-")[-2]), signal.SIGKILL)
        found = decode(runner, Ledger(), others, quiet=True)
    assert list(map(timeless, found)) == list(map(timeless, alone[1]))
    with (
        pytest.raises(DllmError, match="the processes that decoded for this run died"),
        crew(runner, tmp_path / "all", frozenset(), 2, 1) as others,
    ):
        for process in others.processes:
            os.kill(process.pid, signal.SIGKILL)
        others.decode(7)
    assert not any(process.is_alive() for process in others.processes)


def test_processes_change_no_setting(tmp_path):
    held = {"version": 1, "processes": 2, "machine": "a", "threads": 1}
    keep_setting(tmp_path, held)
    keep_setting(tmp_path, {**held, "processes": 1, "machine": "b"})
    with pytest.raises(DllmError, match="threads 1, but now it is 2"):
        keep_setting(tmp_path, {**held, "threads": 2})


def test_a_setting_newer_than_the_folder_is_what_it_is_by_default(tmp_path):
    setting = {"version": FORMAT, "date": "2026-01-01", "machine": "one", "config": {"copy": {"seed": 0}}}
    keep_setting(tmp_path, setting)
    keep_setting(tmp_path, {**setting, "config": {"copy": {"seed": 0, "cache_dtype": None}}})
    with pytest.raises(DllmError, match="holds a run with cache_dtype not there, but now it is"):
        keep_setting(tmp_path, {**setting, "config": {"copy": {"seed": 0, "cache_dtype": "int8"}}})
