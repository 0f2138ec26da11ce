"""The setting of a comparison: everything its numbers depend on, kept beside them and never changed under them."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any

from dllm_decode import __version__
from dllm_decode.config import BLOCK_LENGTH, CACHES, GenerationConfig
from dllm_decode.errors import DllmError
from dllm_decode.files import parse_json, write_whole
from dllm_decode.lab.points import STATIC, Point, points
from dllm_decode.lab.problems import is_oracle, task_names
from dllm_decode.tasks import SPLITS, TASKS
from samplers import Policy
from samplers.registry import suggest

FORMAT = 1
NAME = "setting.json"
MOST = 1_000_000
MOST_THREADS = 4096  # of a process, or processes: more is damage, and torch.set_num_threads overflows
NOT_COMPARED = ("date", "processes", "machine")
EGP = Point("egp", "egp", "egp")
_NOTHING = object()  # where the other setting has something
WHOLE_FILE = 2**30  # bytes; of larger weight files only size, beginning and end are hashed


@dataclass(frozen=True)
class Comparison:
    """What is compared, on what, and how; made and checked by :func:`plan`.

    Attributes:
        model: name or folder. ``points``: the policies, static decoding first.
        tasks, caches, seeds: all combinations are run.
        samples: problems per task and seed, from number ``first`` on.
        templates: every problem in each of these wordings; ``None`` = in one, drawn wording.
        split: of the problems. ``canvas``: ``"task"`` = the task's own, ``"answer"`` = near the expected answer's
            length, which is fair to schedules that spend forwards on every cell.
        batch_size: rows decoded together.
        egp: also run the EGP bound (greedy decoding of the bundled tasks only).
        config: settings of every generation; ``max_new_tokens`` and ``seed`` come from the problems.
    """

    model: str
    points: tuple[Point, ...]
    tasks: tuple[str, ...]
    caches: tuple[str, ...]
    seeds: tuple[int, ...]
    samples: int
    first: int
    templates: tuple[int, ...] | None
    split: str
    canvas: str
    batch_size: int
    egp: bool
    config: GenerationConfig

    def to_dict(self) -> dict[str, Any]:
        """What ``setting.json`` says about the plan."""
        shown = {**asdict(self), "version": FORMAT, "static": STATIC.label}
        shown["policies"] = [asdict(point) for point in shown.pop("points") and self.points]
        shown["templates"] = "mixed" if self.templates is None else list(self.templates)
        shared = self.config.to_dict()
        shown["config"] = {
            task: {**shared, "max_new_tokens": TASKS[task].max_new_tokens if task in TASKS else None}
            for task in self.tasks
        }
        return dict(json.loads(json.dumps(shown)))


def plan(
    model: str,
    policies: Sequence[str | Policy] = (),
    tasks: str | Sequence[str] = "all",
    *,
    grid: Mapping[str, Any] | Sequence[Any] | str | Path | None = None,
    caches: str | Sequence[str] = ("none",),
    samples: int = 100,
    first: int = 0,
    seeds: Sequence[int] = (0,),
    templates: Sequence[int] | None = None,
    split: str = "test",
    canvas: str = "task",
    batch_size: int = 16,
    egp: bool = True,
    block_length: int | None = BLOCK_LENGTH,
    **settings: Any,
) -> Comparison:
    """Check and complete a setting; see :class:`Comparison`.

    Raises:
        DllmError: anything unknown or out of range, in one sentence.
        PolicyError: a policy that does not parse.
    """
    named = task_names(tasks)
    kinds = [name.strip() for name in (caches.split(",") if isinstance(caches, str) else caches)]
    for kind in kinds:
        if kind not in CACHES:
            raise DllmError(f"unknown cache {kind!r}{suggest(kind, CACHES)}; use one of {', '.join(CACHES)}.")
    oracle = next((task for task in named if is_oracle(task)), None)
    if oracle and kinds != ["none"]:
        raise DllmError(f"{oracle} keeps no keys and values; compare oracles with cache none.")
    if split not in SPLITS:
        raise DllmError(f"unknown split {split!r}; use one of {', '.join(SPLITS)}.")
    if canvas not in ("task", "answer"):
        raise DllmError(f"canvas is {canvas!r}; give task or answer.")
    for name, value, least in (("samples", samples, 1), ("first", first, 0), ("batch_size", batch_size, 1)):
        if not _whole(value, least):
            raise DllmError(f"{name} is {value!r}; give a whole number from {least} up.")
        if value > MOST:
            raise DllmError(f"{name} is {value}; give at most {MOST}, which is days of decoding.")
    if not seeds or not all(_whole(seed, 0) and seed < 2**63 for seed in seeds):
        raise DllmError(f"seeds are {list(seeds)!r}; give whole numbers from 0 up.")
    if templates is not None:
        known = min((TASKS[task].templates for task in named if task in TASKS), default=1)
        if not templates or not all(_whole(t, 0) and t < known for t in templates):
            raise DllmError(f"templates are {list(templates)!r}; give numbers from 0 to {known - 1}, or none to mix.")
    for taken in ("max_new_tokens", "seed", "infill"):
        if taken in settings:
            raise DllmError(f"{taken} cannot be set for a comparison: the tasks and seeds decide it; leave it out.")
    config = GenerationConfig.from_dict({"block_length": block_length, **settings})
    found = tuple(points(policies, grid))
    return Comparison(
        model=model,
        points=found,
        tasks=tuple(named),
        caches=tuple(dict.fromkeys(kinds)),
        seeds=tuple(dict.fromkeys(seeds)),
        samples=samples,
        first=first,
        templates=None if templates is None else tuple(dict.fromkeys(templates)),
        split=split,
        canvas=canvas,
        batch_size=batch_size,
        egp=egp and config.temperature == 0,
        config=config,
    )


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def surroundings() -> dict[str, Any]:
    """Versions that figures depend on, and the day."""
    versions = {name: version(name) for name in ("torch", "transformers")}
    return {
        "versions": {"python": platform.python_version(), **versions, "dllm-decode": __version__},
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    }


def machine(device: str = "cpu") -> str:
    """What decodes, in words; ``device`` is named if it is a GPU."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = (line.partition(":") for line in info.read_text(encoding="utf-8").splitlines())
        name = next((value.strip() for key, _, value in lines if key.strip() == "model name"), name)
    count = os.cpu_count() or 1
    return f"{count} core{'s' if count > 1 else ''} of {name}"


def weights_revision(folder: Path) -> str | None:
    """A hash of a checkpoint's weight files (of very large ones: of size, beginning and end), or None without any."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return None
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            if size <= WHOLE_FILE:
                while chunk := file.read(2**20):
                    digest.update(chunk)
            else:
                digest.update(file.read(2**20))
                file.seek(-(2**20), 2)
                digest.update(file.read())
    return digest.hexdigest()[:16]


def keep_setting(folder: Path, setting: dict[str, Any], name: str = NAME) -> dict[str, Any]:
    """Write ``setting.json``, or check that the folder already holds the same setting.

    Args:
        folder: made if need be.
        setting: as JSON would read it back.
        name: of the file.

    Returns:
        The setting as the folder holds it.

    Raises:
        DllmError: the folder holds another one; the sentence names the first difference.
    """
    path = folder / name
    if not path.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DllmError(f"cannot write to {str(folder)!r} ({error.strerror}); give another folder.") from error
        write_whole(path, json.dumps(setting, indent=1, ensure_ascii=False) + "\n")
        return setting
    held = read_setting(folder, name)
    _refuse(folder, held, setting)
    return held


def read_setting(folder: Path, name: str = NAME) -> dict[str, Any]:
    """The setting of a run folder.

    Raises:
        DllmError: no run folder, or a damaged one.
    """
    try:
        found = parse_json((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DllmError(f"{str(folder)!r} holds no comparison; give a folder that 'compare' wrote.") from error
    if not isinstance(found, dict) or found.get("version") != FORMAT:
        raise DllmError(f"{str(folder)!r} was written by another version of this program; compare again elsewhere.")
    for key in ("date", "machine", "processes", "threads"):  # what no other run is compared with
        value: Any = found.get(key, 1 if key in ("processes", "threads") else "none")
        if key in ("processes", "threads"):
            good = _whole(value, 1) and value <= MOST_THREADS
        else:
            good = isinstance(value, str) and bool(value)
        if not good:
            raise DllmError(f"{str(folder / name)!r} is damaged: {key} is {value!r:.60}; give another folder.")
    return found


def refuse_other(folder: Path, part: Mapping[str, Any], name: str = NAME) -> None:
    """Raise what :func:`keep_setting` would raise for the part of a setting that is known before a model is loaded."""
    if (folder / name).exists():
        held = read_setting(folder, name)
        _refuse(folder, {key: held.get(key) for key in part}, part)


def _refuse(folder: Path, held: Mapping[str, Any], setting: Mapping[str, Any]) -> None:
    old, new = ({k: v for k, v in s.items() if k not in NOT_COMPARED} for s in (held, setting))
    difference = _first_difference(old, new)
    if difference is not None:
        name, was, now = difference
        name = re.sub(r"^config\.[^.]+\.", "", name)  # the same for every task
        raise DllmError(
            f"{str(folder)!r} holds a run with {name} {was}, but now it is {now}; "
            "give another folder, or the same settings."
        )


def _first_difference(old: Any, new: Any, name: str = "") -> tuple[str, str, str] | None:
    if isinstance(old, dict) and isinstance(new, dict):
        # A setting that is newer than the folder is null there: what it is unless asked for.
        keys = [k for k in dict.fromkeys([*old, *new]) if not old.get(k) is new.get(k) is None]
        pairs = [(f"{name}.{k}" if name else str(k), old.get(k, _NOTHING), new.get(k, _NOTHING)) for k in keys]
    elif isinstance(old, list) and isinstance(new, list):
        pairs = [(f"{name}[{at}]", *pair) for at, pair in enumerate(zip_longest(old, new, fillvalue=_NOTHING))]
    else:
        return None if old == new else (name, _brief(old), _brief(new))
    return next((found for what, a, b in pairs if (found := _first_difference(a, b, what)) is not None), None)


def _brief(value: Any) -> str:
    if value is None or value is _NOTHING:
        return "none" if value is None else "not there"
    if isinstance(value, dict):  # a whole entry more or less
        return "{" + ", ".join(f"{k}: {v}" for k, v in value.items())[:60] + "}"
    return json.dumps(value)[:60]
