"""What the commands share: options, consoles, checks, and files that are written only when there is something."""

from __future__ import annotations

import json
import re
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from dllm_decode.errors import DllmError
from dllm_decode.files import write_whole

if TYPE_CHECKING:
    from dllm_decode.interface.model import DenoisingModel
    from samplers import Policy

DECODING, SAMPLING, OUTPUT = "Decoding", "Sampling", "Output"

ModelName = Annotated[
    str, typer.Option("--model", "-m", help="Checkpoint folder, hub id, or 'tiny', the bundled model.", metavar="NAME")
]


class PolicyOfFile(str):
    """A policy string that came with settings."""

    settings: dict[str, Any]


def _of_file(context: typer.Context, value: str) -> str:
    """The policy behind ``@FILE``; its cache and settings become the defaults of this command."""
    if context.resilient_parsing or not value.startswith("@"):
        return value
    from dllm_decode.engine.policy_file import resolve_policy
    from samplers import spell

    found = resolve_policy(value)
    tuned = dict(found.settings) if found.cache is None else {**found.settings, "cache": found.cache}
    shown = {name: "none" if setting is None else setting for name, setting in tuned.items()}
    context.default_map = {**(context.default_map or {}), **shown}
    policy = PolicyOfFile(spell(found.policy))
    policy.settings = found.settings
    return policy


def settings_of(policy: str, *left: str, **given: Any) -> dict[str, Any]:
    """Settings of a generation: the command's options, and what else a policy file sets.

    Args:
        policy: of the command line.
        left: settings that this command decides otherwise; a file that has them is told so.
        **given: the options, whose defaults a file has already changed.
    """
    more = dict(policy.settings) if isinstance(policy, PolicyOfFile) else {}
    for name in left:
        if more.pop(name, None) is not None:
            stderr().print(f"the policy file's {name} is left: the tasks decide it", highlight=False)
    return {**more, **given}


def _ids(text: Any) -> tuple[int, ...]:
    """Token ids separated by commas; a list, as policy files have it, passes."""
    try:
        return tuple(int(part) for part in (text.split(",") if isinstance(text, str) else text))
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(f"{text!r:.80} are no token ids separated by commas, such as 1,2.") from error


def _cells(text: Any) -> int | None:
    """A whole number, or none."""
    if text is None or str(text).lower() == "none":
        return None
    try:
        return int(text)
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(f"{text!r:.80} is no whole number from 1 up, nor none.") from error


PolicyText = Annotated[
    str,
    typer.Option(
        "--policy",
        "-p",
        help="What decides, such as 'threshold:threshold=0.8' or 'topk:k=2'; parts join with '+'; see 'policies'. "
        "Or @FILE, written by 'tune'.",
        metavar="POLICY",
        rich_help_panel=DECODING,
        callback=_of_file,
        is_eager=True,  # before the options whose defaults a file sets
    ),
]
CacheName = Annotated[
    str,
    typer.Option(
        "--cache",
        help="KV cache: none, prefix, dual; block (block-causal models); auto: the exact one.",
        metavar="KIND",
        rich_help_panel=DECODING,
    ),
]
CacheDtype = Annotated[
    str | None,
    typer.Option(
        "--cache-dtype",
        help="Keep keys and values in 8 bits, int8 or fp8: about half the memory of 16, not exact.",
        metavar="KIND",
        rich_help_panel=DECODING,
    ),
]
BlockLength = Annotated[
    int | None,
    typer.Option(
        "--block-length",
        help="Cells per block; the last may be shorter. 'none': one block.",
        metavar="N|none",
        parser=_cells,
        rich_help_panel=DECODING,
    ),
]
SuppressTokens = Annotated[
    Any,
    typer.Option(
        "--suppress-tokens",
        help="Ids that are never proposed, with commas.",
        metavar="IDS",
        parser=_ids,
        rich_help_panel=DECODING,
    ),
]
Temperature = Annotated[
    float, typer.Option("--temperature", help="0 is greedy; above, tokens are drawn.", rich_help_panel=SAMPLING)
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.", rich_help_panel=SAMPLING)]
Split = Annotated[str, typer.Option(help="Of the problems: train, valid or test.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.", rich_help_panel=OUTPUT)]
Device = Annotated[
    str | None, typer.Option("--device", help="Such as cpu or cuda:1; default the GPU, if there is one.")
]
Quantize = Annotated[
    str | None,
    typer.Option("--quantize", help="int8, fp8 or int4 (GPU only) matrices by torchao; head and embedding stay."),
]
Dtype = Annotated[
    str | None, typer.Option("--dtype", help="float32, bfloat16 or float16; default as stored, float32 on a CPU.")
]


def named_folder(text: str) -> Path:
    """A folder's path; an empty one would be the working folder."""
    if not str(text).strip():
        raise typer.BadParameter("it is empty; name a folder.")
    return Path(text)


def seconds(value: float) -> float:
    """A time to rest."""
    if not 0 <= value <= 3600:
        raise typer.BadParameter(f"{value} is not from 0 to 3600 seconds.")
    return value


def stdout() -> Console:
    """The console of answers and tables."""
    return Console()


def stderr() -> Console:
    """The console of progress and notes."""
    return Console(stderr=True)


def label_text(label: str, width: int) -> str:
    """A policy's name in lines of at most ``width`` columns that end after punctuation, never inside a word."""
    lines = [""]
    for piece in re.findall(r"[^:,+=]*[:,+=]?", label):
        if lines[-1] and len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)


def write_json(out: Console, value: Any, indent: int | None = None) -> None:
    """One JSON value and a newline, flushed; in ASCII where the stream cannot hold more."""
    readable = (getattr(out.file, "encoding", None) or "").lower() in ("utf-8", "utf8")
    out.file.write(json.dumps(value, ensure_ascii=not readable, indent=indent) + "\n")
    out.file.flush()


def check_policy(text: str) -> Policy:
    """Parse a policy before anything slow happens."""
    from dllm_decode.engine.policy_file import resolve_policy

    return resolve_policy(text).policy


def check_batch_size(size: int) -> None:
    """Refuse a batch of nothing."""
    if size < 1:
        raise DllmError(f"--batch-size is {size}; give a whole number from 1 up.")


def check_cache(name: str) -> None:
    """Refuse an unknown cache before the model is loaded."""
    from dllm_decode.config import CACHES
    from samplers.registry import suggest

    if name not in ("auto", *CACHES):
        raise DllmError(f"unknown cache {name!r}{suggest(name, CACHES)}; use one of {', '.join(CACHES)}.")


def load(
    name: str, device: str | None = None, dtype: str | None = None, quantize: str | None = None
) -> DenoisingModel:
    """Load a model, saying so on an interactive stderr."""
    if not name.strip():
        raise DllmError("the model's name is empty; give a checkpoint folder, a hub id, or 'tiny'.")
    console = stderr()
    busy: AbstractContextManager[Any] = console.status(f"loading {name}") if console.is_terminal else nullcontext()
    with busy:
        from dllm_decode.engine.load import load_model

        return load_model(name, dtype=dtype, device=device, quantize=quantize)


class OutputFile:
    """A file that is checked before the work and written after it, so that a failed run leaves the old one alone."""

    def __init__(self, path: Path, what: str) -> None:
        """Check that the file can be written.

        Raises:
            DllmError: it cannot.
        """
        self.path = path
        if path == Path():
            raise DllmError(f"the file for {what} has no name; give one.")
        existed = path.exists()
        try:
            with path.open("a", encoding="utf-8"):
                pass
        except OSError as error:
            raise DllmError(
                f"cannot write {what} to {str(path)!r} ({error.strerror}); give a file in a folder you may write to."
            ) from error
        if not existed:
            path.unlink()
        self._parts: list[str] = []

    def append(self, text: str) -> None:
        """Write more; the first call replaces what the file held."""
        self._parts.append(text)
        write_whole(self.path, "".join(self._parts))


def read_text(path: str, what: str) -> str:
    """The text of a file, or of standard input for ``-``.

    Raises:
        DllmError: missing, unreadable or not UTF-8.
    """
    if path == "-" and (sys.stdin is None or sys.stdin.closed):
        raise DllmError("standard input is closed; give PROMPT, -f FILE, or pipe a text in.")
    try:
        return (sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")).removeprefix("\ufeff")
    except OSError as error:
        raise DllmError(f"cannot read {what} {path!r} ({error.strerror}); give an existing text file.") from error
    except UnicodeDecodeError as error:
        name = "standard input" if path == "-" else repr(path)
        raise DllmError(f"{name} is not UTF-8 text (byte {error.start}); convert it first.") from error
