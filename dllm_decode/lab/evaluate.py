"""Accuracy and cost of one policy, task by task: a comparison with nothing to compare, and no folder left behind.

>>> from dllm_decode.lab.evaluate import evaluate
>>> report = evaluate("tiny", "threshold", ["copy", "sort"], samples=20)  # doctest: +SKIP
>>> report.tasks["copy"]["accuracy"]  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dllm_decode.engine.load import load_model
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.lab.metrics import figures
from dllm_decode.lab.problems import is_oracle
from dllm_decode.lab.records import Ledger, Record
from dllm_decode.lab.runner import Runner, decode
from dllm_decode.lab.setting import plan
from dllm_decode.lab.share import Decoder
from samplers import Policy, spell


@dataclass(frozen=True)
class EvaluationReport:
    """The outcome of :func:`evaluate`.

    Attributes:
        policy: its string.
        tasks: by task ``accuracy``, its Wilson 95 % ``interval``, ``samples``, mean ``nfe`` and ``tpf_content``.
        records: of every sample, as ``compare`` writes them; task by task, in the order drawn.
    """

    policy: str
    tasks: dict[str, dict[str, Any]]
    records: tuple[Record, ...] = field(repr=False)

    @classmethod
    def of(cls, policy: str, records: Iterable[Record]) -> EvaluationReport:
        """Sum records up, by task in the order of their first appearance."""
        groups: dict[str, list[Record]] = {}
        for record in records:
            groups.setdefault(record["task"], []).append(record)
        tasks = {}
        for name, group in groups.items():
            group.sort(key=lambda record: record["sample"])
            found = figures(group, group)
            tasks[name] = {
                "accuracy": found["accuracy"],
                "interval": [found["accuracy_low"], found["accuracy_high"]],
                "samples": found["n"],
                "nfe": found["nfe"],
                "tpf_content": found["tpf_content"],
            }
        return cls(policy, tasks, tuple(record for group in groups.values() for record in group))

    def mean(self, name: str) -> float:
        """Unweighted mean of a figure over the tasks."""
        return float(sum(task[name] for task in self.tasks.values()) / len(self.tasks))

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values, without the samples."""
        return {"policy": self.policy, "mean_accuracy": self.mean("accuracy"), "tasks": self.tasks}


def evaluate(
    model: DenoisingModel | str,
    policy: Policy | str,
    tasks: str | Sequence[str],
    samples: int,
    *,
    split: str = "test",
    seed: int = 0,
    cache: str = "none",
    batch_size: int = 32,
    template: int | None = None,
    load: Callable[[str], DenoisingModel] = load_model,
    ledger: Ledger | None = None,
    **settings: Any,
) -> EvaluationReport:
    """Decode samples of some tasks with one policy and score the answers, each cut at its first end token.

    Args:
        model: what :class:`DiffusionSampler` takes.
        policy: likewise.
        tasks: names, or ``"all"``. Each is decoded on the canvas its task suggests.
        samples: per task.
        split: of the problems.
        seed: of the problems and, when sampling, of the tokens.
        cache: ``"none"``, ``"prefix"`` or ``"dual"``.
        batch_size: rows decoded together; greedy results do not depend on it.
        template: wording of all prompts; None mixes them.
        load: loads a model that is given by its name.
        ledger: takes the records share by share, for those who stop in between.
        **settings: as for :func:`~dllm_decode.lab.compare.compare`.

    Raises:
        DllmError: unknown task, split, template or setting, or a count below 1; before the model is loaded.
        PolicyError: a policy that does not parse or does not fit.
    """
    name = model if isinstance(model, str) else model.name
    text = policy if isinstance(policy, str) else spell(policy)
    asked = {"caches": [cache], "samples": samples, "seeds": [seed], "split": split, "batch_size": batch_size}
    wordings = None if template is None else [template]
    chosen = plan(name, [policy], tasks, templates=wordings, egp=False, **{**asked, **settings})
    chosen = replace(chosen, points=chosen.points[-1:])  # without static decoding, unless that is the policy
    loaded = None if all(map(is_oracle, chosen.tasks)) else load(model) if isinstance(model, str) else model
    runner = Runner(chosen, loaded)
    runner.check()
    decoder = Decoder(loaded, chosen.config, chosen.batch_size, warm=True)  # nobody reads the wall times
    return EvaluationReport.of(text, decode(runner, Ledger() if ledger is None else ledger, decoder))
