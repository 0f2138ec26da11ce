"""Batch jobs: a file of prompts to a file of answers, by any number of workers that share nothing but a folder.

A job is a folder: a manifest (what is asked, cut into shards), claims (who decodes which shard) and parts (finished
shards).  A part appears whole or not at all and holds the same bytes whoever made it, so that killing, restarting or
adding workers at any moment loses nothing and doubles nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

#: public name -> module that defines it; resolved on first use, for looking at a job needs no torch
_EXPORTS = {
    "Decoder": "worker",
    "JobFolder": "folder",
    "JobSettings": "manifest",
    "Manifest": "manifest",
    "Progress": "folder",
    "RayWorker": "on_ray",
    "Worker": "worker",
    "create_or_resume": "manifest",
    "merge": "merging",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
