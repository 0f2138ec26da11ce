"""The data of ``report.html``: figures, pictures and replays in a form that is small and that its scripts read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dllm_decode.lab.columns import COLUMNS, INTERVALS, PAIRED
from dllm_decode.lab.pictures import EDGES, draw_pictures, representatives
from dllm_decode.lab.problems import is_oracle
from dllm_decode.lab.records import Record
from dllm_decode.lab.summary import ALL
from dllm_decode.viewing.page import pack
from dllm_decode.viewing.viewer import pack_record, shown_pieces

EVERY = -1  # the number of the pseudo-task that pools all tasks

#: what accuracy can be drawn against
ACROSS = (
    ("tpf_content", "content tokens per forward"),
    ("tpf_until_eos", "tokens until EOS per forward"),
    ("tpf_canvas", "canvas cells per forward"),
    ("row_tpf", "content tokens per forwarded row"),
    ("token_efficiency", "content tokens per forwarded token"),
    ("speedup", "forwards of static over forwards"),
    ("tokens_per_s", "content tokens per second"),
)


class ReportData:
    """The data of one page; labels, tasks, caches and repeated texts are replaced by their numbers.

    Attributes:
        setting, records: of the run.
        tasks, caches, policies: as the setting lists them.
    """

    def __init__(self, setting: Mapping[str, Any], records: Sequence[Record]) -> None:
        self.setting, self.records = setting, records
        self.tasks: list[str] = list(setting["tasks"])
        self.caches: list[str] = list(setting["caches"])
        self.policies: list[Mapping[str, Any]] = list(setting["policies"])
        known = {policy["label"] for policy in self.policies}
        extra = dict.fromkeys(record["label"] for record in records if record["label"] not in known)
        self.labels = {label: i for i, label in enumerate([*(p["label"] for p in self.policies), *extra])}
        self.families = {f: i for i, f in enumerate(dict.fromkeys(p["family"] for p in self.policies))}
        self.task_numbers = {ALL: EVERY, **{task: i for i, task in enumerate(self.tasks)}}
        self.cache_numbers = {cache: i for i, cache in enumerate(self.caches)}
        oracles = setting.get("oracles", {})
        self.masks = {t: oracles[t]["mask_id"] if t in oracles else setting["mask_id"] for t in self.tasks}

    def place(self, row: Mapping[str, Any]) -> dict[str, int]:
        """Cache and task of a row of the summary."""
        return {"c": self.cache_numbers[row["cache"]], "t": self.task_numbers[row["task"]]}

    def figures(self, summary: Mapping[str, Any], pieces: Mapping[str, str]) -> dict[str, Any]:
        """All but the replays."""
        static = self.setting["static"]
        shown = [column.key for column in COLUMNS] + [f"{name}_{end}" for name in INTERVALS for end in ("low", "high")]
        pooled = [task for task in self.tasks if not is_oracle(task)] or self.tasks
        listed = {policy["label"] for policy in self.policies}
        pictures = draw_pictures(
            [record for record in self.records if record["label"] in listed], self.masks, static, pooled
        )
        return _rounded(
            {
                "tasks": self.tasks,
                "caches": self.caches,
                "families": list(self.families),
                "labels": [{"label": p["label"], "family": self.families[p["family"]]} for p in self.policies]
                + [{"label": label, "family": None} for label in self.labels if label not in listed],
                "static": self.labels[static],
                "columns": [column._asdict() for column in COLUMNS],
                "across": ACROSS,
                "rows": [
                    {
                        "l": self.labels[row["label"]],
                        **self.place(row),
                        **{name: None if row["label"] == static and name in PAIRED else row[name] for name in shown},
                    }
                    for row in summary["rows"]
                ],
                "curves": [
                    {
                        "f": self.families[curve["family"]],
                        **self.place(curve),
                        "labels": [self.labels[label] for label in curve["labels"]],
                        "aup": curve["aup"],
                        "y_max": curve["y_max"],
                        "best": {
                            loss: best and {**best, "label": self.labels[best["label"]]}
                            for loss, best in curve["best"].items()
                        },
                    }
                    for curve in summary["curves"]
                ],
                "shown": [
                    {**self.place({"cache": cache, "task": task}), "labels": [self.labels[label] for label in labels]}
                    for (cache, task), labels in representatives(summary).items()
                ],
                "bounds": self._bounds(summary),
                "edges": EDGES,
                "steps": [{**self._at(place), "mean": mean} for place, mean in pictures.steps().items()],
                "calibration": [{**self._at(place), "bins": bins} for place, bins in pictures.calibration().items()],
                "templates": [{**self._at(place), "values": found} for place, found in pictures.templates().items()],
                "masks": [self.masks[task] for task in self.tasks],
                "oracles": [is_oracle(task) for task in self.tasks],
                "eos": self.setting["eos_ids"],
                "pieces": shown_pieces(pieces),
            }
        )

    def _at(self, place: tuple[str, str, str]) -> dict[str, int]:
        label, cache, task = place
        return {"l": self.labels[label], "c": self.cache_numbers[cache], "t": self.task_numbers[task]}

    def _bounds(self, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
        found = [
            {
                **self.place(bound),
                "name": bound["name"],
                "f": None if bound["family"] is None else self.families[bound["family"]],
                "l": self.labels.get(bound["name"]),  # a bound that is a decoding of its own has samples
                "accuracy": bound["accuracy"],
                **{name: bound[name] for name, _ in ACROSS},
            }
            for bound in summary["bounds"]
            if bound["name"] != self.setting["static"]
        ]
        return found + [
            {
                "c": 0,
                "t": self.task_numbers[row["task"]],
                "name": "L_T",
                "f": None,
                "l": None,
                "accuracy": row["p_valid"],
                "tpf_content": row["tpf_content"],
            }
            for row in summary["information"]
        ]

    def replays(self, budget: int) -> tuple[list[bytes], int, int]:
        """One packed block per task, the problems kept in the fullest task, and the problems it had."""
        orders = {task: self._problems(task) for task in self.tasks}
        most = max(map(len, orders.values()))
        kept = most
        while True:
            chunks = [self._chunk(task, orders[task][:kept]) for task in self.tasks]
            size = sum((len(chunk) + 2) // 3 * 4 for chunk in chunks)
            if size <= budget or kept == 0:
                return chunks, kept, most
            kept = min(kept - 1, int(kept * budget / size * 0.97)) if budget > 0 else 0

    def _problems(self, task: str) -> list[tuple[Any, Any, Any]]:
        """Sample by sample, each in all its wordings, so that a cut keeps the wordings even."""
        found = {(r["sample"], r["seed"], r["template"]) for r in self.records if r["task"] == task}
        return sorted(found)

    def _chunk(self, task: str, order: Sequence[tuple[Any, Any, Any]]) -> bytes:
        numbers = {problem: i for i, problem in enumerate(order)}
        problems: list[list[Any]] = [[] for _ in order]
        answers: dict[str, int] = {}
        samples = []
        for record in self.records:
            at = numbers.get((record["sample"], record["seed"], record["template"]))
            if record["task"] != task or at is None:
                continue
            asked = [record[name] for name in ("template", "seed", "sample", "prompt", "expected")]
            problems[at] = asked
            answer = answers.setdefault(record["answer"], len(answers))
            place = [self.labels[record["label"]], self.cache_numbers[record["cache"]], at]
            figures = [record[name] for name in ("correct", "nfe", "n_content")]
            replay = pack_record(record, self.masks[task])
            samples.append([*place, *figures, answer, int(record["early_exit"]), replay])
        return pack({"problems": problems, "answers": list(answers), "samples": samples})


def _rounded(value: Any) -> Any:
    """Numbers to six decimals: more is noise, and takes room."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return value
