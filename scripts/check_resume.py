"""Kill a comparison at random moments, resume it, and compare its records with an undisturbed run's, byte by byte.

    python -m scripts.check_resume                        # ten kills; exact oracles, no weights needed
    python -m scripts.check_resume --model tiny --tasks copy,shuffle --kills 10 --processes 2

Exit code 1, with a sentence, if a record differs (wall times aside) or a finished sample was decoded again.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from dllm_decode.lab.records import NAME, WALL_FIELDS

#: One thread per process, however many there are: sums of several threads may differ in their last bits.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
COMMAND = (sys.executable, "-m", "dllm_decode", "compare", "-p", "threshold", "-p", "topk:k=2,score=random")


def timeless(data: bytes) -> list[str]:
    """Lines of records without their wall times."""
    lines = []
    for line in data.decode().splitlines():
        record: dict[str, Any] = json.loads(line)
        lines.append(json.dumps({name: value for name, value in record.items() if name not in WALL_FIELDS}))
    return lines


def whole(data: bytes) -> bytes:
    """The lines that are complete."""
    return data[: data.rfind(b"\n") + 1]


def kill_at(size: int, command: list[str], file: Path) -> bytes | None:
    """Run until ``file`` has ``size`` bytes, kill -9, and return what is left of it; None if it ended before."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=ENVIRONMENT)
    while process.poll() is None and not (file.exists() and file.stat().st_size >= size):
        time.sleep(0.0002)
    ended = process.poll() is not None
    process.kill()
    _, said = process.communicate()
    if ended and process.returncode:
        raise SystemExit(f"the comparison failed: {said.decode().strip()}")
    return None if ended else file.read_bytes()


def check(folder: Path, kills: int, seed: int, arguments: list[str], processes: int) -> list[str]:
    """One sentence per thing that is wrong; only the run that is killed has several processes."""
    calm, killed = folder / "calm", folder / "killed"
    subprocess.run([*COMMAND, *arguments, "-o", str(calm)], check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
    wanted = (calm / NAME).read_bytes()
    moments = random.Random(seed)
    targets = sorted(moments.randrange(len(wanted)) for _ in range(kills))
    command, left, wrong = [*COMMAND, *arguments, "-o", str(killed), "--processes", str(processes)], b"", []
    for number, target in enumerate(targets, 1):
        found = kill_at(target, command, killed / NAME)
        if found is None:
            print(f"kill {number}: the run had ended before {target} bytes")
            continue
        lines = whole(found).count(b"\n")
        print(f"kill {number}: at {len(found)} of {len(wanted)} bytes, {lines} samples finished")
        if not found.startswith(whole(left)):
            wrong.append(f"kill {number} (seed {seed}): a finished sample was changed.")
        left = found
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
    final = (killed / NAME).read_bytes()
    if not final.startswith(whole(left)):
        wrong.append(f"the last resume (seed {seed}) changed a finished sample.")
    if timeless(final) != timeless(wanted):
        wrong.append(f"the records differ from an undisturbed run's (seed {seed}).")
    return wrong


def main(
    model: Annotated[str, typer.Option(help="What decodes bundled tasks.")] = "tiny",
    tasks: Annotated[str, typer.Option(help="Names separated by commas.")] = "oracle-shuffle-6,oracle-latin4",
    samples: Annotated[int, typer.Option(min=1, help="Per task.")] = 200,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples decoded together.")] = 8,
    kills: Annotated[int, typer.Option(min=1, help="How often.")] = 10,
    processes: Annotated[int, typer.Option(min=1, help="That decode in the run that is killed.")] = 1,
    seed: Annotated[int | None, typer.Option(help="Of the moments; default the clock.")] = None,
) -> None:
    """Check; see the module's own text."""
    arguments = ["--model", model, "--tasks", tasks, "-n", str(samples), "--batch-size", str(batch_size)]
    with tempfile.TemporaryDirectory() as folder:
        wrong = check(Path(folder), kills, time.time_ns() if seed is None else seed, arguments, processes)
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    print("0 differences" if not wrong else f"{len(wrong)} wrong")
    raise typer.Exit(1 if wrong else 0)


if __name__ == "__main__":
    typer.run(main)
