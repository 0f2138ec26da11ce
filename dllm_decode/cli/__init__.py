"""The command line. Importing it imports neither torch nor transformers: ``--help`` is instant."""

from __future__ import annotations

import atexit
import io
import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console

from dllm_decode import __version__
from dllm_decode.cli.batch import app as batch
from dllm_decode.cli.compare import compare
from dllm_decode.cli.demo import demo
from dllm_decode.cli.evaluate import evaluate
from dllm_decode.cli.fit import fit
from dllm_decode.cli.generate import generate
from dllm_decode.cli.lm_eval import SETTINGS, lm_eval
from dllm_decode.cli.models import models
from dllm_decode.cli.policies import policies
from dllm_decode.cli.replay import replay
from dllm_decode.cli.serve import serve
from dllm_decode.cli.train_filter import train_filter
from dllm_decode.cli.tune import tune
from dllm_decode.cli.view import view
from dllm_decode.errors import DllmError, RunFailedError

DONE, FAILED, BAD_INPUT, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143

app = typer.Typer(
    name="dllm-decode",
    help="Parallel decoding of masked-diffusion language models: one loop, every policy.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"dllm-decode {__version__}")
        raise typer.Exit()


class Notes(logging.Handler):
    """Prints a library's notes where the errors go."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        print(f"dllm-decode: {record.getMessage()}", file=sys.stderr)


def _verbose(asked: bool) -> None:
    log = logging.getLogger("dllm_decode")
    log.handlers = [h for h in log.handlers if not isinstance(h, Notes)]  # of an earlier command of this process
    if asked:
        log.addHandler(Notes())
        log.setLevel(logging.INFO)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", callback=_verbose, help="Say which attention is used and why, and which steps are captured."
        ),
    ] = False,
) -> None:
    pass


for command in (generate, evaluate, compare, tune, train_filter, policies, models, fit, replay, view, demo, serve):
    app.command()(command)
app.add_typer(batch, name="batch")
app.command("lm-eval", context_settings=SETTINGS)(lm_eval)


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a run as Ctrl-C does, what it has started included."""


_ended = False  #: by SIGTERM, whatever some library made of the exception on its way up


def _terminated(*_: object) -> None:
    global _ended
    _ended = True
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated


def main(args: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        args: default ``sys.argv[1:]``.

    Returns:
        The exit code: 0 done, 1 failure, 2 bad usage or input, 130 interrupted, 143 terminated.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a mask or a newline sign must not end the run on an ASCII terminal
            stream.reconfigure(errors="replace")
    command = typer.main.get_command(app)
    own = args is None and threading.current_thread() is threading.main_thread()  # this process is ours alone
    if own:
        signal.signal(signal.SIGTERM, _terminated)
    try:
        code = command.main(args=args, prog_name="dllm-decode", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        if os.environ.get("DLLM_DEBUG"):
            traceback.print_exc()
        code, sentence = (FAILED, "") if _ended else _explain(error)
        if sentence:
            Console(stderr=True).print(f"dllm-decode: {sentence}", markup=False, highlight=False, soft_wrap=True)
    if own and (_ended or code == INTERRUPTED):  # a second Ctrl-C, while things end, shows no traceback
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return TERMINATED if _ended else code if isinstance(code, int) else DONE


def start() -> int:
    """The program: :func:`main`, and no traceback however often Ctrl-C is pressed while it ends.

    Where torch was needed it ends without taking it apart, which lasts a second or two.
    """
    code = INTERRUPTED
    try:
        code = main()
        others = [t for t in threading.enumerate() if not t.daemon and t is not threading.main_thread()]
        if code not in (INTERRUPTED, TERMINATED) and (others or "torch" not in sys.modules):
            return code
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except (KeyboardInterrupt, OSError) as error:  # OSError: whoever read has gone too
        if isinstance(error, OSError) and code not in (INTERRUPTED, TERMINATED):
            return code
    os._exit(code)


def _explain(error: Exception) -> tuple[int, str]:
    """Exit code and sentence of an error."""
    if hasattr(error, "exit_code") and hasattr(
        error, "format_message"
    ):  # typer's usage errors, whichever click it has
        context = getattr(error, "ctx", None)
        where = context.command_path if context is not None else "dllm-decode"
        if type(error).__name__ == "NoArgsIsHelpError":  # the help is already on the screen
            return BAD_INPUT, ""
        sentence = " ".join(error.format_message().split()).rstrip(".")
        return BAD_INPUT, f"{sentence[:1].lower()}{sentence[1:]}; see {where} --help."
    contract = sys.modules.get("samplers.contract.data")  # never imported here: it brings torch
    if isinstance(error, RunFailedError):
        return FAILED, for_shell(str(error))
    if isinstance(error, DllmError) or (contract is not None and isinstance(error, contract.PolicyError)):
        return BAD_INPUT, for_shell(str(error))
    said = " ".join(str(error).split()) or "no message"
    return FAILED, f"failed with {type(error).__name__}: {said} (set DLLM_DEBUG=1 for the traceback)"


def for_shell(sentence: str) -> str:
    """An error sentence of the library with Python spellings as options of this program."""
    sentence = sentence.replace("infill=True", "--infill").replace("chat=False", "--raw")
    sentence = re.sub(r"\bcache='none'", "--cache none", sentence)
    sentence = re.sub(r"\bcache_dtype='(\w+)'", r"--cache-dtype \1", sentence)
    names = "cache_dtype|max_new_tokens|block_length|top_p|top_k|batch_size"
    sentence = re.sub(rf"(?<![\w-])({names})(?!\w)", lambda m: "--" + m[1].replace("_", "-"), sentence)
    return re.sub(r"^(temperature|guidance|seed|samples) is", r"--\1 is", sentence)
