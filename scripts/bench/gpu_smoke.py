"""First light on a GPU in a few minutes: do the kernels agree, does a recorded step, what does one shape cost?

``python -m scripts.bench_decode --gpu --smoke`` prints what it finds as it goes, and one line to paste at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from rich.console import Console
from torch import Tensor

from dllm_decode.attention import BACKENDS
from dllm_decode.config import GenerationConfig
from dllm_decode.engine.cost import Machine
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.errors import DllmError
from dllm_decode.models import ForwardInput, LLaDA, LLaDAConfig, NativeModel
from samplers import TopK
from scripts.bench.gpu import Plan, random_model, rows_of

#: Largest relative error of logits against the reference back end of the same dtype.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}


def small_model(device: torch.device, dtype: torch.dtype) -> NativeModel:
    """Four heads of 128, grouped in two, two layers: what the kernels see of a large model."""
    torch.manual_seed(0)
    config = LLaDAConfig(
        d_model=512, n_layers=2, n_heads=4, n_kv_heads=2, mlp_hidden_size=768, vocab_size=1000, mask_token_id=999
    )
    return NativeModel(LLaDA(config).to(device=device, dtype=dtype), mask_id=999, name="smoke")  # type: ignore[call-arg]


@torch.no_grad()
def block_step(model: NativeModel, attention: str, seed: int) -> Tensor:
    """Logits of one block step of ragged rows over a cache that an opening forward has filled."""
    model.module.attention = "reference"
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(40, 200, (5,), generator=generator)
    tokens = torch.randint(0, 999, (5, int(lengths.max())), generator=generator)
    cache, rows = model.new_cache(5, int(lengths.max())), torch.arange(5)
    slots = torch.arange(tokens.shape[1]).expand_as(tokens)
    sent = [x.to(model.device) for x in (tokens, slots * (slots < lengths[:, None]), lengths, lengths)]
    model.hidden(
        ForwardInput(*sent, cache=cache, rows=rows.to(model.device)), torch.zeros(1, dtype=torch.long).to(model.device)
    )
    model.module.attention = attention
    widths = torch.tensor([32, 17, 32, 1, 9])
    columns = torch.arange(32)
    real = columns < widths[:, None]
    where = ((lengths - widths)[:, None] + columns) * real
    window = torch.randint(0, 999, (5, 32), generator=generator)
    cells = real.flatten().nonzero()[:, 0].to(model.device)
    sent = [x.to(model.device) for x in (window, where, widths, lengths)]
    return model.head(model.hidden(ForwardInput(*sent, cache=cache, rows=rows.to(model.device)), cells)).float()


def kernel_errors(
    device: torch.device, dtypes: tuple[torch.dtype, ...]
) -> Iterator[tuple[str, torch.dtype, float | str]]:
    """Each back end's largest relative error against ``reference``, or why it does not serve the step."""
    for dtype in dtypes:
        model = small_model(device, dtype)
        for name in BACKENDS:
            if name == "reference":
                continue
            worst = 0.0
            try:
                for seed in range(5):
                    exact = block_step(model, "reference", seed)
                    worst = max(worst, float((block_step(model, name, seed) - exact).norm() / exact.norm()))
            except DllmError as error:
                yield name, dtype, str(error)
            else:
                yield name, dtype, worst


def recorded_equals_eager(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether ragged rows decode to the same tokens with recorded steps and without."""
    model = small_model(device, dtype)
    prompts = [torch.randint(0, 999, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (5, 60, 131)]
    config = GenerationConfig(max_new_tokens=64, block_length=32, early_stop=False)
    sampler = DiffusionSampler(model, TopK(k=2), cache="dual", config=config)
    found = []
    for model.capture in (False, True, True):  # the second run records, the third only replays
        found.append(sampler.generate(prompts).sequences)
    return found[0] == found[1] == found[2]


def smoke(plan: Plan, machine: Machine, where: str) -> list[str]:
    """Run everything; returns a sentence per thing that is wrong."""
    console, wrong, said = Console(width=150), [], []
    dtypes = (torch.float32,) if plan.dry else (torch.float32, torch.bfloat16)
    for name, dtype, error in kernel_errors(plan.device, dtypes):
        short = str(dtype).removeprefix("torch.")
        if isinstance(error, str):
            console.print(f"{name}, {short}: {error}")
            continue
        console.print(f"{name}, {short}: relative error {error:.1e}")
        said.append(f"{name} {short} {error:.0e}")
        if not error <= TOLERANCE[dtype]:
            wrong.append(f"{name} in {short}: relative error {error:.1e}, at most {TOLERANCE[dtype]:g} is allowed.")
    # In fp32: padding to a bucket may change the matrix product's kernel, and in bf16 its last digit decides ties.
    equal = recorded_equals_eager(plan.device, torch.float32)
    console.print(f"recorded steps equal eager ones: {equal}")
    if not equal:
        wrong.append("recorded steps decode other tokens than eager ones.")
    plan = replace(plan, lengths=plan.lengths[:1], batches=(1,)) if plan.dry else replace(plan, lengths=(1024,))
    model, length = random_model("llada", plan), plan.lengths[0]
    found = {}
    for model.capture in (True, False):
        *_, found[model.capture] = rows_of(model, "llada", plan, machine, length, 1, "dual", textbook=model.capture)
    step, eager = found[True], found[False]
    book = "-" if step.textbook_ms is None else f"{step.textbook_ms:.2f}"
    console.print(
        f"[bold]{where} | {', '.join(said)} | recorded equal: {equal} | llada dual step B=1 N={length}: "
        f"{step.ms:.2f} ms, eager {eager.ms:.2f}, textbook {book}, floor {step.floor_ms:.2f} | "
        f"{'dry run, the figures mean nothing' if plan.dry else 'passed' if not wrong else 'FAILED'}[/bold]"
    )
    return wrong
