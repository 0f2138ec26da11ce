"""The summary of a run and its tables: same numbers everywhere, nothing from unfinished runs."""

from __future__ import annotations

import csv
import io
import json

import pytest

import dllm_decode.lab.compare as lab_compare
from dllm_decode import DiffusionSampler
from dllm_decode.cli import main
from dllm_decode.engine.policy_file import PolicyFile, write_policy_file
from dllm_decode.engine.trace import load_traces
from dllm_decode.errors import DllmError
from dllm_decode.lab.compare import compare
from dllm_decode.lab.curves import aup
from dllm_decode.lab.metrics import wilson
from dllm_decode.lab.records import read_records
from dllm_decode.lab.setting import read_setting
from dllm_decode.lab.summary import summarise, summarise_folder
from dllm_decode.lab.tables import csv_text, markdown
from tests.dllm_decode.lab.lab_toys import hesitant, random_checkpoint, timeless

GRID = {"threshold": {"threshold": [0.5, 0.9]}, "topk": {"k": [2]}}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    summary = compare(
        hesitant(), (), "copy,sort", folder, grid=GRID, samples=4, seeds=(0, 1), templates=(0, 1), quiet=True
    )
    return folder, summary


def rows_of(summary, **wanted):
    return [row for row in summary["rows"] if all(row[k] == v for k, v in wanted.items())]


def test_what_compare_leaves_behind(run_folder):
    folder, summary = run_folder
    names = {path.name for path in folder.iterdir()}
    assert {"setting.json", "records.jsonl", "summary.json", "summary.csv", "summary.md", "report.html"} <= names
    assert json.loads((folder / "summary.json").read_text()) == json.loads(json.dumps(summary))
    assert json.loads(json.dumps(summarise_folder(folder))) == json.loads(json.dumps(summary))
    pieces = json.loads((folder / "pieces.json").read_text())
    used = {str(token) for record in read_records(folder) for token in record["tokens"]}
    assert used <= set(pieces)


def test_figures_are_those_of_the_records(run_folder):
    folder, summary = run_folder
    records = read_records(folder)
    assert len(summary["rows"]) == 4 * 3
    for row in summary["rows"]:
        mine = [r for r in records if r["label"] == row["label"] and row["task"] in ("all", r["task"])]
        right = sum(r["correct"] for r in mine)
        assert row["n"] == len(mine) == 16 * (2 if row["task"] == "all" else 1)
        assert row["accuracy"] == right / len(mine)
        assert (row["accuracy_low"], row["accuracy_high"]) == wilson(right, len(mine))
        assert row["tpf_content"] == sum(r["n_content"] for r in mine) / sum(r["nfe"] for r in mine)


def test_haste_shows(run_folder):
    _, summary = run_folder
    (static,) = rows_of(summary, label="static", task="all")
    (careful,) = rows_of(summary, label="threshold", task="all")
    (hasty,) = rows_of(summary, label="threshold:threshold=0.5", task="all")
    assert static["kind"] == "static"
    assert (static["accuracy"], careful["accuracy"], hasty["accuracy"]) == (1.0, 1.0, 0.0)
    assert careful["identity"] == 1.0
    assert careful["tpf_content"] > static["tpf_content"]
    assert hasty["difference"] == -1.0
    assert hasty["lost"] == 32
    assert hasty["mcnemar_p"] == pytest.approx(2 * 0.5**32)


def test_curves_and_bounds(run_folder):
    _, summary = run_folder
    (curve,) = [c for c in summary["curves"] if c["family"] == "threshold" and c["task"] == "copy"]
    rows = {row["label"]: row for row in rows_of(summary, task="copy")}
    assert curve["labels"] == ["static", "threshold", "threshold:threshold=0.5"]
    assert curve["y_max"] == 100.0
    points = [(rows[label]["tpf_content"], 100 * rows[label]["accuracy"]) for label in curve["labels"]]
    assert curve["aup"] == aup(points, 100.0) == aup(points[:2], 100.0)
    assert curve["best"]["1"]["label"] == "threshold"
    bounds = {(b["name"], b["family"]): b for b in summary["bounds"] if b["task"] == "copy"}
    assert set(bounds) == {
        ("static", None),
        ("egp", None),
        ("per-sample best", "threshold"),
        ("per-sample best", None),
    }
    assert bounds["per-sample best", "threshold"]["accuracy"] == 1.0
    assert bounds["per-sample best", None]["tpf_content"] >= rows["threshold"]["tpf_content"]
    assert bounds["egp", None]["accuracy"] == 1.0


def test_tables_hold_the_same_numbers(run_folder):
    folder, summary = run_folder
    lines = list(csv.DictReader(io.StringIO((folder / "summary.csv").read_text())))
    assert csv_text(summary) == (folder / "summary.csv").read_text()
    assert markdown(summary) == (folder / "summary.md").read_text()
    of_rows = [line for line in lines if line["kind"] in ("static", "policy")]
    for line, row in zip(of_rows, summary["rows"], strict=True):
        for name, value in row.items():
            if isinstance(value, (int, float)):
                assert float(line[name]) == value, name
            elif isinstance(value, str):
                assert line[name] == value
    assert sum(line["kind"] == "bound" for line in lines) == len(summary["bounds"])
    assert sum(line["kind"] == "curve" for line in lines) == len(summary["curves"])
    text = (folder / "summary.md").read_text()
    for row in rows_of(summary, task="all"):
        assert f"| `{row['label']}` | {100 * row['accuracy']:.1f} [{100 * row['accuracy_low']:.1f}," in text
        assert f"{row['tpf_content']:.2f} [{row['tpf_content_low']:.2f}, {row['tpf_content_high']:.2f}]" in text


def test_a_run_on_oracles_has_the_information_bound(tmp_path):
    summary = compare("none", ["threshold"], "oracle-shuffle-4", tmp_path, samples=3, quiet=True)
    found = {row["steps"]: row for row in summary["information"]}
    assert found[1]["bits"] == pytest.approx(3.4150, abs=1e-4)
    assert found[1]["tpf_content"] == 4.0
    assert found[4]["p_valid"] == pytest.approx(1.0)
    assert "oracle-shuffle-4 | 1 | 4.00 | 3.4150" in (tmp_path / "summary.md").read_text()
    assert "information," in (tmp_path / "summary.csv").read_text()
    assert read_setting(tmp_path)["oracles"]["oracle-shuffle-4"]["mask_id"] == 4
    assert not any(b["name"] == "egp" for b in summary["bounds"])


def test_unfinished_runs_are_not_compared(run_folder):
    folder, _ = run_folder
    setting, records = read_setting(folder), read_records(folder)
    with pytest.raises(DllmError, match="threshold has 31 of 32 samples of all with cache none"):
        cut = next(i for i, r in enumerate(records) if r["label"] == "threshold")
        summarise(setting, records[:cut] + records[cut + 1 :])
    with pytest.raises(DllmError, match="there is no sample"):
        summarise(setting, [])


def test_same_arguments_same_figures(run_folder, tmp_path):
    folder, summary = run_folder
    arguments = {"grid": GRID, "samples": 4, "seeds": (0, 1), "templates": (0, 1), "quiet": True}
    again = compare(hesitant(), (), "copy,sort", tmp_path, **arguments)
    times = {"tokens_per_s", "latency_p50", "latency_p90"}
    for one, other in zip(summary["rows"], again["rows"], strict=True):
        assert {k: v for k, v in one.items() if k not in times} == {k: v for k, v in other.items() if k not in times}
    assert list(map(timeless, read_records(folder))) == list(map(timeless, read_records(tmp_path)))


# ------------------------------------------------------------------------------------------------------ command line


def test_command_prints_a_table_and_goes_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    asked = ["compare", "-o", str(tmp_path / "run"), "-p", "threshold", "-p", "topk:k=2", "-n", "3"]
    asked += ["--tasks", "oracle-choose-3-4", "--seeds", "0,1", "--block-length", "4"]
    assert main(asked) == 0
    out = capsys.readouterr().out
    assert "oracle-choose-3-4, cache none, 3 samples each" in out
    assert "topk:k=2" in out
    assert "report.html" in out
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["n"] for row in rows_of(found, task="all")] == [6, 6, 6]
    assert main([*asked, "--block-length", "2"]) == 2
    assert "holds a run with --block-length 4, but now it is 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--tasks", "copi"], "unknown task 'copi'"),
        (["--seeds", "a"], "--seeds is 'a'; give whole numbers"),
        (["--templates", "x"], "--templates is 'x'"),
        (["-p", "treshold"], "did you mean 'threshold'"),
        (["-p", "@none.json"], "cannot read policy file 'none.json'"),
        (["--grid", "none.yaml"], "cannot read grid 'none.yaml'"),
        (["--cache", "duel"], "did you mean 'dual'"),
        (["-n", "0"], "--samples is 0"),
    ],
)
def test_command_refuses_in_one_sentence(tmp_path, capsys, arguments, sentence):
    assert main(["compare", "-o", str(tmp_path / "run"), *arguments]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert error.startswith("dllm-decode: ")
    assert sentence in error
    assert not (tmp_path / "run").exists()


def test_no_policy_means_ten(tmp_path, monkeypatch):
    monkeypatch.setattr(lab_compare, "run", lambda comparison, *_, **__: pytest.fail(str(len(comparison.points))))
    with pytest.raises(pytest.fail.Exception, match="^11$"):
        compare("tiny", (), "copy", tmp_path)


@pytest.fixture
def tuned_file(tmp_path):
    file = tmp_path / "tuned.json"
    write_policy_file(file, PolicyFile("topk:k=2", "dual", {"block_length": 4}))
    return f"@{file}"


@pytest.mark.parametrize(
    ("extra", "cache", "block"),
    [([], "dual", 4), (["--block-length", "8"], "dual", 8), (["--cache", "none"], "none", 4)],
)
def test_generate_takes_a_policy_file(tmp_path, capsys, tuned_file, extra, cache, block):
    """The file's settings are this command's defaults; what the user says goes first."""
    model = str(random_checkpoint(tmp_path / "model"))
    trace = tmp_path / "trace.jsonl"
    asked = ["generate", "copy: a b", "-m", model, "-p", tuned_file, "--max-new-tokens", "12", "--no-early-stop"]
    assert main([*asked, "--trace", str(trace), *extra]) == 0, capsys.readouterr().err
    (found,) = load_traces(trace)
    assert (found.meta["policy"], found.meta["cache"]) == ("topk:k=2", cache)
    assert found.meta["config"]["block_length"] == block
    assert len(found.steps) == 6


def test_evaluate_and_the_library_take_a_policy_file(tmp_path, capsys, tuned_file):
    model = str(random_checkpoint(tmp_path / "model"))
    assert main(["evaluate", "-m", model, "-p", tuned_file, "--tasks", "copy", "-n", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["policy"] == "topk:k=2"
    for sampler, cache in (
        (DiffusionSampler(model, tuned_file), "dual"),
        (DiffusionSampler(hesitant(), tuned_file, "none"), "none"),  # what is given goes first
    ):
        assert sampler.policy == DiffusionSampler(hesitant(), "topk:k=2").policy
        assert (sampler.cache, sampler.config.block_length) == (cache, 4)
    with pytest.raises(DllmError, match="'hesitant' keeps no keys and values, so cache='dual' cannot work"):
        DiffusionSampler(hesitant(), tuned_file)
    assert main(["generate", "x", "-m", model, "-p", "@none.json"]) == 2
    assert "cannot read policy file 'none.json'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["compare", "tune"])
def test_an_interrupted_command_says_that_it_goes_on(tmp_path, capsys, monkeypatch, command):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"dllm_decode.lab.{command}.{command}", interrupted)
    assert main([command, "-o", str(tmp_path)]) == 130
    assert "the same command goes on where it stopped" in " ".join(capsys.readouterr().err.split())
