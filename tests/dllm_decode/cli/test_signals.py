"""SIGTERM ends a run with all the processes it has started, and nothing ends in a traceback."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.processes import alive, children, reads_proc


@pytest.mark.slow
@reads_proc
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left(tmp_path: Path, number: signal.Signals) -> None:
    what = ["--tasks", "oracle-shuffle-7", "-n", "4000", "-p", "topk:k=2", "--processes", "2"]
    command = [sys.executable, "-m", "dllm_decode", "compare", *what]
    run = subprocess.Popen([*command, "-o", str(tmp_path / "run")], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    records = tmp_path / "run" / "records.jsonl"
    try:
        until = time.monotonic() + 240
        while time.monotonic() < until and not (records.exists() and records.stat().st_size):
            assert run.poll() is None
            time.sleep(0.1)
        started = children(run.pid)
        assert len(started) >= 2
        os.kill(run.pid, number)
        until = time.monotonic() + 10  # 0.2 s; for a loaded machine
        while time.monotonic() < until and any(map(alive, [run.pid, *started])):
            time.sleep(0.1)
        assert not [pid for pid in [run.pid, *started] if alive(pid)]
        _, error = run.communicate(timeout=30)
        assert run.returncode == (143 if number == signal.SIGTERM else -9) and b"Traceback" not in error
    finally:
        run.kill()
        run.wait()


def test_a_closed_standard_input_is_one_sentence() -> None:
    command = f"{shlex.quote(sys.executable)} -m dllm_decode generate --max-new-tokens 4 <&-"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert found.returncode == 2 and found.stdout == ""
    assert found.stderr.strip().splitlines()[-1].startswith("dllm-decode: standard input is closed; give PROMPT")


@pytest.mark.slow
@pytest.mark.parametrize("apart", [0.0, 0.05, 0.5])
def test_a_second_interrupt_shows_no_traceback(tmp_path: Path, apart: float) -> None:
    what = ["--tasks", "oracle-shuffle-7", "-n", "4000", "-p", "topk:k=2", "-o", str(tmp_path / "run")]
    run = subprocess.Popen(
        [sys.executable, "-m", "dllm_decode", "compare", *what],
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test in the background ignores it
    )
    records = tmp_path / "run" / "records.jsonl"
    try:
        until = time.monotonic() + 240
        while time.monotonic() < until and not (records.exists() and records.stat().st_size):
            assert run.poll() is None
            time.sleep(0.1)
        for _ in range(3):
            if run.poll() is None:
                run.send_signal(signal.SIGINT)
            time.sleep(apart)
        _, error = run.communicate(timeout=60)
        assert run.returncode == 130 and b"Traceback" not in error
    finally:
        run.kill()
        run.wait()
