"""Train the bundled model from nothing, on CPU or GPU.

    python -m scripts.train_tiny --minutes 100 --processes 2

Interrupted runs continue from ``--work`` (weights, both optimisers, running average, mix). Every evaluation prints a
validation table and exports weights and tokenizer to ``--out``.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated

import torch
import torch.distributed as dist
import typer
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from dllm_decode.lab.workers import end_with_parent
from scripts.tiny.data import ROUND, Steps
from scripts.tiny.masks import Batch
from scripts.tiny.mix import parse_emphasis, parse_tasks
from scripts.tiny.model import build_model, export, task_losses
from scripts.tiny.optim import Optimizers
from scripts.tiny.rows import LONG_SHORT_SHARE, NAMES, SHOTS_SHARE
from scripts.tiny.settings import Run, learning_rate
from scripts.tiny.validate import accuracy

EXTRA = 2 + 2 * len(NAMES)  # travels with the gradient: loss weight, seconds, loss and weight per task


class Trainer:
    """One process of a run; all processes hold the same weights and take the same decisions."""

    def __init__(self, run: Run, rank: int) -> None:
        """Build everything, and continue from the last checkpoint when there is one."""
        self.run, self.rank = run, rank
        shape = run.width, run.layers, run.heads, run.inner, run.seed, run.attention_block
        self.model, self.average = build_model(*shape).to(run.device), build_model(*shape).to(run.device)
        if run.start is not None:
            self.model.load_state_dict(load_file(run.start / "model.safetensors", device=run.device))
        self.model.attention = self.average.attention = "sdpa"  # the fused ones have no backward pass
        self.optim = Optimizers(self.model, EXTRA)
        if run.compiled:
            for block in self.model.model.transformer.blocks:
                block.compile(dynamic=True)
        self.step, self.seconds, self.rounds, self.seen = 0, 0.0, 0, 0
        self.accuracy, self.last = [0.0 if run.start is None else 1.0] * len(NAMES), 0.0
        self.emphasis = parse_emphasis(run.emphasis)
        self.tasks = parse_tasks(run.tasks)
        if (path := run.work / "checkpoint.pt").exists():
            saved = torch.load(path, map_location=run.device, weights_only=True)
            self.model.load_state_dict(saved["model"])
            self.optim.load_state_dict(saved["optim"])
            self.step, self.seconds, self.rounds, self.seen = saved["clock"]
            self.accuracy = saved["accuracy"]

    @property
    def progress(self) -> float:
        """Share of the budget that is spent."""
        if self.run.steps:
            return self.step / self.run.steps
        return self.seconds / (60 * self.run.minutes)

    def mix(self) -> list[float]:
        """Weight of each task: what is not solved yet is shown more often."""
        weights = zip(NAMES, self.accuracy, strict=True)
        return [
            self.emphasis.get(name, 1.0) * (self.run.floor + 2 * (1 - accuracy)) if name in self.tasks else 0.0
            for name, accuracy in weights
        ]

    def _plan(self) -> Tensor:
        """What the next steps are drawn by, see `Steps`."""
        return torch.tensor([self.progress, *self.mix()])

    def train(self) -> None:
        """Run to the end of the budget."""
        run, due, window = self.run, self.seconds + 60 * self.run.evaluate_every, torch.zeros(2, len(NAMES))
        bar = tqdm(
            total=100,
            disable=self.rank > 0 or None,
            unit="%",
            bar_format="{l_bar}{bar}| {elapsed} {postfix}",
            mininterval=10,
        )
        if run.start is not None and not self.step:  # the mix follows what the given weights cannot do yet
            self._evaluate(window)
        saved = self.seconds
        plan = self._plan().share_memory_()
        shares = run.full_share, run.late_full_share
        name = f"{run.seed}/{self.rank}"
        steps = Steps(
            name,
            self.rounds,
            plan,
            run.tokens,
            shares,
            run.stale_share,
            run.shots_share,
            run.attention_block,
            parse_emphasis(run.drills),
            run.long_short_share,
        ).draw(run.workers, pin=run.device != "cpu")
        while self.progress < 1:
            plan.copy_(self._plan())
            self.rounds += 1
            before = time.perf_counter()
            for batch in islice(steps, ROUND):
                window += self._update(batch, before)
                before = time.perf_counter()
                bar.n = round(100 * self.progress, 1)
                bar.set_postfix_str(f"step {self.step} loss {window[0].sum() / window[1].sum():.3f}", refresh=False)
                bar.update(0)
            if self.seconds >= due or self.progress >= 1:
                due = self.seconds + 60 * run.evaluate_every
                self._evaluate(window)
                window.zero_()
                self._save()
                if self.rank == 0:
                    export(self.average, run.out)
                saved = self.seconds
            elif self.seconds >= saved + 60 * run.save_every:
                self._save()
                saved = self.seconds
        bar.close()

    def _update(self, batch: list[Batch], before: float) -> Tensor:
        """One step, begun (with drawing) at `before`; returns loss and weight per task, summed over processes."""
        optim, run = self.optim, self.run
        optim.flat.zero_()
        own = torch.zeros(2, len(NAMES), device=run.device)
        with torch.autocast(torch.device(run.device).type, torch.bfloat16):
            for part in batch:
                sums = task_losses(self.model, part.to(run.device))
                sums[0].sum().backward()
                own += sums.detach()
                self.seen += part.tokens.numel() * run.processes
        optim.extra[1] = self.last  # summed over the processes, so that all read the same clock
        optim.extra[2:] = own.flatten()
        optim.extra[0] = own[1].sum()
        if run.processes > 1:
            dist.all_reduce(optim.flat)
        optim.gradient.div_(optim.extra[0])
        lr = learning_rate(run, self.progress, self.step)
        optim.step(lr, 0.15 * lr)
        if self.step % 4 == 0:
            optim.average(0.998**4 if self.step > 1000 else 0.98)
        self.step += 1
        self.seconds += float(optim.extra[1]) / run.processes
        self.last = time.perf_counter() - before
        return optim.extra[2:].view(2, -1).cpu().clone()

    @torch.no_grad()
    def _evaluate(self, window: Tensor) -> None:
        """Accuracy of the averaged weights per task, shared among the processes; sets the mix."""
        torch._foreach_copy_(list(self.average.parameters()), self.optim.ema)
        table = torch.zeros(2, len(NAMES))
        with torch.autocast(torch.device(self.run.device).type, torch.bfloat16):
            for name in self.tasks[self.rank :: self.run.processes]:
                table[:, NAMES.index(name)] = torch.tensor(
                    accuracy(self.average, name, "valid", self.run.samples, self.step)
                )
        if self.run.processes > 1:
            dist.all_reduce(table)
        self.accuracy = table[0].tolist()
        if self.rank == 0:
            losses = (window[0] / window[1].clamp(min=1e-6)).tolist()
            tqdm.write(
                f"\n{self.seconds / 60:.1f} min  step {self.step}  {self.seen / 1e6:.1f} M tokens "
                f"({self.seen / max(self.seconds, 1e-9):.0f}/s)  "
                f"lr {learning_rate(self.run, self.progress, self.step):.4f}  "
                f"mean accuracy {100 * sum(self.accuracy) / len(self.tasks):.1f}"
            )
            for name, right, spent, loss in zip(NAMES, *table.tolist(), losses, strict=True):
                if name in self.tasks:
                    tqdm.write(f"  {name:15s} {100 * right:5.1f} %  {spent:5.1f} forwards  loss {loss:.3f}")

    def _save(self) -> None:
        if self.rank > 0:
            return
        self.run.work.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(),
            "optim": self.optim.state_dict(),
            "clock": (self.step, self.seconds, self.rounds, self.seen),
            "accuracy": self.accuracy,
        }
        torch.save(state, self.run.work / "checkpoint.tmp")
        (self.run.work / "checkpoint.tmp").replace(self.run.work / "checkpoint.pt")


def _work(rank: int, run: Run) -> None:
    torch.set_num_threads(1 if run.device == "cpu" else 4)
    if run.processes > 1:
        threading.Thread(target=end_with_parent, daemon=True).start()
        if hasattr(os, "setsid"):
            os.setsid()  # Linux shares cores among sessions first: two processes of one session get one share
        dist.init_process_group("gloo", rank=rank, world_size=run.processes)
    try:
        Trainer(run, rank).train()
    finally:
        if run.processes > 1:
            dist.destroy_process_group()


def main(
    out: Annotated[Path, typer.Option(help="where weights, config and tokenizer go")] = Path(
        "dllm_decode/weights/tiny"
    ),
    work: Annotated[Path, typer.Option(help="where the checkpoint of a run lives")] = Path("runs/tiny"),
    minutes: Annotated[float, typer.Option(help="training time, validation left out")] = 100.0,
    steps: Annotated[int, typer.Option(help="a budget of steps instead of minutes (0: minutes)")] = 0,
    processes: Annotated[int, typer.Option(help="processes, one thread each (CPU only)")] = 2,
    tokens: Annotated[int, typer.Option(help="tokens per step and process; doubled in the second half")] = 3000,
    lr: Annotated[float, typer.Option(help="Muon's learning rate; AdamW's is 0.15 of it")] = 0.01,
    hold: Annotated[float, typer.Option(help="share of the budget before the rate falls")] = 0.1,
    width: int = 128,
    layers: int = 6,
    heads: int = 4,
    inner: int = 384,
    seed: int = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto")] = "auto",
    evaluate_every: Annotated[float, typer.Option(help="minutes between validation tables")] = 2.0,
    save_every: Annotated[float, typer.Option(help="minutes between checkpoints")] = 2.0,
    samples: Annotated[int, typer.Option(help="validation samples per task")] = 32,
    full_share: Annotated[float, typer.Option(help="share of rows on a canvas longer than their answer")] = 0.25,
    late_full_share: Annotated[float, typer.Option(help="the same in the last 40 % of the budget")] = 0.5,
    stale_share: Annotated[float, typer.Option(help="share of batches decoded as under a stale cache")] = 0.5,
    floor: Annotated[float, typer.Option(help="least weight of a task in the mix")] = 0.1,
    emphasis: Annotated[str, typer.Option(help="factors of tasks in the mix, such as shuffle=4,lines=2")] = "",
    shots_share: Annotated[float, typer.Option(help="share of rows behind solved problems")] = SHOTS_SHARE,
    drills: Annotated[str, typer.Option(help="shares of tasks' rows that are look-ups alone, such as trip=0.3")] = "",
    long_short_share: Annotated[
        float, typer.Option(help="share of short problems among a long task's")
    ] = LONG_SHORT_SHARE,
    tasks: Annotated[str, typer.Option(help="'all', 'long', 'all,long' or names with commas")] = "all",
    start: Annotated[Path | None, typer.Option(help="weights to start from, instead of nothing")] = None,
    attention_block: Annotated[
        int | None, typer.Option(help="train a block-causal model with attention blocks of so many cells")
    ] = None,
    workers: Annotated[int, typer.Option(help="processes that draw the problems (0: the training one)")] = 0,
    compiled: Annotated[bool, typer.Option(help="compile the blocks (a minute first, then 1.4 times as fast)")] = True,
) -> None:
    """Train the bundled model; continues where an interrupted run in WORK stopped."""
    parse_emphasis(emphasis)
    parse_emphasis(drills)
    parse_tasks(tasks)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    run = Run(**{key: value for key, value in locals().items() if key in Run.__dataclass_fields__})
    if device != "cpu":
        run = replace(run, processes=1)
    if run.processes == 1:
        _work(0, run)
        return
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(20000 + os.getpid() % 20000))
    torch.multiprocessing.spawn(_work, (run,), nprocs=run.processes, daemon=True)


if __name__ == "__main__":
    typer.run(main)
