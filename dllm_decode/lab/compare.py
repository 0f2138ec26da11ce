"""``compare``: decode, sum up, and write everything a comparison leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dllm_decode.interface.model import DenoisingModel
from dllm_decode.lab.report import write_report
from dllm_decode.lab.runner import run
from dllm_decode.lab.setting import plan, read_setting
from dllm_decode.lab.summary import summarise
from dllm_decode.lab.tables import write_tables
from samplers import Policy

#: the policies compared when none is named, each with its paper's parameters; what a cache cannot serve is left out
DEFAULT_POLICIES = (
    "topk:k=2",
    "threshold",
    "factor",
    "frechet",
    "entropybound",
    "localleap",
    "adablock+localleap",
    "ccdds",
    "contentfirst+doubtexit",
    "freedave:step=(threshold),drafts=8,cross_block=true",
)


def compare(
    model: DenoisingModel | str,
    policies: Sequence[str | Policy] = (),
    tasks: str | Sequence[str] = "all",
    out: str | Path = "runs/compare",
    *,
    grid: Mapping[str, Any] | Sequence[Any] | str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    quantize: str | None = None,
    quiet: bool = False,
    on_batch: Callable[[int, int], None] | None = None,
    processes: int = 1,
    lenient: bool = False,
    **setting: Any,
) -> dict[str, Any]:
    """Compare policies on tasks; a run that was killed goes on where it stopped.

    Static decoding is always run as well: it is what the others are compared with, sample by sample.

    Args:
        model: a loaded model, or its name.
        policies: policies, or their strings, ``@file`` included. Without any and without a grid: ``DEFAULT_POLICIES``.
        tasks: ``"all"``, names, or exact oracles such as ``"oracle-shuffle-7"``.
        out: the run folder.
        grid: policies over ranges of parameters, or the YAML file of them; see :func:`~dllm_decode.lab.points.expand`.
        device: where to load the model.
        dtype: in which precision.
        quantize: how to quantise its matrices, as for :func:`~dllm_decode.models.load_model`.
        quiet: no progress bar.
        on_batch: called with (samples done, samples in all).
        processes: that decode side by side; see :func:`~dllm_decode.lab.runner.run`.
        lenient: leave out a policy that does not fit the model or any of the caches, instead of refusing it.
        **setting: ``caches``, ``samples``, ``seeds``, ``templates``, ``split``, ``canvas``, ``batch_size``, ``egp``,
            ``block_length`` and other fields of :class:`~dllm_decode.config.GenerationConfig`; see
            :func:`~dllm_decode.lab.setting.plan`.

    Returns:
        What ``summary.json`` holds.

    Raises:
        DllmError, PolicyError: something is wrong with the input; nothing has been decoded then.
    """
    name = model if isinstance(model, str) else model.name
    chosen = policies or (() if grid is not None else DEFAULT_POLICIES)
    comparison = plan(name, chosen, tasks, grid=grid, **setting)
    loaded = None if isinstance(model, str) else model
    how: dict[str, Any] = {"device": device, "dtype": dtype, "quantize": quantize, "quiet": quiet}
    how |= {"processes": processes, "lenient": lenient or chosen is DEFAULT_POLICIES}
    records = run(comparison, out, loaded, on_batch=on_batch, **how)
    summary = summarise(read_setting(Path(out)), records)
    write_tables(out, summary)
    write_report(Path(out))
    return summary
