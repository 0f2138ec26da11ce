"""Whether weights fit the memory there is, found out before any is read."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch

from dllm_decode.errors import LoadError

log = logging.getLogger(__name__)
GIB = 2**30
CGROUP = Path("/sys/fs/cgroup")


class NoRoomError(LoadError):
    """The weights of ``name`` do not fit the ``free`` bytes of ``device``."""

    def __init__(self, sentence: str, name: str, device: torch.device, free: int) -> None:
        super().__init__(sentence)
        self.name, self.device, self.free = name, device, free


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be taken on a device; ``None`` where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    found = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError):
        names = ("SC_PAGE_SIZE", "SC_AVPHYS_PAGES")
        if all(name in os.sysconf_names for name in names):
            found.append(os.sysconf(names[0]) * os.sysconf(names[1]))
    try:  # a container's own limit; what it caches of files is given back when needed
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text(encoding="ascii").splitlines())
        held = int((CGROUP / "memory.current").read_text()) - int(stat.get("inactive_file", 0))
        found.append(int((CGROUP / "memory.max").read_text()) - held)
    except (OSError, ValueError):  # no limit reads "max"
        pass
    return max(0, min(found)) if found else None


def fitting_dtype(
    name: str,
    numbers: int,
    asked: torch.dtype | None,
    stored: torch.dtype,
    device: torch.device,
    free: int | None,
    quantised: bool = False,
) -> torch.dtype:
    """The dtype to load weights in: the one asked for, or stored; on a CPU float32, if that fits.

    Args:
        name: of the model, for people.
        numbers: weights there are.
        asked: by the user, or ``None``.
        stored: what most weights of the checkpoint have.
        device: where they go.
        free: bytes there, or ``None`` if unknown.
        quantised: ``numbers`` counts those in fewer bits as fewer.

    Raises:
        NoRoomError: they do not fit; says in which other type they would.
    """
    usual = torch.float32 if device.type == "cpu" else stored
    dtype = usual if asked is None else asked
    if free is None or numbers * dtype.itemsize <= free:
        return dtype
    if asked is None and numbers * stored.itemsize <= free:
        log.warning(
            "%s is loaded as stored, in %s: its float32 weights would take %.1f GiB, and %.1f GiB are free",
            name,
            _word(stored),
            numbers * 4 / GIB,
            free / GIB,
        )
        return stored
    smaller = f"--dtype bfloat16 ({numbers * 2 / GIB:.1f} GiB), " if dtype.itemsize > 2 else ""
    fits = smaller if numbers * 2 <= free else ""
    if not fits and not quantised and numbers <= free:
        fits = f"--quantize int8 (about {numbers / GIB:.1f} GiB), "
    elsewhere = "a GPU that holds them" if device.type == "cpu" else "another GPU, --device cpu"
    raise NoRoomError(
        f"the weights of {name} take {numbers * dtype.itemsize / GIB:.1f} GiB in {_word(dtype)}, but {free / GIB:.1f} "
        f"GiB are free on {device}; use {fits}{elsewhere} or a smaller model.",
        name,
        device,
        free,
    )


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
