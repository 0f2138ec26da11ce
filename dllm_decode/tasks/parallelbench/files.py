"""Reading the jsonl files of the original ParallelBench, which are not shipped here.

A file is one task: ``<group>/<task>.jsonl`` with the group's ``task_config.yaml`` beside it (prompts and metrics).
Each line is an object with ``input`` (fields of the prompt, and solved examples), ``answer`` (the right list, or an
object from which right answers are told) and ``metadata``.
Solved examples, turns of a conversation in the original, become the beginning of the prompt.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import yaml

from dllm_decode.errors import DllmError
from dllm_decode.tasks.base import Sample, Task
from dllm_decode.tasks.parallelbench.grids import check_square, check_sudoku
from dllm_decode.tasks.parallelbench.sentences import check_sentence, frame_answer
from dllm_decode.tasks.parallelbench.waiting_line import check_line, read_list

CONFIG = "task_config.yaml"
#: The original's metrics that can be computed without a service.
METRICS: dict[str, Callable[..., bool]] = {
    "list_match_score": partial(check_line, ""),
    "list_shuffle_score": partial(check_line, "shuffle"),
    **{f"list_random_{verb}_score": partial(check_line, f"{verb}_random") for verb in ("insert", "remove", "replace")},
    "latin_square_score": check_square,
    "sudoku_score": check_sudoku,
    "sentence_to_words_score": check_sentence,
}


class FileError(DllmError):
    """A file that is not one of ParallelBench's, or that cannot be scored here."""


@dataclass(frozen=True)
class FileTask(Task):
    """A task whose ``problems``, in the file's order, are the lines of the file at ``path``."""

    problems: tuple[dict[str, Any], ...] = ()
    path: str = ""

    def samples(self, rng: Random, split: str, n: int, template: int | None = None) -> list[Sample]:
        """``n`` different problems in random order; all of them are of the test split.

        Raises:
            FileError: another split, or more than the file holds.
        """
        if split != "test":
            raise FileError(f"{self.path} holds test problems only, but split {split!r} was asked for; use 'test'.")
        if n > len(self.problems):
            raise FileError(f"{self.path} holds {len(self.problems)} problems, but {n} were asked for; ask for fewer.")
        chosen = rng.sample(self.problems, len(self.problems))[:n]  # a longer draw begins with the shorter one
        return [Sample(self.name, 0, problem["prompt"], problem["label"], problem) for problem in chosen]


def read_task(path: str | Path, name: str, strict: bool = False) -> FileTask:
    """Make a task of one of the original's files.

    Args:
        path: the jsonl file; its folder's ``task_config.yaml`` is read too.
        name: of the task.
        strict: accept only the form asked for.

    Raises:
        FileError: no such file, not a ParallelBench file, or a metric that needs a service.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        found = sorted(p.name for p in path.glob("*.jsonl"))
        raise FileError(f"{path} is a folder; give one of its files" + (f", such as {found[0]}." if found else "."))
    lines = [line for line in _text(path, "give one of ParallelBench's jsonl files").splitlines() if line.strip()]
    if not lines:
        raise FileError(f"{path} is empty; give one of ParallelBench's jsonl files.")
    metric, wording = _config(path)
    problems = []
    for number, line in enumerate(lines, 1):
        try:
            problems.append(_problem(json.loads(line), metric, wording))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            what = f"no field {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
            raise FileError(
                f"line {number} of {path} is no {metric.removesuffix('_score')} problem of ParallelBench ({what}); "
                "give one of its jsonl files as it was published."
            ) from error
    return FileTask(
        name=name,
        description=f"ParallelBench's {path.parent.name}/{path.stem}",
        max_new_tokens=128 if "n15" in path.parent.name else 48 if metric.startswith("list") else 64,
        draw=_no_draw,
        prompt=lambda problem, template: str(problem["prompt"]),
        answer=lambda problem, rng: str(problem["label"]),
        accepts=partial(METRICS[metric], strict=strict),
        templates=1,
        problems=tuple(problems),
        path=str(path),
    )


def _no_draw(rng: Random, split: str, short: bool) -> dict[str, Any]:
    raise FileError("problems of a file cannot be made up; ask for samples of the task instead.")


def _text(path: Path, hint: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise FileError(f"cannot read {path} ({why}); {hint}.") from error


def _config(path: Path) -> tuple[str, str]:
    """The task's metric and wording, as the configuration beside the file has them."""
    beside = path.parent / CONFIG
    try:
        configs = yaml.safe_load(_text(beside, "fetch it with the file: it says how the task is asked and scored"))
    except yaml.YAMLError as error:
        raise FileError(f"cannot read {beside} ({str(error).splitlines()[0]}); fetch it again.") from error
    entries = configs.items() if isinstance(configs, dict) else ()
    config = next((c for key, c in entries if str(key).rsplit("/", 1)[-1] == path.stem), None)
    if not isinstance(config, dict) or not isinstance(config.get("prompt"), str):
        raise FileError(f"{beside} knows no task {path.stem!r}; keep the original's names, such as copy.jsonl.")
    metric = str(config.get("metric"))
    if metric not in METRICS:
        works = ", ".join(METRICS)
        raise FileError(f"{path} is scored by {metric}, which needs services that are not used here; use {works}.")
    return metric, config["prompt"].replace("\\n", "\n")


def _problem(record: Any, metric: str, wording: str) -> dict[str, Any]:
    """A line of the file as a problem for the checks, with its prompt and one right answer."""
    if not isinstance(record, dict) or not isinstance(record.get("input"), dict):
        raise ValueError("no object with an 'input' object")
    asked, answer = record["input"], record["answer"]
    problem = _facts(asked, answer, metric)
    examples = [(e["input"], e["answer"]) for e in asked.get("icl_examples", ())]
    turns = [f"{wording.format(**given).strip()}\n{_label(right)}\n\n" for given, right in examples]
    problem["prompt"] = "".join(turns) + wording.format(**asked).strip()
    problem["label"] = _label(answer) or frame_answer(problem, Random(0))  # most word sets come without a sentence
    return problem


def _label(answer: Any) -> str:
    """The right answer as text, empty if the file has none."""
    if isinstance(answer, Mapping):
        return str(answer.get("example", ""))
    if not isinstance(answer, str):
        raise ValueError(f"an answer of type {type(answer).__name__}")
    return answer


def _facts(asked: Mapping[str, Any], answer: Any, metric: str) -> dict[str, Any]:
    """What the checks read."""
    if metric == "sentence_to_words_score":
        return {"words": [str(word) for word in answer["words"]]}
    if metric == "latin_square_score":
        rows = str(answer["example"]).split("\n")
        return {"symbols": [str(s) for s in answer["symbols"]], "square": [row.split(",") for row in rows]}
    if metric == "sudoku_score":
        return {"sudoku": str(asked["sudoku"]), "solution": tuple(str(answer).split("\n"))}
    facts = {"items": read_list(asked["context"]), "expected": read_list(_label(answer))}
    if isinstance(answer, Mapping) and list(answer["input"]) != facts["items"]:
        raise ValueError("the answer is for another list than the prompt")
    return facts | ({"new": str(asked["word"])} if "word" in asked else {})
