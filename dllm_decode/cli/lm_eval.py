"""``dllm-decode lm-eval``."""

from __future__ import annotations

import typer

from dllm_decode.cli.common import stdout

# Everything is handed over, also --help and what looks like options of ours.
SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
ABOUT = """\
dllm-decode lm-eval ARGUMENTS runs EleutherAI's lm-evaluation-harness on a masked-diffusion model. All arguments are
the harness's own (below); --model dllm-decode is filled in, and its --model_args are

  pretrained=NAME       checkpoint folder, hub id, or 'tiny', the bundled model
  policy=POLICY         what decodes, such as threshold:threshold=0.9 (default topk:k=1), or @FILE written by 'tune';
                        with commas in quotes of its own: --model_args "pretrained=NAME,policy='topk:k=2,score=margin'"
  cache=KIND            none, prefix or dual
  max_new_tokens=N      canvas of every answer (default: what the task asks for)
  block_length=N, temperature=T, seed=N, ... all generation settings
  dtype=..., attention=..., max_length=N, add_bos_token=true, escape_until=true
  mc_num=N              Monte-Carlo samples of a log-likelihood (default 128); check_greedy=false skips its decoding

Our own tasks are --tasks dllm/copy,... (dllm/all) and parallelbench/copy,...; --metadata samples=N sets their size.
"""


def lm_eval(context: typer.Context) -> None:
    """EleutherAI's harness on any checkpoint, policy and cache; needs the extra 'eval'."""
    from dllm_decode.harness.launch import HELP, given, run

    args = list(context.args)
    if not args or (given(args, *HELP) and args[0] not in ("ls", "validate")):
        stdout().print(ABOUT, markup=False, highlight=False, soft_wrap=True)
        args = ["run", "--help"]
    try:
        run(args)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        raise typer.Exit(code) from None
