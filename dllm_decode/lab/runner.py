"""Run a comparison: decode what is missing, share by share, and leave one line per finished sample."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dllm_decode.engine.load import load_model
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.errors import DllmError
from dllm_decode.files import write_whole
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.lab.points import STATIC, Point
from dllm_decode.lab.problems import Problem, draw, is_oracle, make_oracle, shares
from dllm_decode.lab.records import Journal, Ledger, Record
from dllm_decode.lab.setting import (
    EGP,
    NAME,
    Comparison,
    keep_setting,
    machine,
    read_setting,
    refuse_other,
    surroundings,
    weights_revision,
)
from dllm_decode.lab.share import Decoder, Share, aims_of, model_of, prompt_of
from dllm_decode.lab.workers import Crew, crew
from dllm_decode.models.loading import BUNDLED, BUNDLED_NAMES
from dllm_decode.tasks.tokenizer import count_tokens
from samplers import PolicyError

#: Batches that pass through one feed: what a kill may cost, and what one process does at a time.
SHARE = 8


@dataclass
class Runner:
    """One run folder in the making; :func:`run` is the way in.

    Attributes:
        comparison: what to do. ``model``: what decodes the bundled tasks; ``None`` if there are only oracles.
        left_out: why a policy (label) does not run over a cache; filled by :meth:`check`.
    """

    comparison: Comparison
    model: DenoisingModel | None
    left_out: dict[tuple[str, str], str] = field(default_factory=dict)

    def problems(self, task: str, seed: int) -> list[Problem]:
        """The problems of one task and seed."""
        plan = self.comparison
        tokenizer = None if self.model is None else self.model.tokenizer
        length = count_tokens if tokenizer is None else lambda text: len(tokenizer.encode(text))
        near = length if plan.canvas == "answer" else None
        return draw(task, plan.split, seed, plan.first, plan.samples, plan.templates, near)

    def check(self, lenient: bool = False) -> None:
        """Refuse what cannot work, in any part of the run, before the first forward.

        A policy that fits some of the caches is left out with the others, which ``left_out`` remembers.

        Args:
            lenient: nobody has chosen the policies: one that fits nowhere is left out as well.

        Raises:
            PolicyError: a policy fits none of the caches, or not the model or the block length.
            DllmError: the model cannot be scored on text, or is too short for a task.
        """
        plan = self.comparison
        for task in plan.tasks:
            model = model_of(self.model, task, 0)
            if not is_oracle(task) and model.tokenizer is None:
                raise DllmError(f"model {model.name!r} has no tokenizer, so its answers to {task} cannot be scored.")
            longest = max(self.problems(task, plan.seeds[0]), key=lambda p: len(p.prompt))
            config = plan.config.replace(max_new_tokens=longest.canvas, seed=0)
            for cache in plan.caches:
                DiffusionSampler(model, STATIC.policy, cache, config).check([prompt_of(task, longest.prompt)])
                for point in plan.points:
                    try:
                        DiffusionSampler(model, point.policy, cache, config)
                    except PolicyError as error:
                        self.left_out.setdefault((point.label, cache), f"on {task}: {error}")
        for point in plan.points:
            reasons = [self.left_out.get((point.label, cache)) for cache in plan.caches]
            if all(reasons) and not lenient:
                raise PolicyError(f"{point.label} does not work with cache {plan.caches[0]} {reasons[0]}")

    def points_of(self, task: str, cache: str) -> list[Point]:
        """The points that run on one task over one cache, in order; EGP, which needs static decoding, comes last."""
        points = [*self.comparison.points, *([EGP] if self.comparison.egp and not is_oracle(task) else [])]
        return [point for point in points if (point.label, cache) not in self.left_out]

    def total(self) -> int:
        """Number of samples of the whole run."""
        plan = self.comparison
        rows = 0
        for task in plan.tasks:
            wordings = 1 if is_oracle(task) or plan.templates is None else len(plan.templates)
            rows += wordings * sum(len(self.points_of(task, cache)) for cache in plan.caches)
        return rows * len(plan.seeds) * plan.samples

    def shares(self) -> Iterator[Share]:
        """All shares in canonical order."""
        plan = self.comparison
        for cache in plan.caches:
            for task in plan.tasks:
                for seed in plan.seeds:
                    parted = shares(self.problems(task, seed), SHARE * plan.batch_size)
                    for point in self.points_of(task, cache):
                        for problems in parted:
                            yield Share(cache, point, problems, tuple(map(self._place, problems)))

    def _place(self, problem: Problem) -> int:
        """Index of a problem among all of its task and seed."""
        wordings = self.comparison.templates
        if wordings is None or problem.template not in wordings:  # an oracle has none
            return problem.sample
        return problem.sample * len(wordings) + wordings.index(problem.template)


def run(
    comparison: Comparison,
    folder: str | Path,
    model: DenoisingModel | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    quantize: str | None = None,
    quiet: bool = False,
    on_batch: Callable[[int, int], None] | None = None,
    processes: int = 1,
    lenient: bool = False,
) -> list[Record]:
    """Decode what ``folder`` does not hold yet, with a progress bar on stderr if that is a terminal.

    Args:
        comparison: what :func:`~dllm_decode.lab.setting.plan` made.
        folder: the run folder; a killed run goes on where it stopped.
        model: the loaded model, if the caller has it; else ``comparison.model`` is loaded.
        device: where to load it.
        dtype: in which precision.
        quantize: how to quantise its matrices, as for :func:`~dllm_decode.models.load_model`; in one process.
        quiet: no bar.
        on_batch: called with (samples done, samples in all) after every share.
        processes: that decode side by side on a CPU, sharing its threads: several single-threaded ones are faster than
            one with several threads if the model is small. The records do not depend on it: a folder keeps the threads
            per process that it began with. A script that asks for more than one needs its
            ``if __name__ == "__main__":``.
        lenient: leave policies out that fit neither tasks nor model, instead of refusing them.

    Returns:
        All records, in canonical order.

    Raises:
        DllmError: the folder holds another comparison, or something does not fit; before any forward.
    """
    folder = Path(folder)
    if not isinstance(processes, int) or isinstance(processes, bool) or processes < 1:
        raise DllmError(f"processes is {processes!r}; give a whole number from 1 up.")
    if quantize is not None and (processes > 1 or model is not None):
        why = "processes share plain weights only" if processes > 1 else "the model is loaded already"
        raise DllmError(f"quantize is {quantize!r}, but {why}; leave one of the two out.")
    refuse_other(folder, comparison.to_dict())
    if model is None and not all(is_oracle(task) for task in comparison.tasks):
        model = load_model(comparison.model, dtype=dtype, device=device, quantize=quantize)
    if processes > 1 and model is not None and model.device.type != "cpu":
        raise DllmError(f"processes is {processes}, but the model is on {model.device}; several share a CPU only.")
    here = [point.policy for point in comparison.points if "__main__:" in point.policy]
    if processes > 1 and here and not Path(getattr(sys.modules["__main__"], "__file__", "")).is_file():
        raise PolicyError(
            f"{here[0]!r} is a class of this session, which other processes cannot import; put it in a module, or use "
            "processes=1."
        )
    runner = Runner(comparison, model)
    runner.check(lenient)
    left_out = [{"label": label, "cache": cache, "why": why} for (label, cache), why in runner.left_out.items()]
    threads = read_setting(folder).get("threads") if (folder / NAME).exists() else None
    threads = threads or max(1, torch.get_num_threads() // processes)
    described = {**_describe(comparison, model), **surroundings(), "left_out": left_out}
    if quantize is not None:
        described["dtype"] += f", {quantize} matrices"
    keep_setting(folder, {**comparison.to_dict(), **described, "threads": threads, "processes": processes})
    with Journal(folder) as journal:
        if processes == 1:
            decoder = Decoder(model, comparison.config, comparison.batch_size)
            with _threads(threads):
                records = decode(runner, journal, decoder, quiet, on_batch)
        else:
            known = journal.records.keys()
            done = frozenset(i for i, share in enumerate(runner.shares()) if known >= {*share.keys})
            with crew(runner, folder, done, processes, threads) as others:
                records = decode(runner, journal, others, quiet, on_batch)
        journal.arrange([record["key"] for record in records])
    if model is not None:
        _write_pieces(folder, model, records)
    return records


def decode(
    runner: Runner,
    ledger: Ledger,
    decoder: Decoder | Crew,
    quiet: bool = False,
    on_batch: Callable[[int, int], None] | None = None,
) -> list[Record]:
    """Decode what the ledger does not hold yet; see :func:`run`.

    Returns:
        All records, in canonical order.
    """
    order: list[str] = []
    with tqdm(total=runner.total(), file=sys.stderr, disable=True if quiet else None, unit="sample") as bar:
        for number, share in enumerate(runner.shares()):
            if not all(name in ledger.records for name in share.keys):
                bar.set_description(f"{share.task} {share.point.label[:32]} {share.cache}")
                if isinstance(decoder, Crew):
                    done = decoder.decode(number)
                else:
                    done = decoder.decode(share, aims_of(share, ledger.records))
                # A share torn by a kill is decoded whole, since sums depend on who stands beside a row in their last
                # bits; what is on record stays as it is.
                ledger.append([record for record in done if record["key"] not in ledger.records])
            order.extend(share.keys)
            bar.update(len(share.problems))
            if on_batch is not None:
                on_batch(len(order), bar.total)
    return [ledger.records[name] for name in order]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many threads for the time being."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _describe(comparison: Comparison, model: DenoisingModel | None) -> dict[str, Any]:
    """What the setting says about the model, and about the oracles that replace it on some tasks."""
    described: dict[str, Any] = {
        "model_revision": None,
        "mask_id": None,
        "eos_ids": [],
        "device": "cpu",
        "dtype": None,
    }
    if model is not None:
        folder = BUNDLED / comparison.model if comparison.model in BUNDLED_NAMES else Path(comparison.model)
        described = {
            "model_revision": weights_revision(folder) if folder.is_dir() else None,
            "mask_id": model.mask_id,
            "eos_ids": list(model.eos_ids),
            "device": str(model.device),
            "dtype": str(model.dtype).removeprefix("torch."),
        }
    oracles = {task: make_oracle(task) for task in comparison.tasks if is_oracle(task)}
    described["oracles"] = {
        task: {"mask_id": oracle.mask_id, "cells": oracle.length, "total_correlation": oracle.total_correlation}
        for task, oracle in oracles.items()
    }
    return {**described, "machine": machine(described["device"])}


def _write_pieces(folder: Path, model: DenoisingModel, records: Sequence[Record]) -> None:
    """``pieces.json``: how each token id that occurs reads, for viewers that have no tokenizer."""
    tokenizer = model.tokenizer
    if tokenizer is None:
        return
    ids = {token for record in records if not is_oracle(record["task"]) for token in record["tokens"]}
    ids |= {
        token
        for record in records
        if not is_oracle(record["task"])
        for step in record["steps"]
        for _, token, _ in step
    }
    pieces = {str(token): tokenizer.decode([token], skip_special_tokens=False) for token in sorted(ids)}
    text = json.dumps(pieces, ensure_ascii=False, indent=0)
    write_whole(folder / "pieces.json", text + "\n")
