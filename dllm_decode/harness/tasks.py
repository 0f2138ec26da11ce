"""The bundled and the ParallelBench-style tasks as tasks of the harness: ``dllm/copy``, ``parallelbench/shuffle``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from dllm_decode.errors import DllmError
from dllm_decode.files import write_whole
from dllm_decode.tasks import TASKS, Sample, get_task, samples, score
from dllm_decode.tasks.parallelbench import is_ours

PREFIX = "dllm/"
SAMPLES = 100


class _Function(str):
    """A function that the harness looks up by its dotted name."""


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(_Function, lambda dumper, name: dumper.represent_scalar("!function", str(name)))


def own_task(name: str) -> str | None:
    """Our task of a name given to the harness, or None if it is not one of ours.

    Raises:
        DllmError: the name begins like ours, but there is no such task.
    """
    if name == PREFIX + "all":
        return "all"
    if name.startswith(PREFIX):
        return get_task(name.removeprefix(PREFIX)).name
    return get_task(name).name if is_ours(name) else None


def harness_name(task: str) -> str:
    """What the harness calls a task of ours; its names become names of files."""
    name = task if is_ours(task) else PREFIX + task
    return re.sub(r"[^\w.-]+", "_", name.replace(":", "_"))


def write_config(task: str, folder: Path) -> list[Path]:
    """Write the harness's configuration of one of our tasks (or of ``"all"`` bundled ones); returns the files."""
    paths = []
    for name in list(TASKS) if task == "all" else [task]:
        config = {
            "task": harness_name(name),
            "custom_dataset": _Function("dllm_decode.harness.tasks.documents"),
            "dataset_kwargs": {"dllm_task": name},
            "output_type": "generate_until",
            "test_split": "test",
            "doc_to_text": "prompt",
            "doc_to_target": "answer",
            "process_results": _Function("dllm_decode.harness.tasks.process_results"),
            "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": get_task(name).max_new_tokens},
            "metric_list": [{"metric": "accuracy", "aggregation": "mean", "higher_is_better": True}],
            "num_fewshot": 0,
            "metadata": {"version": 1},
        }
        path = folder / f"{harness_name(name)}.yaml"
        write_whole(path, yaml.dump(config, Dumper=_Dumper, sort_keys=False))
        paths.append(path)
    return paths


def documents(dllm_task: str, **metadata: Any) -> dict[str, Any]:
    """The data set of one of our tasks; the harness calls this.

    Args:
        dllm_task: its name.
        **metadata: ``--metadata`` of the harness, of which ``samples``, ``problem_seed``, ``split`` and ``template``
            are read.

    Raises:
        DllmError: one of them is out of range.
    """
    count, seed = metadata.get("samples", SAMPLES), metadata.get("problem_seed", 0)
    for name, value, least in (("samples", count, 1), ("problem_seed", seed, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise DllmError(f"--metadata says {name}={value!r}; give a whole number from {least} up.")
    drawn = samples(dllm_task, metadata.get("split", "test"), count, seed, metadata.get("template"))
    rows = [
        {
            "task": sample.task,
            "index": at,
            "template": sample.template,
            "prompt": sample.prompt,
            "answer": sample.answer,
        }
        for at, sample in enumerate(drawn)
    ]
    # The scorer reads the problem, which a table cannot hold as it is (tuples, mixed types): it is drawn again.
    _DRAWN.update({(sample.task, sample.prompt): sample for sample in drawn})
    from datasets import Dataset  # comes with the harness

    return {"test": Dataset.from_list(rows)}


_DRAWN: dict[tuple[str, str], Sample] = {}


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """The score of one answer; the harness calls this."""
    return {"accuracy": float(score(_DRAWN[doc["task"], doc["prompt"]], results[0]))}
