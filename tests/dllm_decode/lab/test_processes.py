"""Several processes decode what one decodes, in the same order, and end with it."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch

from dllm_decode.config import GenerationConfig
from dllm_decode.errors import DllmError
from dllm_decode.lab.points import STATIC
from dllm_decode.lab.records import NAME
from dllm_decode.lab.runner import run
from dllm_decode.lab.setting import keep_setting, plan, read_setting
from dllm_decode.lab.workers import Crew, Decoder, Failure, Job, _attempt, decoders
from dllm_decode.models import load_model
from samplers import PolicyError
from tests.dllm_decode.lab.lab_toys import hesitant, random_checkpoint, timeless


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return random_checkpoint(tmp_path_factory.mktemp("model"))


def comparison(checkpoint):
    return plan(str(checkpoint), ["threshold:threshold=0.2", "topk:k=2,score=random"], "copy", samples=5, batch_size=2)


@pytest.mark.slow
def test_two_processes_write_what_one_writes(checkpoint, tmp_path):
    alone = run(comparison(checkpoint), tmp_path / "a", quiet=True)
    seen: list[tuple[int, int]] = []
    together = run(
        comparison(checkpoint), tmp_path / "b", quiet=True, processes=2, on_batch=lambda *done: seen.append(done)
    )
    assert list(map(timeless, together)) == list(map(timeless, alone))
    assert seen == [(done, 20) for done in (2, 4, 5, 7, 9, 10, 12, 14, 15, 17, 19, 20)]
    settings = [read_setting(tmp_path / name) for name in "ab"]
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
        with decoders(1, 2, None, GenerationConfig()):
            assert torch.get_num_threads() == 2
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


def test_a_model_that_cannot_be_sent_is_refused(tmp_path):
    with pytest.raises(DllmError, match="model 'hesitant' cannot be sent to other processes .*; use one process"):
        run(plan("hesitant", [], "copy", samples=1), tmp_path, hesitant(), quiet=True, processes=2)


def job(**changes):
    given = {"task": "copy", "cache": "none", "policy": STATIC.policy, "seed": 0, "ties": 0, "canvas": 4}
    return Job(**{**given, "places": (0,), "prompts": ("copy: a b",), **changes})


def test_a_failure_elsewhere_is_told_here(checkpoint):
    decoder = Decoder(load_model(checkpoint), GenerationConfig())
    refused = _attempt(decoder.decode, job(policy="nonsense"))
    assert isinstance(refused, Failure) and isinstance(refused.error, PolicyError)
    aimed = _attempt(decoder.decode, job(policy="egp", reference=3))
    assert isinstance(aimed, Failure) and isinstance(aimed.error, PolicyError)
    ignorant = Decoder(hesitant(("sort",)), GenerationConfig())  # it raises on any other task
    broken = _attempt(ignorant.decode, job())
    assert isinstance(broken, Failure) and broken.error is None
    assert f"decoding copy with {STATIC.policy} failed" in broken.text and "KeyError" in broken.text


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_with_a_sentence(checkpoint):
    model = load_model(checkpoint)
    crew = Crew(1, 1, model, GenerationConfig())
    try:
        (there,), (here,) = crew.result(crew.submit(job())), Decoder(model, GenerationConfig()).decode(job())
        assert there[0] == here[0] and timeless(there[1]) == timeless(here[1])
        (process,) = crew._processes
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        time.sleep(0.1)
        with pytest.raises(DllmError, match="a process that decoded for this run died"):
            crew.result(crew.submit(job()))
    finally:
        crew.close(at_once=True)
    assert not process.is_alive()


def test_processes_change_no_setting(tmp_path):
    held = {"version": 1, "processes": 2, "machine": "a", "threads": 1}
    keep_setting(tmp_path, held)
    keep_setting(tmp_path, {**held, "processes": 1, "machine": "b"})
    with pytest.raises(DllmError, match="threads 1, but now it is 2"):
        keep_setting(tmp_path, {**held, "threads": 2})
