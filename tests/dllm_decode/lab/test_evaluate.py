"""Evaluation: figures that can be worked out by hand, and the errors it must find before loading a model."""

from __future__ import annotations

import math

import pytest

from dllm_decode.errors import DllmError
from dllm_decode.lab.evaluate import EvaluationReport, evaluate
from dllm_decode.lab.metrics import wilson
from dllm_decode.lab.problems import task_names
from dllm_decode.lab.records import WALL_FIELDS, Ledger
from dllm_decode.tasks import TASKS, samples, score
from samplers import PolicyError, TopK
from tests.dllm_decode.answering import answering, codec, table_of


def table(names: list[str], n: int, wrong=lambda i: False, split: str = "test", template: int | None = None):
    answers: dict[str, str] = {}
    for name in names:
        answers |= table_of(samples(name, split, n, seed=3, template=template), wrong)
    return answers


def found(report: EvaluationReport):
    """All that must not depend on the batches or the clock."""
    untold = (*WALL_FIELDS, "batch")
    return report.to_dict(), [{k: v for k, v in record.items() if k not in untold} for record in report.records]


def test_figures_of_a_table_model():
    names, n = ["copy", "lines"], 6
    model = answering(table(names, n, wrong=lambda i: i % 3 == 0))
    ledger = Ledger()
    report = evaluate(model, "topk:k=1", names, n, seed=3, batch_size=4, ledger=ledger)
    assert list(report.tasks) == names
    assert report.mean("accuracy") == pytest.approx(4 / 6)
    for name in names:
        task = report.tasks[name]
        assert (task["samples"], task["accuracy"]) == (6, pytest.approx(4 / 6))
        records = [record for record in report.records if record["task"] == name]
        drawn = samples(name, "test", n, seed=3)
        content = [len(codec().encode("x" if i % 3 == 0 else s.answer)) for i, s in enumerate(drawn)]
        # Left to right, one cell per forward, and one more for the end token; EosStop fills the rest.
        assert [r["nfe"] for r in records] == [c + 1 for c in content]
        assert [r["n_content"] for r in records] == content
        assert task["nfe"] == pytest.approx(sum(content) / n + 1)
        assert task["tpf_content"] == pytest.approx(sum(content) / (sum(content) + n))
        for i, record in enumerate(records):
            assert (record["task"], record["sample"], record["prompt"]) == (name, i, drawn[i].prompt)
            assert record["correct"] == score(drawn[i], record["answer"]) == (i % 3 != 0)
            assert record["n_canvas"] == len(record["tokens"]) == TASKS[name].max_new_tokens
            assert record["n_until_eos"] == record["n_content"] + 1
            assert record["n_prompt"] == len(codec().encode_prompt(record["prompt"]))
            assert record["rows_forwarded"] == record["nfe"] == record["full_forwards"]
            assert record["tokens_forwarded"] == record["nfe"] * (record["n_prompt"] + record["n_canvas"])
    assert len(report.records) == 12 and ledger.records == {r["key"]: r for r in report.records}


def test_batch_size_changes_nothing():
    model = answering(table(["sort", "add"], 5))
    reports = [evaluate(model, "threshold", ["sort", "add"], 5, seed=3, batch_size=b) for b in (1, 2, 32)]
    assert found(reports[0]) == found(reports[1]) == found(reports[2])
    assert reports[0].mean("accuracy") == 1.0


def test_all_cells_at_once_take_one_forward_per_block():
    model = answering(table(["copy"], 4))
    whole = evaluate(model, "threshold", ["copy"], 4, seed=3, block_length=None)
    halves = evaluate(model, "threshold", ["copy"], 4, seed=3, block_length=4)
    assert {r["nfe"] for r in whole.records} == {1}
    # Blocks of four until the end token is reached.
    assert [r["nfe"] for r in halves.records] == [math.ceil(r["n_until_eos"] / 4) for r in halves.records]


def test_split_template_and_seed_choose_the_problems():
    model = answering(table(["copy"], 3, split="valid", template=2))
    report = evaluate(model, "threshold", "copy", 3, split="valid", seed=3, template=2)
    assert report.mean("accuracy") == 1.0 and {r["template"] for r in report.records} == {2}
    other = evaluate(model, "threshold", "copy", 3, split="test", seed=3, template=2)
    assert not {r["prompt"] for r in other.records} & {r["prompt"] for r in report.records}


def test_report_as_json_has_the_promised_shape():
    report = evaluate(answering(table(["copy"], 2)), TopK(k=2), "copy", 2, seed=3)
    told = report.to_dict()
    assert set(told) == {"policy", "mean_accuracy", "tasks"}
    assert told["policy"] == "topk:k=2"
    assert set(told["tasks"]["copy"]) == {"accuracy", "interval", "samples", "nfe", "tpf_content"}
    low, high = told["tasks"]["copy"]["interval"]
    assert 0 <= low < high <= 1


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(0, 10, 0.0, 0.27754), (5, 10, 0.23659, 0.76341), (190, 200, 0.91042, 0.97261), (200, 200, 0.98115, 1.0)],
)
def test_wilson_against_its_formula(right: int, n: int, low: float, high: float):
    z, p = 1.959963984540054, right / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert wilson(right, n) == pytest.approx((max(0, middle - half), min(1, middle + half)), abs=1e-9)
    assert wilson(right, n) == pytest.approx((low, high), abs=2e-5)


def test_sampling_is_seeded():
    model = answering(table(["copy"], 4))
    runs = [evaluate(model, "topk:k=4", "copy", 4, seed=3, temperature=12.0) for _ in range(2)]
    assert found(runs[0]) == found(runs[1]) and runs[0].mean("accuracy") < 1


def test_task_names():
    assert task_names("all") == list(TASKS)
    assert task_names(" copy, sort,copy ") == ["copy", "sort"]
    assert task_names(["lines"]) == ["lines"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tasks": "coppy"}, "unknown task 'coppy': did you mean 'copy'?"),
        ({"tasks": ""}, "no task was given; give 'all' or some of copy,"),
        ({"samples": 0}, "samples is 0; give a whole number from 1 up."),
        ({"split": "dev"}, "unknown split 'dev'; use one of train, valid, test."),
        ({"template": 7}, "templates are [7]; give numbers from 0 to 2, or none to mix."),
        ({"batch_size": 0}, "batch_size is 0; give a whole number from 1 up."),
        ({"block_length": 0}, "block_length is 0; give a whole number from 1 up"),
        ({"temprature": 1.0}, "unknown generation setting 'temprature' (did you mean 'temperature'?)"),
    ],
)
def test_bad_input_is_found_before_the_model_is_loaded(changes, sentence):
    settings = {"tasks": "copy", "samples": 2} | changes
    with pytest.raises(DllmError) as error:
        evaluate("/no/such/model", "threshold", **settings)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_unknown_policy_and_missing_tokenizer():
    model = answering({})
    with pytest.raises(PolicyError, match=r"unknown policy 'treshold' \(did you mean 'threshold'\?\)"):
        evaluate(model, "treshold", "copy", 1)
    model.tokenizer = None
    with pytest.raises(DllmError, match="has no tokenizer"):
        evaluate(model, "threshold", "copy", 1)


def test_report_groups_records_of_any_order():
    report = evaluate(answering(table(["copy", "sort"], 3)), "threshold", ["copy", "sort"], 3, seed=3)
    again = EvaluationReport.of("threshold", [*report.records[2::-1], *report.records[3:]])
    assert again == report
