"""Odd input of every kind: each must end with an answer, or with one sentence and the right exit code.

``python -m scripts.fuzz --cases 3000 --seed 0`` draws arguments of the command line, prompts, settings, policies,
policy files, checkpoint folders, filters, traces and records, mostly by damaging good ones. A fault is a traceback, an
error that is not ours, a hang, or an exit code other than 0 and 2 (but 1 for weights that give no finite numbers);
each is printed with the input that repeats it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from scripts.fuzzing import files, given

LIMIT = 20  # seconds of this process; one that sleeps has six times as long


class HangError(BaseException):
    """The input took too long."""


@dataclass(frozen=True)
class Fault:
    """An input that did not end as it should."""

    kind: str
    what: str
    input: str


def main(argv: list[str] | None = None) -> int:
    """Run; exit code 1 if there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case, to repeat one")
    options = parser.parse_args(argv)
    began, kinds = time.monotonic(), Counter[str]()
    faults = []
    for kind, fault in run(options.cases, options.seed, options.first):
        kinds[kind] += 1
        if fault is not None:
            faults.append(fault)
            print(
                f"{fault.kind}: {fault.what}\n  {fault.input}".encode("ascii", "backslashreplace").decode(), flush=True
            )
    counts = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    print(f"{sum(kinds.values())} cases, {len(faults)} faults, {time.monotonic() - began:.0f} s ({counts})")
    return int(bool(faults))


def run(cases: int, seed: int, first: int = 0) -> Iterator[tuple[str, Fault | None]]:
    """Kind and fault of each case; a case depends on (seed, its number) alone."""
    kinds: list[tuple[str, Callable[[random.Random, Path], tuple[str, Callable[[], object]]], int]] = [
        ("arguments", given.arguments, 6),
        ("prompts", given.prompts, 6),
        ("settings", given.settings, 6),
        ("policies", given.policies, 8),
        ("policy files", files.policy_files, 4),
        ("checkpoints", files.checkpoints, 4),
        ("filters", files.filters, 2),
        ("traces", files.traces, 4),
        ("records", files.records, 3),
    ]
    weights = [weight for _, _, weight in kinds]
    with tempfile.TemporaryDirectory() as home, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given.sampler()  # what is imported and loaded once is on no case's clock
        for number in range(first, first + cases):
            draw = random.Random(f"{seed}/{number}")
            kind, make, _ = draw.choices(kinds, weights)[0]
            folder = Path(home) / str(number)
            folder.mkdir()
            shown, call = make(draw, folder)
            fault = attempt(call)
            shutil.rmtree(folder, ignore_errors=True)
            what = f"--seed {seed} --first {number} --cases 1, {kind}: {shown}"
            yield kind, None if fault is None else Fault(*fault, what)


def attempt(call: Callable[[], object]) -> tuple[str, str] | None:
    """What is wrong with how a call ends; an integer it returns is an exit code."""
    from dllm_decode.errors import DllmError
    from samplers import PolicyError

    def alarm(*_: object) -> None:
        raise HangError

    before = [signal.signal(number, alarm) for number in (signal.SIGALRM, signal.SIGPROF)]
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    signal.alarm(6 * LIMIT)
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = call()
    except (DllmError, PolicyError) as error:
        return _sentence(str(error))
    except HangError:
        return "hang", f"more than {LIMIT} s"
    except BaseException as error:  # noqa: BLE001 - anything else is a fault
        return "raw error", f"{type(error).__name__}: {error!s:.200}"
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGALRM, before[0])
        signal.signal(signal.SIGPROF, before[1])
    said = err.getvalue()
    if "Traceback" in said:
        return "traceback", said[-200:]
    if isinstance(code, int) and not isinstance(code, bool):
        if code not in (0, 2) and not (code == 1 and "no finite numbers" in said):
            return f"exit code {code}", said[-200:]
        if code == 2:
            return _sentence(said.strip().removeprefix("dllm-decode: "))
    return None


def _sentence(said: str) -> tuple[str, str] | None:
    if not said.strip() or len(said) > 900 or not said.rstrip().endswith((".", ")", "?")):
        return "no sentence", said[:300]
    return None


if __name__ == "__main__":
    sys.exit(main())
