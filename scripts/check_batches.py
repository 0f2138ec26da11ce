"""Does a batch of ragged rows decode exactly as each row alone?  Random models, policies, caches, prompts and blocks.

    python -m scripts.check_batches --cases 10000        # exits 1 if any row differs

A row differs when its tokens, its number of forwards or any commit of its trace does.  Decisions closer than
``--tie`` (confidence of a committed cell against a cell left open, or top-1 against top-2) may legitimately fall the
other way when a batch rounds differently; such rows are counted apart, never as equal.
"""

from __future__ import annotations

from random import Random
from typing import Annotated

import torch
import typer
from tqdm import tqdm

from dllm_decode import sampler as sampler_module
from dllm_decode.config import GenerationConfig
from dllm_decode.models import Dream, DreamConfig, LLaDA, LLaDAConfig, NativeModel
from dllm_decode.result import GenerationResult
from dllm_decode.sampler import DiffusionSampler
from samplers import PolicyError

VOCABULARY, EOS, MASK = 40, 38, 39
POLICIES = (
    "topk:k=1",
    "topk:k=3,score=entropy",
    "topk:k=2,score=margin",
    "topk:k=2,score=random",
    "topk:steps=4",
    "threshold:threshold=0.4",
    "factor:factor=1.5",
    "frechet:margin=-0.2",
    "entropybound:gamma=1.0",
    "localleap:anchor_threshold=0.5,relaxed_threshold=0.2,radius=2",
    "adablock:delimiters=3/7/11,delimiter_threshold=0.05+threshold:threshold=0.4",
    "adablock:delimiters=5,delimiter_threshold=0.02+localleap:anchor_threshold=0.5,relaxed_threshold=0.2",
    "threshold:threshold=0.4+eotp",
    "ccd",
    "ccdds",
    "topk:k=1+sched:high=3.0,low=0.5",
    "threshold:threshold=0.6+sched:high=3.0,low=0.5",
    "topk:k=1+prophet",
    "freedave:drafts=3",
    "freedave:drafts=4,order=left_to_right",
    "defereos+threshold:threshold=0.4",
)


def random_model(family: str, seed: int) -> NativeModel:
    """A random model with sharp predictions, small enough for thousands of runs."""
    torch.manual_seed(seed)
    if family == "llada":
        config = LLaDAConfig(
            d_model=16, n_layers=2, n_heads=2, mlp_hidden_size=24, vocab_size=VOCABULARY, init_std=0.5,
            mask_token_id=MASK, max_sequence_length=128,
        )  # fmt: skip
        return NativeModel(LLaDA(config), mask_id=MASK, eos_ids=(EOS,), name="random llada")
    dream = DreamConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, intermediate_size=24,
        vocab_size=VOCABULARY, initializer_range=0.5, mask_token_id=MASK, max_position_embeddings=128,
    )  # fmt: skip
    return NativeModel(Dream(dream), mask_id=MASK, eos_ids=(EOS,), name="random dream")


def decode_as(sampler: DiffusionSampler, prompts: list[list[int]], rows: list[int]) -> GenerationResult:
    """Decode some of the prompts with the random sources they have among all."""
    original = sampler_module._generator
    sampler_module._generator = lambda seed, row: original(seed, rows[row])
    try:
        return sampler.generate([prompts[i] for i in rows])
    finally:
        sampler_module._generator = original


def same(batch: GenerationResult, row: int, alone: GenerationResult) -> bool:
    """Tokens, forwards, cost and every commit."""
    ours, theirs = batch.trace[row], alone.trace[0]
    commits = [(s.step, s.start, s.end, s.cells, s.new, s.length) for s in ours.steps]
    return (
        batch.sequences[row] == alone.sequences[0]
        and batch.nfe[row] == alone.nfe[0]
        and batch.rows_forwarded[row] == alone.rows_forwarded[0]
        and batch.tokens_forwarded[row] == alone.tokens_forwarded[0]
        and commits == [(s.step, s.start, s.end, s.cells, s.new, s.length) for s in theirs.steps]
    )


def first_gap(batch: GenerationResult, row: int, alone: GenerationResult) -> float:
    """How far apart the confidences around the first differing forward are: near 0 for a tie."""
    for a, b in zip(batch.trace[row].steps, alone.trace[0].steps, strict=False):
        if (a.cells, a.new) != (b.cells, b.new):
            confidences = sorted([*a.confidence, *b.confidence])
            gaps = [y - x for x, y in zip(confidences, confidences[1:], strict=False) if y > x]
            return min(gaps, default=0.0)
    return float("inf")


def main(
    cases: Annotated[int, typer.Option(min=1, help="Random batches to try.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of the first case.")] = 0,
    tie: Annotated[float, typer.Option(help="Confidence gap below which a difference counts as a tie.")] = 1e-5,
) -> None:
    """Compare batches with single runs; see the module's own text."""
    torch.set_num_threads(1)
    models = {(f, i): random_model(f, i) for f in ("llada", "dream") for i in range(4)}
    rows = refused = 0
    wrong: list[str] = []
    ties: list[str] = []
    for case in tqdm(range(seed, seed + cases), unit="case"):
        draw = Random(case)
        family = draw.choice(("llada", "dream"))
        policy, cache = draw.choice(POLICIES), draw.choice(("none", "prefix", "dual"))
        config = GenerationConfig(
            max_new_tokens=draw.randint(1, 14),
            block_length=draw.choice((None, 1, 2, 3, 5, 8)),
            temperature=draw.choice((0.0, 0.0, 0.0, 0.7)),
            seed=draw.randint(0, 9),
            early_stop=draw.random() < 0.5,
            guidance=draw.choice((0.0, 0.0, 0.0, 1.0)),
            branches=draw.choice(("auto", "expand", "tree")),
        )
        prompts = [[draw.randrange(EOS) for _ in range(draw.randint(1, 9))] for _ in range(draw.randint(2, 4))]
        try:
            sampler = DiffusionSampler(models[family, draw.randrange(4)], policy, cache, config)
        except PolicyError:  # this policy cannot work with this cache or temperature, and says so
            refused += 1
            continue
        batch = sampler.generate(prompts)
        for row in range(len(prompts)):
            alone = decode_as(sampler, prompts, [row])
            rows += 1
            if not same(batch, row, alone):
                name = f"case {case}: {family}, {policy}, cache {cache}, {config}, prompt {prompts[row]}"
                (ties if first_gap(batch, row, alone) < tie else wrong).append(name)
    print(f"{cases} batches ({refused} refused at construction), {rows} rows: {len(wrong)} wrong, {len(ties)} ties")
    for name in wrong[:20]:
        print("WRONG", name)
    for name in ties[:20]:
        print("tie  ", name)
    raise typer.Exit(1 if wrong else 0)


if __name__ == "__main__":
    typer.run(main)
