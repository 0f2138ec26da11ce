"""How cost grows: step time and memory against the row length N and the batch B, each next to its floor."""

from __future__ import annotations

from pathlib import Path

from dllm_decode.estimate import estimate_memory
from dllm_decode.roofline import Machine, Shape
from scripts.bench.measure import middle, random_llada, time_ours

LAYERS, WIDTH, VOCABULARY, BLOCK = 4, 512, 8192, 32
LENGTHS, BATCHES = (128, 256, 512, 1024), (1, 2, 4, 8)


def plot_growth(folder: Path, machine: Machine) -> None:
    """Measure and draw ``growth.png`` in ``folder``."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    model = random_llada(LAYERS, WIDTH, VOCABULARY, max(LENGTHS))
    shape = Shape.of(model.module.config, 4)
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), constrained_layout=True)
    for axis, name, points in ((axes[0], "row length N (B = 1)", LENGTHS), (axes[1], "batch B (N = 256)", BATCHES)):
        for cache, colour in (("none", "tab:red"), ("dual", "tab:blue")):
            measured, floors = [], []
            for point in points:
                slots, batch = (point, 1) if points is LENGTHS else (256, point)
                _, steps, _ = time_ours(model, slots - BLOCK, BLOCK, BLOCK, 4, cache, 0.0, batch)
                measured.append(middle(steps))
                tokens = BLOCK if cache == "dual" else slots
                floors.append(1e3 * shape.floor(machine, batch, tokens, slots, BLOCK // 2, cache == "dual"))
            axis.plot(points, measured, "o-", color=colour, label=f"{cache}: step")
            axis.plot(points, floors, "--", color=colour, label=f"{cache}: floor")
        axis.set(xlabel=name, ylabel="ms per step", xscale="log", yscale="log")
        axis.legend()
    for batch, colour in ((1, "tab:green"), (8, "tab:purple")):
        for cache, style in (("none", "-"), ("dual", "--")):
            total = [estimate_memory(shape, batch, n, BLOCK, cache).total / 2**20 for n in LENGTHS]
            axes[2].plot(LENGTHS, total, style, color=colour, label=f"B = {batch}, {cache}")
    axes[2].set(xlabel="row length N", ylabel="MiB: weights + cache + workspace", xscale="log", yscale="log")
    axes[2].legend()
    figure.suptitle(f"LLaDA, {LAYERS} layers, d {WIDTH}, vocabulary {VOCABULARY}, block {BLOCK}, fp32, CPU")
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "growth.png", dpi=110)
