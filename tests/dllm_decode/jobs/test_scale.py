"""Jobs of many lines take little memory, finished ones little time, and Parquet goes in and out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dllm_decode.errors import DllmError
from dllm_decode.jobs import Decoder, JobFolder, Worker, create_or_resume, merge
from dllm_decode.jobs.parquet import read_parquet, to_json_lines, write_parquet
from dllm_decode.models import load_model
from tests.processes import alive, children, reads_proc

ROOT = Path(__file__).parents[3]
MILLION = """
import json, resource, sys
from pathlib import Path
import torch
from dllm_decode import CallableModel
from dllm_decode.jobs import Decoder, JobFolder, JobSettings, Worker, create_or_resume

torch.set_num_threads(1)
source, folder = Path(sys.argv[1]), Path(sys.argv[2])
with source.open("w") as file:
    for i in range(1_000_000):
        file.write('{"id": %d, "prompt": [1, 2, %d]}\\n' % (i, i % 5))
one_hot = torch.nn.functional.one_hot
model = CallableModel(lambda ids: one_hot(ids % 5, 8).float(), mask_id=7, vocab_size=8, eos_ids=(6,))
settings = JobSettings("callable", policy="topk:k=4", config={"max_new_tokens": 4, "block_length": 4})
decoder = Decoder(model, settings)
Worker  # everything is imported
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
manifest, _ = create_or_resume(source, folder, settings)
job = JobFolder.open(folder)
Worker(job, decoder).run([0, 1953, 3906])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"lines": manifest.lines, "done": job.progress().done, "mib": (after - before) / 1024}))
"""


def command(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "dllm_decode", "batch", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=240,
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.mark.slow
def test_a_million_lines_take_little_memory(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", MILLION, str(tmp_path / "in.jsonl"), str(tmp_path / "job")]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, timeout=400)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["lines"] == 1_000_000 and found["done"] == 256 + 256 + 64
    assert found["mib"] < 300, f"{found['mib']:.0f} MiB"


@pytest.mark.slow
def test_the_command_line(tmp_path: Path) -> None:
    source, job = tmp_path / "in.jsonl", str(tmp_path / "job")
    source.write_text("".join(json.dumps({"id": i, "prompt": f"copy: a b {c}"}) + "\n" for i, c in enumerate("cdefg")))
    options = ["-o", job, "--shard-lines", "2", "--max-new-tokens", "16", "--block-length", "16"]
    done = command(str(source), *options, "--workers", "2", "--merge", str(tmp_path / "out.jsonl"))
    assert "5 of 5 lines are answered, 0 with an error" in " ".join(done.stderr.split())
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["id"] for line in found] == list("01234") and all(line["text"] for line in found)
    status = json.loads(command("status", job, "--json").stdout)
    assert status["complete"] and status["done"] == 5 and status["errors"] == 0
    assert "made" not in command(str(source), *options).stderr, "the same command goes on"
    assert "--block-length is 32, was 16" in " ".join(
        command(str(source), "-o", job, "--max-new-tokens", "16", code=2).stderr.split()
    )
    command("merge", job, "-o", str(tmp_path / "again.jsonl"))
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()
    assert "is no job folder" in command("status", str(tmp_path), code=2).stderr


@pytest.mark.slow
def test_a_finished_job_needs_no_model(tmp_path: Path) -> None:
    source, job = tmp_path / "in.jsonl", tmp_path / "job"
    source.write_text("".join(json.dumps({"id": i, "prompt": "copy: a"}) + "\n" for i in range(3)))
    command(str(source), "-o", str(job), "--max-new-tokens", "8")
    code = (
        "import sys; from dllm_decode.cli import main; "
        f"code = main(['batch', {str(source)!r}, '-o', {str(job)!r}, '--max-new-tokens', '8']); "
        "assert code == 0 and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.slow
@reads_proc
def test_sigterm_ends_the_workers_and_the_job_goes_on(tmp_path: Path) -> None:
    lines = [json.dumps({"id": i, "prompt": f"sort: d c b a {i}", "temperature": 0.7}) + "\n" for i in range(120)]
    source, job = tmp_path / "in.jsonl", tmp_path / "job"
    source.write_text("".join(lines))
    options = [str(source), "-o", str(job), "--shard-lines", "4", "--max-new-tokens", "32"]
    run = subprocess.Popen(
        [sys.executable, "-m", "dllm_decode", "batch", *options, "--workers", "2"], stderr=subprocess.PIPE, cwd=ROOT
    )
    try:
        until = time.monotonic() + 240
        while time.monotonic() < until and len(list(job.glob("parts/*.jsonl"))) < 4:
            assert run.poll() is None
            time.sleep(0.05)
        workers = children(run.pid)
        assert len(workers) == 2
        began = time.monotonic()
        run.send_signal(signal.SIGTERM)
        _, error = run.communicate(timeout=60)
        spent = time.monotonic() - began
        assert run.returncode == 143 and b"Traceback" not in error
        assert not [pid for pid in workers if alive(pid)]
        assert spent < (2 if os.getloadavg()[0] < 2 else 10), f"{spent:.1f} s"
    finally:
        run.kill()
        run.wait()
    parts = {path: path.stat().st_mtime_ns for path in job.glob("parts/*.jsonl")}
    assert 4 <= len(parts) < 30
    command(*options, "--merge", str(tmp_path / "out.jsonl"))
    assert {path: path.stat().st_mtime_ns for path in parts} == parts, "what was done is not done again"
    asked = JobFolder.open(job).manifest.settings
    create_or_resume(source, tmp_path / "calm", asked)
    calm = JobFolder.open(tmp_path / "calm")
    Worker(calm, Decoder(load_model("tiny", device="cpu"), asked)).run()
    merge(calm, tmp_path / "calm.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "calm.jsonl").read_bytes()


def test_parquet_in_and_out(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"id": ["a", "b"], "prompt": ["x", "y"], "temperature": [None, 0.5]})
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(table, tmp_path / "in.parquet")
    to_json_lines(tmp_path / "in.parquet", tmp_path / "in.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "in.jsonl").read_text().splitlines()]
    assert lines == [{"id": "a", "prompt": "x"}, {"id": "b", "prompt": "y", "temperature": 0.5}]
    answers = [{"id": str(i), "text": "yes", "nfe": i, "finish_reason": "stop"} for i in range(2500)]
    answers[7] = {"id": "7", "error": {"message": "no"}}
    write_parquet(tmp_path / "out.parquet", answers)
    found = list(read_parquet(tmp_path / "out.parquet"))
    assert found[8] == answers[8] and found[7] == {"id": "7", "error": '{"message": "no"}'} and len(found) == 2500
    (tmp_path / "bad.parquet").write_text("no")
    with pytest.raises(DllmError, match="cannot be read as Parquet"):
        list(read_parquet(tmp_path / "bad.parquet"))
