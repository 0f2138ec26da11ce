"""What ``generate`` prints of an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.rule import Rule

from dllm_decode.cli.prompts import Prompt

if TYPE_CHECKING:
    from dllm_decode.engine.result import GenerationResult
    from dllm_decode.engine.sampler import DiffusionSampler


def record(sampler: DiffusionSampler, prompt: Prompt, result: GenerationResult, row: int) -> dict[str, Any]:
    """The JSON object of one prompt; ``seconds`` is the time of the batch it was decoded in."""
    return {
        "prompt": prompt,
        "text": text_of(sampler, result, row),
        "tokens": result.sequences[row],
        "nfe": result.nfe[row],
        "full_forwards": result.full_forwards[row],
        "rows_forwarded": result.rows_forwarded[row],
        "tokens_forwarded": result.tokens_forwarded[row],
        "content_tokens": result.content_tokens[row],
        "until_eos_tokens": result.until_eos_tokens[row],
        "canvas_tokens": result.canvas_tokens[row],
        "tokens_per_forward": result.tokens_per_forward[row],
        "seconds": result.seconds,
    }


def text_of(sampler: DiffusionSampler, result: GenerationResult, row: int) -> str:
    """The answer; when infilling, the whole text, its given part included."""
    if result.texts is not None:
        return result.texts[row]
    infill = sampler.config.infill
    given = result.trace[row].prompt if infill else []
    return " ".join(map(str, [*given, *result.sequences[row][: None if infill else result.content_tokens[row]]]))


def print_text(out: Console, text: str, title: str) -> None:
    """An answer, under its title if it has one; a terminal gets no control characters."""
    if title:
        out.print(Rule(title, align="left"))
    if out.is_terminal:
        text = "".join(c for c in text if c in "\n\t" or c.isprintable() or ord(c) > 0x9F)
    out.file.write(text + "\n")
    out.file.flush()


def print_cost(note: Console, result: GenerationResult, row: int) -> None:
    """What an answer took, in a line."""
    note.print(
        f"NFE {result.nfe[row]}, content tokens per forward {result.tokens_per_forward[row]:.2f}, "
        f"{result.seconds:.2f} s",
        style="dim",
        highlight=False,
    )
