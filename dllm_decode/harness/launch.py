"""From a command line to the harness's own: the model is registered, our tasks and defaults are filled in."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from dllm_decode.errors import DllmError

COMMANDS = ("run", "ls", "validate")
HELP = ("-h", "--help")
MODEL = "dllm-decode"
#: Modules of the harness that check what the user gave.
USAGE = ("lm_eval._cli", "lm_eval.config", "lm_eval.evaluator")


def given(args: Sequence[str], *names: str) -> bool:
    """Whether an option is among the arguments, as ``--name value`` or ``--name=value``."""
    return any(arg.split("=", 1)[0] in names for arg in args)


def complete(args: Sequence[str]) -> list[str]:
    """The harness's arguments: its ``run`` is the default command, our model its default model, its device ours.

    What a ``--config`` file says is left alone.
    """
    args = list(args)
    if not args:
        return []
    if args[0] not in COMMANDS:
        args.insert(0, "run")
    if args[0] != "run" or given(args, *HELP):
        return args
    configured = _config(args)
    if not given(args, "--model", "-M") and "model" not in configured:
        args += ["--model", MODEL]
    if not given(args, "--device") and "device" not in configured:
        args += ["--device", "auto"]  # the harness would say cuda:0, GPU or not
    return args


def with_own_tasks(args: Sequence[str], folder: Path) -> list[str]:
    """The arguments with the names of our tasks replaced by configuration files, written into ``folder``."""
    from dllm_decode.harness.tasks import own_task, write_config

    out: list[str] = []
    in_tasks = False
    for arg in args:
        option, equals, value = arg.partition("=")
        if arg.startswith("-"):
            in_tasks = option in ("--tasks", "-t")
            if not (in_tasks and equals):
                out.append(arg)
                continue
            out.append(option)
            arg = value
        elif not in_tasks:
            out.append(arg)
            continue
        for name in filter(None, arg.split(",")):
            ours = own_task(name)
            out += [name] if ours is None else [str(path) for path in write_config(ours, folder)]
    return out


def run(args: Sequence[str]) -> None:
    """Run the harness in this process.

    Raises:
        DllmError: the harness is not installed, or what was asked for cannot work.
        SystemExit: from the harness, whose command line was used wrongly, or which showed its help.
    """
    try:
        from lm_eval._cli import HarnessCLI
        from lm_eval.utils import setup_logging
    except ImportError as error:
        raise DllmError(
            f"the evaluation harness cannot be imported ({error}); install it with pip install 'dllm-decode[eval]'."
        ) from error
    import dllm_decode.harness.lm  # noqa: F401  (registers the model)

    setup_logging()
    before = sys.argv
    with tempfile.TemporaryDirectory(prefix="dllm-tasks-") as folder:
        # The harness reads sys.argv, also to find out whether a command was given.
        sys.argv = ["dllm-decode lm-eval", *with_own_tasks(complete(args), Path(folder))]
        try:
            cli = HarnessCLI()
            cli.execute(cli.parse_args())
        except (ValueError, OSError) as error:
            if not isinstance(error, DllmError) and _raised_by(error).startswith(USAGE):
                said = " ".join(str(error).split()).rstrip(".")
                raise DllmError(f"the harness refuses this: {said}; see dllm-decode lm-eval --help.") from error
            raise
        finally:
            sys.argv = before


def _raised_by(error: BaseException) -> str:
    """The module that raised an error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))


def _config(args: Sequence[str]) -> dict[str, object]:
    """The settings of a ``--config`` file, as far as it can be read; the harness says what is wrong with it."""
    for at, arg in enumerate(args):
        option, equals, value = arg.partition("=")
        if option in ("--config", "-C"):
            path = value if equals else "".join(args[at + 1 : at + 2])
            try:
                found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
            except (OSError, ValueError, yaml.YAMLError):
                return {}
            return found if isinstance(found, dict) else {}
    return {}
