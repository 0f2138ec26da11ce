"""Does a batch job survive whatever happens to it, and give the same bytes?

    python -m scripts.check_batch_job --kills 100 --processes 2    # kill -9 at random moments, start again
    python -m scripts.check_batch_job --faults                     # full disk, read-only folder, clocks, changed input
    python -m scripts.check_batch_job --ray --kill-actor           # the same bytes from a local Ray, an actor killed
    python -m scripts.check_batch_job --speed                      # two workers against one, a job against generate

Exits 1 naming what went wrong.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer

from dllm_decode import DiffusionSampler, GenerationConfig
from dllm_decode.errors import DllmError
from dllm_decode.jobs import Decoder, JobFolder, JobSettings, Worker, create_or_resume, merge
from dllm_decode.models import load_model
from dllm_decode.models.fingerprint import checkpoint_fingerprint
from dllm_decode.tasks import samples

FORK = multiprocessing.get_context("fork")  # the model is loaded once, in the parent
TASKS = ("reverse", "sort", "copy", "add")
OWN: tuple[dict[str, object], ...] = (
    *({}, {"temperature": 0.7}, {"policy": "topk:k=2", "cache": "dual"}),
    {"max_new_tokens": 24, "samples": 2, "temperature": 1.0},
)


def settings() -> JobSettings:
    """Those of every job here."""
    config = GenerationConfig(max_new_tokens=32, block_length=16)
    return JobSettings("tiny", None, checkpoint_fingerprint("tiny"), "threshold", "none", config.to_dict())


def write_input(path: Path, count: int, mixed: bool = True) -> list[str]:
    """Prompts of the bundled tasks, with settings of all sorts; returns the prompts."""
    per = -(-count // len(TASKS))
    texts = [
        sample.prompt for pair in zip(*(samples(t, "test", per, 3) for t in TASKS), strict=True) for sample in pair
    ]
    with path.open("w") as file:
        for i, text in enumerate(texts[:count]):
            file.write(json.dumps({"id": f"{i:06d}", "prompt": text, **(OWN[i % len(OWN)] if mixed else {})}) + "\n")
    return texts[:count]


def job_in(folder: Path, source: Path, shard_lines: int) -> JobFolder:
    """The job, made or gone on with."""
    create_or_resume(source, folder, settings(), shard_lines=shard_lines)
    return JobFolder.open(folder, stale_after=5.0)


def finish(job: JobFolder) -> bytes:
    """Decode what is left, and the merged answers."""
    Worker(job, decoder()).run()
    out = job.path / "merged.jsonl"
    merge(job, out)
    return out.read_bytes()


def undisturbed(folder: Path, lines: int) -> tuple[Path, bytes, list[str]]:
    """An input, its answers when nothing happens, and a list for what is wrong."""
    source = folder / "in.jsonl"
    write_input(source, lines)
    return source, finish(job_in(folder / "undisturbed", source, 16)), []


def decoder() -> Decoder:
    """The bundled model at work."""
    return Decoder(load_model("tiny", device="cpu"), settings(), 16)


def stamps(job: JobFolder) -> dict[str, tuple[int, int]]:
    """Which parts are there, and what tells a file from one written again."""
    return {p.name: (p.stat().st_mtime_ns, p.stat().st_ino) for p in job.parts.glob("*.jsonl")}


def kills(folder: Path, lines: int, count: int, processes: int, seed: int) -> list[str]:
    """Workers killed at random moments, and started again, until ``count`` have died; then the job is finished."""
    dice, began = random.Random(seed), time.perf_counter()
    source, expected, wrong = undisturbed(folder, lines)
    pace = (time.perf_counter() - began) / (lines / 16)
    job = job_in(folder / "killed", source, 16)
    made = decoder()

    def work() -> None:
        torch.set_num_threads(1)
        Worker(JobFolder.open(job.path, stale_after=5.0), made).run()

    died, known = 0, stamps(job)
    while died < count and not job.progress().complete:
        running = [FORK.Process(target=work) for _ in range(processes)]
        for process in running:
            process.start()
        time.sleep(dice.uniform(0.0, 2.0 * pace))
        for process in running:
            if process.is_alive():
                os.kill(process.pid or 0, signal.SIGKILL)
                died += 1
            process.join()
        now = stamps(job)
        wrong += [f"part {name} was written again." for name, stamp in known.items() if now.get(name) != stamp]
        known = now
        if job.progress().complete and died < count:  # too fast: throw some parts away, and go on
            for name in dice.sample(sorted(known), max(1, len(known) // 2)):
                (job.parts / name).unlink()
                (job.parts / name).with_suffix(".json").unlink()
                del known[name]
            job = JobFolder.open(job.path, stale_after=5.0)
    got = finish(JobFolder.open(job.path, stale_after=5.0))
    if got != expected:
        wrong.append("the merged answers differ from those of the undisturbed run.")
    left = [p.name for p in job.claims.iterdir() if not p.name.startswith(".")]
    if left:
        wrong.append(f"claims are left behind: {left}.")
    said = "differs" if wrong else "byte-equal"
    print(f"{died} workers killed, {lines} lines, {len(job.manifest.shards)} shards: {said}")
    return wrong


def refused(call: Callable[[], object], sentence: str) -> str | None:
    """What is wrong if a call does not end in a sentence like this."""
    try:
        call()
    except DllmError as error:
        return None if sentence in str(error) else f"expected '{sentence}', got: {error}"
    return f"nothing was said where '{sentence}' was expected."


def faults(folder: Path, lines: int) -> list[str]:
    """Everything a folder can do to a job."""
    source, expected, wrong = undisturbed(folder, lines)

    def note(name: str, *found: str | None) -> None:
        said = [text for text in found if text]
        wrong.extend(f"{name}: {text}" for text in said)
        print(f"{name}: {'; '.join(said) or 'as it should be'}")

    changed = job_in(folder / "changed", source, 16)
    Worker(changed, decoder()).run([0])
    before = source.read_bytes()
    source.write_bytes(before[:-40] + b" " * 39 + b"\n")
    found = refused(lambda: finish(changed), "has changed")
    source.write_bytes(before)
    note("input that changes", found, None if finish(changed) == expected else "other answers afterwards.")

    twice = job_in(folder / "twice", source, 16)
    other = JobSettings("tiny", policy="topk")
    found = refused(lambda: create_or_resume(source, twice.path, other), "holds another job")
    note("two jobs on one folder", found, None if finish(twice) == expected else "other answers afterwards.")

    clock = job_in(folder / "clock", source, 16)
    for shard, at in enumerate((0, 2**31, int(time.time()) - 10**7)):
        (clock.claims / f"{shard:08d}").write_text(json.dumps({"worker": "gone", "host": "elsewhere", "pid": 1}))
        os.utime(clock.claims / f"{shard:08d}", (at, at))
    note("claims from clocks that are wrong", None if finish(clock) == expected else "other answers.")

    if os.geteuid() == 0:
        note("full disk", *on_small_disk(folder, source, expected))
    else:
        print("full disk, read-only folder: need root to mount a small disk; left out")
    return wrong


def on_small_disk(folder: Path, source: Path, expected: bytes) -> list[str | None]:
    """The job on a disk that fills up, then on one that cannot be written, then with room."""
    disk = folder / "disk"
    disk.mkdir()

    def mount(*options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(disk)], check=True)

    mount("size=48k")
    try:
        job = job_in(disk / "job", source, 16)
        found = [refused(lambda: finish(job), "cannot ")]
        done = stamps(job)
        mount("remount", "ro")
        found.append(refused(lambda: finish(job), "cannot "))
        mount("remount", "rw", "size=64m")
        found.append(None if finish(JobFolder.open(job.path)) == expected else "other answers once there is room.")
        found.append(None if done.items() <= stamps(job).items() else "a part was written again.")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    return found


def with_ray(folder: Path, lines: int, kill: bool) -> list[str]:
    """The same bytes from a local Ray, also when an actor is killed; a cluster without room ends in a sentence."""
    from dllm_decode.jobs.on_ray import run_on_ray

    source, expected, wrong = undisturbed(folder, lines)
    job = job_in(folder / "ray", source, 16)
    killed: list[int] = []

    def on_look() -> None:
        alive = job.progress().workers
        if kill and not killed and alive and job.finished():
            killed.append(int(alive[0].split("-")[-2]))
            os.kill(killed[0], signal.SIGKILL)

    run_on_ray(job, "local", 2, 0.5, 0.0, 180.0, "cpu", on_look=on_look)
    if finish(JobFolder.open(job.path)) != expected:
        wrong.append("Ray's answers differ from those of one process.")
    if kill and not killed:
        wrong.append("no actor could be killed: the job was too short.")
    print(f"Ray, {len(killed)} actor killed: {'differs' if wrong else 'byte-equal'}")
    none = job_in(folder / "no-room", source, 16)
    found = refused(lambda: run_on_ray(none, "local", 1, 10.0**6, 0.0, 10.0, "cpu"), "was ready within 10 s")
    return [*wrong, *([found] if found else [])]


def speed(folder: Path, lines: int) -> list[str]:
    """Two workers against one, and a job against plain ``generate`` of the same prompts."""
    load = os.getloadavg()[0]
    if load > 1:
        print(f"skipped: the load is {load:.1f}, and figures taken beside other work say nothing.")
        return []
    source, wrong = folder / "in.jsonl", []
    prompts = write_input(source, lines, mixed=False)
    torch.set_num_threads(1)
    made = decoder()
    sampler = DiffusionSampler(made.model, "threshold", config=GenerationConfig.from_dict(settings().config))
    sampler.generate(prompts[:32], batch_size=16)  # warm-up
    times: dict[str, list[float]] = {"generate": [], "1": [], "2": []}
    for turn in range(3):
        began = time.perf_counter()
        sampler.generate(prompts, batch_size=16)
        times["generate"].append(time.perf_counter() - began)
        for workers in (1, 2):
            job = job_in(folder / f"{workers}-{turn}", source, 64)
            began = time.perf_counter()
            if workers == 1:
                Worker(job, made).run()
            else:
                running = [FORK.Process(target=lambda job=job: Worker(job, made).run()) for _ in range(2)]
                for process in running:
                    process.start()
                for process in running:
                    process.join()
            times[str(workers)].append(time.perf_counter() - began)
    best = {name: sorted(values)[1] for name, values in times.items()}
    gain, overhead = best["1"] / best["2"], 100 * (best["1"] / best["generate"] - 1)
    print(
        f"{lines} prompts: generate {best['generate']:.1f} s, one worker {best['1']:.1f} s ({overhead:+.1f} %), "
        f"two workers {best['2']:.1f} s ({gain:.2f}x)"
    )
    if gain < 1.7:
        wrong.append(f"two workers are {gain:.2f}x one, the bar is 1.7.")
    if overhead > 10:
        wrong.append(f"a job takes {overhead:.1f} % more than generate, the bar is 10 %.")
    return wrong


def main(
    kill: Annotated[int, typer.Option("--kills", help="Workers to kill.")] = 0,
    processes: Annotated[int, typer.Option(help="Workers at a time.")] = 2,
    fault: Annotated[bool, typer.Option("--faults", help="Full or read-only disk, clocks, changed input.")] = False,
    ray: Annotated[bool, typer.Option(help="A local Ray.")] = False,
    kill_actor: Annotated[bool, typer.Option(help="With --ray: kill one.")] = False,
    fast: Annotated[bool, typer.Option("--speed", help="Two workers against one, a job against generate.")] = False,
    lines: Annotated[int, typer.Option(help="Of the input.")] = 480,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
) -> None:
    """Check; see the module's own text."""
    if not (kill or fault or ray or fast):
        raise typer.BadParameter("nothing to check; give --kills N, --faults, --ray or --speed.")
    checks: tuple[tuple[object, Callable[[Path], list[str]]], ...] = (
        (kill, lambda folder: kills(folder, lines, kill, processes, seed)),
        (fault, lambda folder: faults(folder, min(lines, 160))),
        (ray, lambda folder: with_ray(folder, lines, kill_actor)),
        (fast, lambda folder: speed(folder, max(lines, 2000))),
    )
    wrong: list[str] = []
    for check in (check for asked, check in checks if asked):
        with tempfile.TemporaryDirectory() as name:
            wrong += check(Path(name))
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    raise typer.Exit(1 if wrong else 0)


if __name__ == "__main__":
    typer.run(main)
