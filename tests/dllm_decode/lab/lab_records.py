"""A made-up comparison in the run folder's format: no model, any number of policies, prompts as nasty as wanted."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from dllm_decode.lab.setting import EGP, plan, surroundings

MASK, EOS = 0, 1
WORDS = [f" {letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
PIECES = {"0": "<|mask|>", "1": "<|eos|>", "2": "\n", **{str(i): word for i, word in enumerate(WORDS, 3)}}
HOSTILE = (
    "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=2> <!-- \"quoted' & "
    "\u2028\u202e@@title@@ \U0001f600\x1b[31m"
)
POLICIES = ("threshold:threshold=0.6", "threshold:threshold=0.9", "topk:k=2", "topk:k=4", "factor")
SPEED = {
    "static": 1,
    "threshold:threshold=0.6": 5,
    "threshold": 3,
    "topk:k=2": 2,
    "topk:k=4": 4,
    "factor": 3,
    "egp": 8,
}


def write_run(
    folder: Path,
    policies: tuple[str, ...] = POLICIES,
    tasks: str = "copy,sort,lines",
    caches: tuple[str, ...] = ("none", "dual"),
    samples: int = 4,
    templates: tuple[int, ...] = (0, 1),
    prompt: str | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Write ``setting.json``, ``pieces.json`` and ``records.jsonl``.

    Args:
        folder: made if need be.
        policies: besides static decoding; faster ones are wrong more often.
        tasks, caches, samples, templates: of the comparison.
        prompt: put in front of every prompt, answer and expected answer.
        seed: of everything random.

    Returns:
        The records.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = plan("toy", policies, tasks, caches=caches, samples=samples, templates=templates)
    described = {"model_revision": None, "mask_id": MASK, "eos_ids": [EOS], "device": "cpu", "dtype": "float32"}
    setting = {**made.to_dict(), **described, "oracles": {}, **surroundings()}
    records = [
        _record(Random(f"{seed}|{task}|{template}|{sample}"), point, cache, task, template, sample, prompt)
        for cache in caches
        for task in made.tasks
        for point in (*made.points, EGP)
        for sample in range(samples)
        for template in templates
    ]
    (folder / "setting.json").write_text(json.dumps(setting))
    (folder / "pieces.json").write_text(json.dumps(PIECES))
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return records


def _record(
    random: Random, point: Any, cache: str, task: str, template: int, sample: int, nasty: str | None
) -> dict[str, Any]:
    """One sample; what is asked depends on the task, template and number alone, what is answered on the policy too."""
    lines = 3 if task == "lines" else 1
    wanted = [token for _ in range(lines) for token in (*random.choices(range(3, 29), k=random.randint(4, 6)), 2)][:-1]
    speed = SPEED.get(point.label, 2)
    luck = Random(f"{point.label}|{cache}|{task}|{template}|{sample}")
    answer = list(wanted)
    wrong = point.label not in ("static", "egp") and luck.random() < 0.08 * speed
    if wrong:
        answer[luck.randrange(len(answer))] = 28
    size = 48 if task == "lines" else 16
    tokens = [*answer, *[EOS] * (size - len(answer))]
    steps, blocks = _decode(luck, tokens, len(answer), speed, revokes=point.label == "factor")
    text = "".join(PIECES[str(token)] for token in answer)
    prompt = (nasty or "") + f"{task} {template}:" + "".join(PIECES[str(t)] for t in wanted)
    nfe = len(steps)
    return {
        "key": f"{point.label}|{cache}|{task}|{template}|0|{sample}",
        "policy": point.policy,
        "label": point.label,
        "family": point.family,
        "cache": cache,
        "task": task,
        "template": template,
        "sample": sample,
        "seed": 0,
        "correct": int(not wrong),
        "strict": int(not wrong),
        "n_prompt": 12,
        "n_canvas": size,
        "n_until_eos": len(answer) + 1,
        "n_content": len(answer),
        "nfe": nfe,
        "full_forwards": len({tuple(block) for block in blocks}),
        "rows_forwarded": nfe,
        "tokens_forwarded": nfe * (size + 12),
        "nfe_content": sum(any(cell < len(answer) for cell, *_ in step) for step in steps),
        "revokes": sum(token == MASK for step in steps for _, token, _ in step),
        "early_exit": False,
        "wall_s": 0.01 * nfe,
        "model_s": 0.009 * nfe,
        "policy_s": 0.001 * nfe,
        "batch": 4,
        "prompt": prompt,
        "answer": (nasty or "") + text,
        "expected": (nasty or "") + "".join(PIECES[str(t)] for t in wanted),
        "tokens": tokens,
        "steps": steps,
        "blocks": blocks,
    }


def _decode(
    random: Random, tokens: list[int], content: int, speed: int, revokes: bool
) -> tuple[list[list[list[Any]]], list[list[int]]]:
    """Decode blocks of 16 in a random order, up to the block in which the text ends; the rest is filled."""
    steps: list[list[list[Any]]] = []
    blocks: list[list[int]] = []
    for start in range(0, min(len(tokens), content // 16 * 16 + 16), 16):
        order = list(range(start, start + 16))
        random.shuffle(order)
        while order:
            now, order = order[:speed], order[speed:]
            step: list[list[Any]] = [[cell, tokens[cell], round(random.uniform(0.4, 1), 6)] for cell in now]
            if revokes and order and len(blocks) % 3 == 2:  # a cell goes back to mask, and comes again later
                back = next(cell for cell, token, _ in steps[-1] if token != MASK)
                step.append([back, MASK, 0.2])
                order.append(back)
            steps.append(step)
            blocks.append([start, start + 16])
    written = blocks[-1][1]
    steps[-1] += [[cell, tokens[cell], 0.0] for cell in range(written, len(tokens))]
    return steps, blocks


def canvas_after(record: dict[str, Any], upto: int) -> list[int]:
    """The canvas after some forwards, by the plainest means."""
    canvas = [MASK] * record["n_canvas"]
    for step in record["steps"][:upto]:
        for cell, token, _ in step:
            canvas[cell] = token
    return canvas
