"""What a training run is shown: its tasks, and how often each."""

from __future__ import annotations

import typer

from dllm_decode.tasks import group
from scripts.tiny.rows import NAMES


def parse_emphasis(text: str) -> dict[str, float]:
    """``"shuffle=4,lines=2"`` as factors of the tasks' weights in the mix."""
    factors = {}
    for part in filter(None, text.split(",")):
        name, _, factor = part.partition("=")
        if name not in NAMES:
            raise typer.BadParameter(f"emphasis names {name!r}; the tasks are {', '.join(NAMES)}.")
        try:
            factors[name] = float(factor)
        except ValueError:
            raise typer.BadParameter(f"emphasis of {name} is {factor!r}; give a number, such as {name}=2.") from None
    return factors


def parse_tasks(text: str) -> list[str]:
    """``"all"``, ``"long"``, ``"all,long"`` or names with commas as the tasks to train on."""
    words = [word for word in text.split(",") if word]
    wrong = [word for word in words if word not in (*NAMES, "all", "long")]
    if wrong or not words:
        raise typer.BadParameter(f"tasks is {text!r}; give all, long or some of {', '.join(NAMES)}, with commas.")
    return list(dict.fromkeys(name for word in words for name in group(word)))
