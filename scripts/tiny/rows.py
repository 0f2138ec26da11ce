"""Training rows of the bundled model: which problem, on which canvas.

A row is ``bos, prompt, sep, answer, eos ... eos``; the answer and its end tokens are the canvas.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from string import ascii_lowercase

from dllm_decode.tasks import TASKS, long_tasks
from dllm_decode.tasks.tokenizer import BOS_ID, EOS_ID, SEP_ID, encode

SHORT = tuple(TASKS)
NAMES = (*SHORT, *long_tasks())
NEWLINE = encode("\n")
SHOTS_SHARE, SHORT_SHARE = 0.06, 0.12
LONG_SHORT_SHARE = 0.4  # what a long task is made of is learned cheapest from short problems
LONGEST_PROMPT = 512


@dataclass(frozen=True)
class Row:
    """One training row before masking.

    Attributes:
        ids: token ids up to and including the first end token.
        start: index of the first answer cell.
        task: index into ``NAMES``.
        cell: the answer cell to leave open in half of the one-cell rows, or -1 (the place of a free replacement).
        total: length with the end tokens that fill the canvas.
    """

    ids: list[int]
    start: int
    task: int
    cell: int
    total: int


def _canvas(rng: Random, name: str, content: int, full_share: float) -> int:
    """Cells of the canvas of one row: tight, as the task suggests, or any."""
    draw = rng.random()
    if draw >= full_share:
        return content + rng.choice((0, 0, 1, 2, 4))
    if draw < 0.7 * full_share:
        return max(content, TASKS[name].max_new_tokens)
    if draw < 0.95 * full_share:
        return max(content, 8 * rng.randint(2, 8))
    return max(content, 8 * rng.randint(8, 64))


def make_drill(rng: Random, name: str) -> Row:
    """Look-ups and nothing else, counted for the task `name`: pairs by letter, then the same in an order asked for.

    What a letter stands for is found by its content; the short tasks never ask for that, and a long answer does it
    once in a dozen cells, too rarely for a short training.
    """
    keys = rng.sample(ascii_lowercase, rng.randint(3, 12))
    if numbers := rng.random() < 0.5:
        pairs = [f"{key}={rng.randint(0, 20)}" for key in keys]  # as programs and days are written
    else:
        pairs = [f" {key}>{rng.choice(ascii_lowercase)}" for key in keys]  # as flights are
    joint = rng.choice(";\n" if numbers else (";", ""))
    order = rng.sample(range(len(keys)), len(keys))
    asked = "".join(f" {keys[at]}" if joint else keys[at] for at in order)
    head = [BOS_ID, *encode(f"set:{joint.join(pairs)}\n{asked}"), SEP_ID]
    answer = encode((joint or ";").join(pairs[at] for at in order))
    return Row([*head, *answer, EOS_ID], len(head), NAMES.index(name), -1, len(head) + len(answer) + 1)


def make_row(
    rng: Random,
    name: str,
    full_share: float,
    shots_share: float = SHOTS_SHARE,
    long_short_share: float = LONG_SHORT_SHARE,
) -> Row:
    """Draw a training problem of one task, sometimes after solved ones.

    Of a long task's problems `long_short_share` are short.
    """
    spec = TASKS[name]
    sample = spec.sample(rng, "train", short=rng.random() < (SHORT_SHARE if name in SHORT else long_short_share))
    prompt, answer = encode(sample.prompt), encode(sample.answer)
    shots: list[int] = []
    if rng.random() < shots_share:
        for _ in range(rng.randint(1, 6)):
            other = spec if rng.random() < 0.6 else TASKS[rng.choice(SHORT)]
            shot = other.sample(rng, "train", sample.template if other is spec else None)
            turn = [*encode(shot.prompt), SEP_ID, *encode(shot.answer), *NEWLINE]
            if len(shots) + len(turn) + len(prompt) > LONGEST_PROMPT:
                break
            shots += turn
    head = [BOS_ID, *shots, *prompt, SEP_ID]
    content = len(answer) + 1
    cell = sample.meta["index"] if name == "replace_random" else -1
    total = len(head) + _canvas(rng, name, content, full_share)
    return Row([*head, *answer, EOS_ID], len(head), NAMES.index(name), cell, total)
