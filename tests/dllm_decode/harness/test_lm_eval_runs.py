"""Whole evaluations by the harness, without a network: local tasks, our tasks, the command line, two ranks."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shlex
import sys
import warnings
from functools import partial
from pathlib import Path

import pytest

from dllm_decode import DllmError
from dllm_decode.cli import main
from dllm_decode.harness.arguments import read_model_args
from dllm_decode.harness.launch import complete
from dllm_decode.lab.evaluate import evaluate
from dllm_decode.models import load_model
from dllm_decode.tasks import TASKS, samples
from tests.dllm_decode.answering import answering, table_of

# The harness's evaluation, on local data.


def run(lm_eval, tasks, folder=None, **more):
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=folder, include_defaults=False)
    return lm_eval.simple_evaluate(tasks=tasks, task_manager=manager, bootstrap_iters=0, **more)


def local_task(folder: Path, name: str, rows: list[dict], **config) -> None:
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [
        f"task: {name}",
        "dataset_path: json",
        f"dataset_kwargs: {json.dumps({'data_files': str(data)})}",
        "test_split: train",
        *(f"{key}: {json.dumps(value)}" for key, value in config.items()),
    ]
    (folder / f"{name}.yaml").write_text("\n".join(lines))


def test_a_local_generation_task(lm_eval, harness_model, tmp_path):
    drawn = samples("sort", "test", 6, seed=0)
    local_task(
        tmp_path,
        "sorting",
        [{"question": s.prompt, "answer": s.answer.strip()} for s in drawn],
        output_type="generate_until",
        doc_to_text="question",
        doc_to_target="answer",
        generation_kwargs={"until": ["\n"], "max_gen_toks": 32},
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        filter_list=[{"name": "strip", "filter": [{"function": "regex", "regex_pattern": r"\s*(.*\S)"}]}],
    )
    table = table_of(drawn, wrong=lambda index: index in (1, 4))
    model = harness_model(answering(table), batch_size=4, policy="threshold")
    found = run(lm_eval, ["sorting"], tmp_path, model=model, apply_chat_template=True)
    assert found["results"]["sorting"]["exact_match,strip"] == pytest.approx(4 / 6)
    assert {s["arguments"][0][0] for s in found["samples"]["sorting"]} == {
        model.apply_chat_template([{"role": "user", "content": s.prompt}]) for s in drawn
    }


def test_a_local_multiple_choice_task(lm_eval, harness_model, tmp_path):
    rows = [
        {"question": "<|bos|>one<|sep|>", "choices": [" a b", " x y"], "label": 0},
        {"question": "<|bos|>two<|sep|>", "choices": [" x y", " f"], "label": 1},
        {"question": "<|bos|>two<|sep|>", "choices": [" f", " x y"], "label": 1},
    ]
    local_task(
        tmp_path,
        "choosing",
        rows,
        output_type="multiple_choice",
        doc_to_text="question",
        doc_to_choice="choices",
        doc_to_target="label",
        target_delimiter="",
        metric_list=[{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    )
    model = harness_model(answering({"one": " a b", "two": " f"}), batch_size=8, mc_num=8)
    found = run(lm_eval, ["choosing"], tmp_path, model=model)
    assert found["results"]["choosing"]["acc,none"] == pytest.approx(2 / 3)


def test_answers_kept_by_the_harness_are_not_decoded_again(lm_eval, harness_model, tmp_path):
    drawn = samples("reverse", "test", 4, seed=0)
    local_task(
        tmp_path,
        "reversing",
        [{"question": s.prompt, "answer": s.answer.strip()} for s in drawn],
        output_type="generate_until",
        doc_to_text="question",
        doc_to_target="answer",
        generation_kwargs={"until": [], "max_gen_toks": 32},
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    )
    spent = []
    for _ in range(2):
        model = harness_model(answering(table_of(drawn)), batch_size=2)
        cache = str(tmp_path / "kept")
        run(lm_eval, ["reversing"], tmp_path, model=model, apply_chat_template=True, use_cache=cache)
        spent.append(model.tally.requests)
    assert spent == [4, 0]


def test_our_tasks_on_the_bundled_model_score_as_evaluate_does(lm_eval, tmp_path):
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    from dllm_decode.harness.tasks import own_task, write_config

    names = ["copy", "latin4", "lines"]
    configs = [load_yaml(write_config(own_task(f"dllm/{name}"), tmp_path)[0], resolve_func=True) for name in names]
    settings = {"policy": "localleap:relaxed_threshold=0.8,radius=2", "cache": "dual", "block_length": 16}
    metadata = {"samples": 12, "problem_seed": 5}
    found = lm_eval.simple_evaluate(
        model="dllm-decode",
        model_args={"pretrained": "tiny", **settings},
        batch_size=6,
        device="cpu",
        tasks=configs,
        task_manager=TaskManager(include_defaults=False, metadata=metadata),
        apply_chat_template=True,
        bootstrap_iters=0,
    )
    report = evaluate("tiny", settings["policy"], names, 12, seed=5, cache="dual", block_length=16)
    for name in names:
        assert found["results"][f"dllm_{name}"]["accuracy,none"] == pytest.approx(report.tasks[name]["accuracy"])
        texts = {s["doc"]["index"]: s["resps"][0][0] for s in found["samples"][f"dllm_{name}"]}
        assert [texts[i] for i in range(12)] == [r["answer"] for r in report.records if r["task"] == name]
    spent = found["config"]["decoding"]
    assert spent["requests"] == 36 and spent["nfe"] == sum(record["nfe"] for record in report.records)
    assert spent["content_tokens"] == sum(record["n_content"] for record in report.records)
    assert found["config"]["policy"] == settings["policy"] and found["config"]["cache"] == "dual"


def test_names_of_our_tasks():
    from dllm_decode.harness.tasks import documents, harness_name, own_task

    assert own_task("gsm8k") is None and own_task("dllm/copy") == "copy" and own_task("dllm/all") == "all"
    assert own_task("parallelbench/shuffle") == "parallelbench/shuffle"
    assert harness_name("copy") == "dllm_copy" and harness_name("parallelbench/copy") == "parallelbench_copy"
    for bad in ("dllm/copi", "parallelbench/copi"):
        with pytest.raises(DllmError, match="did you mean"):
            own_task(bad)
    for bad, what in (
        ({"samples": 0}, "samples=0"),
        ({"problem_seed": "x"}, "problem_seed='x'"),
        ({"split": "x"}, "split"),
    ):
        with pytest.raises(DllmError, match=what):
            documents("copy", **bad)


# The command line.


def test_our_tasks_become_configuration_files(tmp_path):
    from dllm_decode.harness.launch import with_own_tasks

    args = with_own_tasks(["run", "--tasks", "gsm8k,dllm/copy", "parallelbench/sort", "--limit", "3"], tmp_path)
    files = [str(tmp_path / "dllm_copy.yaml"), str(tmp_path / "parallelbench_sort.yaml")]
    assert args == ["run", "--tasks", "gsm8k", *files, "--limit", "3"]
    assert with_own_tasks(["run", "--tasks=mmlu,dllm/add", "-b", "4"], tmp_path)[1:4] == [
        "--tasks",
        "mmlu",
        str(tmp_path / "dllm_add.yaml"),
    ]
    assert len(with_own_tasks(["-t", "dllm/all"], tmp_path)) == 1 + len(TASKS)


@pytest.fixture
def quick_harness(lm_eval, monkeypatch):
    """Without the index of the harness's thousands of tasks."""
    import lm_eval.tasks as tasks

    monkeypatch.setattr(tasks, "TaskManager", partial(tasks.TaskManager, include_defaults=False))


@pytest.mark.usefixtures("quick_harness")
def test_the_command_evaluates(tmp_path, capsys):
    args = ["lm-eval", "--tasks", "dllm/copy,dllm/sort", "--apply_chat_template", "--batch_size", "8"]
    args += ["--model_args", "pretrained=tiny,policy='topk:k=2,score=margin',cache=prefix,block_length=16"]
    args += ["--metadata", "samples=4", "--device", "cpu", "--output_path", str(tmp_path / "out"), "--log_samples"]
    before = list(sys.argv)
    assert main(args) == 0
    assert sys.argv == before
    out = capsys.readouterr().out
    assert "|dllm_copy|" in out and "|dllm_sort|" in out and "accuracy" in out
    (results,) = (tmp_path / "out").rglob("results_*.json")
    found = json.loads(results.read_text())
    assert found["config"]["policy"] == "topk:k=2,score=margin" and found["config"]["decoding"]["requests"] == 8
    assert len(list((tmp_path / "out").rglob("samples_dllm_*.jsonl"))) == 2


@pytest.mark.usefixtures("quick_harness")
@pytest.mark.parametrize(
    ("args", "what"),
    [
        (["--tasks", "dllm/cppy"], "did you mean 'copy'"),
        (["--tasks", "nothing_like_it"], "the harness refuses this: Tasks not found: nothing_like_it"),
        (["--tasks", "dllm/copy", "--log_samples"], "Specify --output_path"),
        (["--tasks", "dllm/copy", "--model_args", "pretrained=tiny,cash=dual"], "did you mean 'cache'"),
        (["--tasks", "dllm/copy", "--model_args", "pretrained=tiny,policy=trheshold"], "unknown policy 'trheshold'"),
        (["--tasks", "dllm/copy", "--model_args", "pretrained=/nowhere"], "there is no folder /nowhere"),
        (["--tasks", "dllm/copy"], "names no model"),
        (["--tasks", "dllm/copy", "--metadata", "samples=0", "--model_args", "pretrained=tiny"], "samples=0"),
    ],
)
def test_the_command_ends_in_one_sentence_and_exit_code_2(args, what, capsys):
    assert main(["lm-eval", "--device", "cpu", *args]) == 2
    err = capsys.readouterr().err
    assert what in err.splitlines()[-1] and "Traceback" not in err


@pytest.mark.usefixtures("lm_eval")
def test_help_and_wrong_options(capsys):
    assert main(["lm-eval", "--help"]) == 0
    out = capsys.readouterr().out
    assert "policy=POLICY" in out and "--apply_chat_template" in out
    assert main(["lm-eval", "--tasks", "x", "--no-such-option"]) == 2
    assert "unrecognized arguments: --no-such-option" in capsys.readouterr().err


def test_a_missing_harness_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lm_eval._cli", None)
    assert main(["lm-eval", "--tasks", "x"]) == 2
    assert "pip install 'dllm-decode[eval]'" in capsys.readouterr().err


def one_rank(rank: int, folder: Path, answers: Path) -> None:
    """What one process of ``torchrun --nproc-per-node 2`` does."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    os.environ.update(WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank))
    found = lm_eval.simple_evaluate(
        model="dllm-decode",
        model_args={"pretrained": "tiny", "policy": "threshold", "block_length": 16},
        device="cpu",
        batch_size=1,
        tasks=["dllm_copy"],
        apply_chat_template=True,
        bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False, metadata={"samples": 7}),
    )
    assert (found is None) == (rank == 1)
    if found is not None:
        texts = {s["doc"]["index"]: s["resps"][0][0] for s in found["samples"]["dllm_copy"]}
        decoding = found["config"]["decoding"]
        answers.write_text(json.dumps([found["results"]["dllm_copy"]["accuracy,none"], texts, decoding["requests"]]))


@pytest.mark.usefixtures("lm_eval")
def test_two_ranks_share_the_samples_and_rank_0_reports(tmp_path):
    from dllm_decode.harness.tasks import write_config

    write_config("copy", tmp_path)
    fork = multiprocessing.get_context("fork")  # the harness takes seconds to import
    ranks = [fork.Process(target=one_rank, args=(rank, tmp_path, tmp_path / "found.json")) for rank in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: here they only draw bars
        for process in ranks:
            process.start()
    for process in ranks:
        process.join(240)
        process.kill()
    assert [process.exitcode for process in ranks] == [0, 0]
    accuracy, texts, decoded = json.loads((tmp_path / "found.json").read_text())
    report = evaluate(load_model("tiny"), "threshold", "copy", 7, block_length=16)
    assert accuracy == pytest.approx(report.tasks["copy"]["accuracy"])
    assert texts == {str(record["sample"]): record["answer"] for record in report.records}
    assert decoded == 7


# The documentation.

DOC = Path(__file__).parents[3] / "docs" / "lm-eval.md"


def documented() -> list[list[str]]:
    """Arguments of the commands in the page, its shell variables filled in."""
    found, variables = [], {}
    for block in re.findall(r"```sh\n(.*?)```", DOC.read_text(encoding="utf-8"), flags=re.S):
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"[A-Z]=", line):
                variables[line[0]] = line[2:]
            if line.startswith("dllm-decode lm-eval"):
                filled = re.sub(r"\$([A-Z])\b", lambda name: variables[name[1]], line)
                found.append(shlex.split(filled)[2:])
    return found


def test_the_commands_in_the_documentation_parse_and_name_tasks_that_exist(lm_eval, monkeypatch):
    from lm_eval._cli import HarnessCLI

    from dllm_decode.harness.tasks import own_task

    known = {
        name
        for path in (Path(lm_eval.__file__).parent / "tasks").rglob("*.y*ml")
        if path.parent.name in {"gsm8k", "humaneval", "mbpp", "benchmarks", "hellaswag", "arc", "default"}
        for name in re.findall(
            r"^(?:task|group|- task|  - task): *(\w+)", path.read_text(encoding="utf-8"), flags=re.M
        )
    }
    commands = documented()
    assert len(commands) >= 15
    for args in commands:
        monkeypatch.setattr(sys, "argv", ["lm-eval", *complete(args)])
        parsed = HarnessCLI().parse_args()
        assert read_model_args(**parsed.model_args).policy
        for task in parsed.tasks:
            assert own_task(task) or task in known, task


def test_the_model_arguments_in_the_documentation_fit_together(lm_eval, harness_model, random_model):
    from lm_eval._cli.utils import key_val_to_dict

    cells = re.findall(r"`\"?(policy=[^`\"]*)\"?`", DOC.read_text(encoding="utf-8"))
    assert len(cells) >= 8
    for text in cells:
        if "filter=FILE" not in text:
            harness_model(random_model, **key_val_to_dict(text))
