"""Running a comparison: what is recorded, what is refused, and that a kill changes nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import time
import warnings

import pytest

from dllm_decode import DiffusionSampler
from dllm_decode.errors import DllmError
from dllm_decode.lab.compare import compare
from dllm_decode.lab.problems import draw, make_oracle, shares, task_names
from dllm_decode.lab.records import NAME, Journal, read_records
from dllm_decode.lab.report import write_report
from dllm_decode.lab.runner import run
from dllm_decode.lab.setting import keep_setting, plan, read_setting
from dllm_decode.lab.summary import summarise_folder
from dllm_decode.lab.tables import markdown
from dllm_decode.tasks import TASKS
from samplers import PolicyError
from tests.dllm_decode.lab.lab_toys import hesitant, made, random_checkpoint, timeless


def small(policies=("threshold", "threshold:threshold=0.5"), tasks="copy,sort", **changes):
    return plan("hesitant", policies, tasks, **{"samples": 5, "batch_size": 3, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder and the records of one small run."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, run(small(), folder, hesitant(), quiet=True)


def test_records_say_what_the_sampler_says(finished):
    _, records = finished
    record = next(r for r in records if r["label"] == "threshold:threshold=0.5" and r["task"] == "sort")
    result = DiffusionSampler(hesitant(), record["policy"]).generate(
        record["prompt"], max_new_tokens=32, block_length=16
    )
    assert record["tokens"] == result.sequences[0]
    assert record["answer"] == result.texts[0]
    counts = ("nfe", "full_forwards", "rows_forwarded", "tokens_forwarded")
    assert [record[name] for name in counts] == [getattr(result, name)[0] for name in counts]
    assert record["n_content"] == result.content_tokens[0]
    assert record["n_until_eos"] == result.until_eos_tokens[0]
    assert record["n_canvas"] == 32
    assert record["n_prompt"] == len(result.trace[0].prompt)
    assert record["wall_s"] == pytest.approx(record["model_s"] + record["policy_s"], abs=2e-6)
    assert (record["strict"], record["early_exit"], record["revokes"]) == (1, False, 0)
    assert len(record["steps"]) == len(record["blocks"]) == record["nfe"]
    canvas = [None] * 32
    for step in record["steps"]:
        for cell, token, _ in step:
            canvas[cell] = token
    assert canvas == record["tokens"]


def test_haste_costs_and_records_show_it(finished):
    _, records = finished
    right = {}
    for record in records:
        right.setdefault(record["label"], []).append(record["correct"])
    assert right == {
        "static": [1] * 10,
        "threshold": [1] * 10,
        "threshold:threshold=0.5": [0] * 10,
        "egp": [1] * 10,
    }


def test_egp_reproduces_static_in_fewer_forwards(finished):
    _, records = finished
    of = {(r["label"], r["task"], r["sample"]): r for r in records}
    for (label, task, sample), record in of.items():
        if label == "egp":
            static = of["static", task, sample]
            assert record["tokens"] == static["tokens"]
            assert record["nfe"] <= static["nfe"]


def test_every_sample_is_there_once_in_a_fixed_order(finished):
    folder, records = finished
    keys = [r["key"] for r in records]
    assert len(set(keys)) == len(keys) == 40
    assert read_records(folder) == records
    assert [r["label"] for r in records[:20:5]] == ["static", "threshold", "threshold:threshold=0.5", "egp"]


def test_a_finished_run_is_not_run_again(finished):
    folder, records = finished
    before = (folder / NAME).read_bytes()
    model = hesitant()
    calls = model.fn
    try:
        model.fn = lambda tokens: pytest.fail("a forward was made")
        assert run(small(), folder, model, quiet=True) == records
    finally:
        model.fn = calls
    assert (folder / NAME).read_bytes() == before


def test_a_second_run_gives_the_same_records(finished, tmp_path):
    _, records = finished
    again = run(small(), tmp_path, hesitant(), quiet=True)
    assert list(map(timeless, again)) == list(map(timeless, records))


@pytest.mark.parametrize("kept", [0, 7, 20])
def test_torn_files_are_mended(finished, tmp_path, kept):
    """Whole lines and half a line survive a kill; the rest is decoded, in its place."""
    folder, records = finished
    lines = (folder / NAME).read_bytes().splitlines(keepends=True)
    (tmp_path / "setting.json").write_bytes((folder / "setting.json").read_bytes())
    (tmp_path / NAME).write_bytes(b"".join(lines[:kept]) + lines[kept][:100])
    mended = run(small(), tmp_path, hesitant(), quiet=True)
    assert mended[:kept] == records[:kept], "what was on record is not run again, wall times included"
    assert list(map(timeless, mended)) == list(map(timeless, records))
    assert read_records(tmp_path) == mended


def test_a_line_taken_out_comes_back_in_its_place(finished, tmp_path):
    folder, records = finished
    lines = (folder / NAME).read_bytes().splitlines(keepends=True)
    (tmp_path / "setting.json").write_bytes((folder / "setting.json").read_bytes())
    (tmp_path / NAME).write_bytes(b"".join(lines[:4] + lines[5:]))
    mended = run(small(), tmp_path, hesitant(), quiet=True)
    assert list(map(timeless, mended)) == list(map(timeless, records))
    assert read_records(tmp_path) == mended


@pytest.mark.parametrize("damaged", ["nonsense", '{"key": "b"}'])
def test_damaged_lines_are_named(tmp_path, damaged):
    first, last = (json.dumps(made(key=key)) for key in "ac")
    (tmp_path / NAME).write_text(f"{first}\n{damaged}\n{last}\n")
    with pytest.raises(DllmError, match="line 2 of .*damaged"):
        Journal(tmp_path)
    with pytest.raises(DllmError, match="line 2 of .*damaged"):
        read_records(tmp_path)


@pytest.mark.parametrize("field, value", [
    ("tokens", [True]), ("early_exit", {}), ("early_exit", None), ("batch", "x"), ("blocks", [["x", 4]]), ("nfe", 1.5),
    ("nfe", 10**23), ("nfe", 0), ("wall_s", 1e999), ("blocks", [[0, 10**9]]), ("seed", -1), ("tokens", [-1]),
    ("answer", "\ud800"),
    ("n_until_eos", -1), ("n_until_eos", 2), ("n_content", 2), ("n_prompt", -1), ("revokes", -1), ("correct", -1),
])  # fmt: skip
def test_values_of_another_kind_are_damage(tmp_path, field, value):
    record = made(key="a", tokens=[5], n_content=1, n_until_eos=1, steps=[[[0, 5, 0.9]]], blocks=[[0, 4]])
    (tmp_path / NAME).write_text(json.dumps(record) + "\n")
    assert len(read_records(tmp_path)) == 1
    (tmp_path / NAME).write_text(json.dumps({**record, field: value}) + "\n")
    with pytest.raises(DllmError, match="line 1 of .*damaged"):
        read_records(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"date": None},
        {"threads": True},
        {"threads": 10**23},
        {"threads": -1},
        {"processes": {}},
        {"processes": None},
        {"machine": []},
        {"machine": None},
    ],
)
def test_a_setting_with_values_of_another_kind_is_damaged(tmp_path, change):
    held = {"version": 1, "date": "today", "left_out": [None]}
    (tmp_path / "setting.json").write_text(json.dumps({**held, **change}))
    with pytest.raises(DllmError, match=f"is damaged: {next(iter(change))} is"):
        read_setting(tmp_path)
    (tmp_path / "setting.json").write_text(json.dumps(held))
    with pytest.raises(DllmError, match=r"left_out\[0\] none, but now it is not there"):
        keep_setting(tmp_path, {**held, "left_out": []})


def test_one_writer_at_a_time(tmp_path):
    with Journal(tmp_path), pytest.raises(DllmError, match="another comparison is writing"):
        Journal(tmp_path)
    with Journal(tmp_path) as journal:
        journal.append([made(key="a", answer="ü\u2028")])
    assert [r["answer"] for r in read_records(tmp_path)] == ["ü\u2028"]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"samples": 6}, "samples 5, but now it is 6"),
        ({"batch_size": 4}, "batch_size 3, but now it is 4"),
        ({"policies": ["threshold"]}, r"policies\[1\]"),
        ({"tasks": "copy"}, r"tasks\[1\] \"sort\", but now it is not there"),
        ({"block_length": 8}, "with block_length 32, but now it is 8"),
        ({"templates": (0,)}, "templates"),
        ({"seeds": (0, 1)}, r"seeds\[1\] not there, but now it is 1"),
    ],
)
def test_a_changed_setting_is_refused_before_a_model_is_loaded(finished, changes, what):
    folder, _ = finished
    with pytest.raises(DllmError, match=what):
        run(small(**changes), folder, None, quiet=True)


def test_another_model_is_refused(finished, tmp_path):
    folder, _ = finished
    checkpoint = random_checkpoint(tmp_path / "one")
    first = plan(str(checkpoint), ["threshold"], "copy", samples=1)
    run(first, tmp_path / "run", quiet=True)
    assert len(read_setting(tmp_path / "run")["model_revision"]) == 16
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(DllmError, match="model_revision"):
        run(first, tmp_path / "run", quiet=True)


def test_setting_is_kept_whole_and_its_day_may_pass(tmp_path):
    assert keep_setting(tmp_path, {"version": 1, "date": "today"}) == {"version": 1, "date": "today"}
    assert keep_setting(tmp_path, {"version": 1, "date": "tomorrow"}) == {"version": 1, "date": "today"}
    with pytest.raises(DllmError, match="holds no comparison"):
        read_setting(tmp_path / "elsewhere")
    (tmp_path / "setting.json").write_text('{"version": 99}')
    with pytest.raises(DllmError, match="another version"):
        read_setting(tmp_path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tasks": "copi"}, "unknown task 'copi'"),
        ({"tasks": ""}, "no task was given"),
        ({"tasks": "oracle-shufle-7"}, "unknown oracle"),
        ({"tasks": "oracle-shuffle"}, "write oracle-shuffle-N, N a number"),
        ({"tasks": "oracle-choose-4"}, "write oracle-choose-N-N"),
        ({"tasks": "oracle-shuffle-40"}, "from 2 to 8"),
        ({"tasks": "oracle-latin4", "caches": "dual"}, "compare oracles with cache none"),
        ({"caches": "duel"}, "did you mean 'dual'"),
        ({"samples": 0}, "samples is 0"),
        ({"batch_size": True}, "batch_size is True"),
        ({"seeds": ()}, "seeds are"),
        ({"templates": (3,)}, "templates are"),
        ({"split": "tset"}, "unknown split"),
        ({"canvas": "near"}, "canvas is 'near'"),
        ({"max_new_tokens": 8}, "max_new_tokens cannot be set"),
        ({"temprature": 1.0}, "did you mean 'temperature'"),
    ],
)
def test_wrong_settings_end_in_a_sentence(changes, sentence):
    with pytest.raises(DllmError, match=sentence):
        small(**changes)


def test_clashes_are_found_before_the_first_forward(tmp_path):
    model = hesitant()
    with pytest.raises(DllmError, match="keeps no keys and values"):
        run(small(caches="dual"), tmp_path, model, quiet=True)
    with pytest.raises(PolicyError, match="egp does not work with cache none on copy: EGP needs"):
        run(small(policies=["egp"]), tmp_path, model, quiet=True)
    assert not list(tmp_path.iterdir())


def test_a_policy_that_fits_one_cache_is_left_out_with_the_other(tmp_path):
    checkpoint = random_checkpoint(tmp_path / "model")
    policies, told = ["threshold+sched", "threshold"], []
    setting = plan(str(checkpoint), policies, "copy", caches="none,dual", samples=2, egp=False, block_length=16)
    records = run(setting, tmp_path / "run", quiet=True, on_batch=lambda done, total: told.append((done, total)))
    assert [(r["cache"], r["label"]) for r in records[::2]] == [
        ("none", "static"),
        ("none", "threshold+sched"),
        ("none", "threshold"),
        ("dual", "static"),
        ("dual", "threshold"),
    ]
    assert told[-1] == (10, 10)
    (left,) = read_setting(tmp_path / "run")["left_out"]
    assert (left["label"], left["cache"]) == ("threshold+sched", "dual")
    summary = summarise_folder(tmp_path / "run")
    page = write_report(tmp_path / "run").read_text()
    assert "threshold+sched with cache dual" in page and "Left out: `threshold+sched` with cache dual, on copy" in page
    assert len(summary["rows"]) == 2 * 5
    assert "Left out: `threshold+sched` with cache dual, on copy: SchED reads" in markdown(summary)
    with pytest.raises(PolicyError, match="threshold.sched does not work with cache dual on copy: SchED reads"):
        run(
            plan(str(checkpoint), policies, "copy", caches="dual", samples=2, block_length=16),
            tmp_path / "other",
            quiet=True,
        )


def test_names_of_tasks():
    assert task_names("all") == list(TASKS)
    assert task_names("sort,copy,sort") == ["sort", "copy"]
    assert task_names(["oracle-choose-4-6", "copy"]) == ["oracle-choose-4-6", "copy"]
    assert make_oracle("oracle-choose-4-6").name == "choose(4,6)"


def test_wordings_are_crossed_or_mixed():
    mixed = draw("copy", "test", 0, 0, 12)
    crossed = draw("copy", "test", 0, 0, 12, (0, 2))
    assert len({p.template for p in mixed}) == 3
    assert [(p.template, p.sample) for p in crossed] == [(t, s) for t in (0, 2) for s in range(12)]
    assert [p.expected for p in crossed[:12]] == [p.expected for p in crossed[12:]] == [p.expected for p in mixed]


def test_a_longer_draw_goes_on_where_a_shorter_one_ended():
    assert [p.prompt for p in draw("sort", "valid", 3, 4, 5)] == [p.prompt for p in draw("sort", "valid", 3, 0, 9)][4:]


def test_fair_canvas_is_near_the_answer():
    found = draw("copy", "test", 0, 0, 20, None, lambda text: len(text.split()))
    for problem in found:
        assert problem.canvas % 4 == 0
        assert 1 <= problem.canvas - len(problem.expected.split()) <= 4
    parted = shares(found, 5)
    assert [len(batch) for batch in parted] == [5] * 4
    canvases = [p.canvas for batch in parted for p in batch]
    assert canvases == sorted(canvases)
    assert sorted(p.sample for batch in parted for p in batch) == list(range(20))


def test_fair_canvas_spends_no_forwards_on_the_tail(tmp_path):
    k2 = small(["topk:k=2"], "copy", early_stop=False, egp=False)
    long = run(k2, tmp_path / "long", hesitant(), quiet=True)
    short = run(
        small(["topk:k=2"], "copy", early_stop=False, egp=False, canvas="answer"), tmp_path / "short", hesitant()
    )
    assert [r["nfe"] for r in long if r["label"] != "static"] == [16] * 5
    assert {r["n_canvas"] for r in short} <= {12}
    assert all(r["nfe"] == r["n_canvas"] / 2 for r in short if r["label"] != "static")


def killed_at(size, folder, setting):
    """Run in a process of its own (forked: importing torch again would take longer than the test), and kill that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking a process with threads
        child = os.fork()
    if child == 0:
        try:
            run(setting, folder, quiet=True)
        finally:
            os._exit(0)
    file = folder / NAME
    while not (file.exists() and file.stat().st_size >= size):
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "it ended before it could be killed"
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return file.read_bytes()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killing_it_changes_nothing(tmp_path):
    """SIGKILL at random moments; then finished here, and compared with a run that nobody disturbed."""
    setting = plan(
        "none",
        ["threshold", "topk:k=2,score=random"],
        "oracle-shuffle-5,oracle-latin4",
        samples=40,
        batch_size=4,
        temperature=1.0,
    )
    wanted = run(setting, tmp_path / "calm", quiet=True)
    size = (tmp_path / "calm" / NAME).stat().st_size
    seed = time.time_ns()
    moments = random.Random(seed)
    folder, left = tmp_path / "killed", b""
    for share in (0.0, 0.3, 0.6):
        found = killed_at(size * moments.uniform(share, share + 0.25), folder, setting)
        assert found.startswith(left[: left.rfind(b"\n") + 1]), f"a finished sample was run twice (seed {seed})"
        assert 0 <= len(found) < size, f"seed {seed}"
        left = found
    done = run(setting, folder, quiet=True)
    assert (folder / NAME).read_bytes().startswith(left[: left.rfind(b"\n") + 1])
    assert [json.dumps(timeless(r)) for r in done] == [json.dumps(timeless(r)) for r in wanted], f"seed {seed}"
    assert read_records(folder) == done


def test_default_policies_that_do_not_fit_are_left_out_by_name(tmp_path):
    summary = compare("tiny", (), "oracle-shuffle-4", tmp_path, samples=2, temperature=1.0, quiet=True)
    drafted = "freedave:step=(threshold),drafts=8,cross_block=true"
    assert [x["label"] for x in summary["setting"]["left_out"]] == ["adablock+localleap", drafted]
    with pytest.raises(PolicyError, match=r"adablock\+localleap does not work with cache none on oracle-shuffle-4"):
        compare("tiny", ["adablock+localleap"], "oracle-shuffle-4", tmp_path / "b", samples=2, quiet=True)
