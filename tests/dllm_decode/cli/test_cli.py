"""The command line on real input: what it prints, what it saves, how it ends."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import dllm_decode.models
from dllm_decode import DiffusionSampler, __version__, attention
from dllm_decode.cli import main
from dllm_decode.engine.trace import load_traces
from dllm_decode.models import LLaDA, LLaDAConfig
from dllm_decode.tasks import TASKS, samples
from dllm_decode.tasks.tokenizer import EOS_ID, MASK_ID, save_tokenizer, vocabulary
from samplers import REGISTRY, lookup
from tests.dllm_decode.answering import answering, codec, table_of

ROOT = Path(__file__).parents[3]
SORT = {"sort: b a": " a b", "sort: d c": " c d", "lines:\nsort: b a\nsort: d c": " a b\n c d"}


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch):
    """What the console measures must not depend on where the tests run."""
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "DLLM_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def table(monkeypatch):
    """`--model tiny` answers from a table."""

    def use(answers, **options):
        model = answering(answers, **options)
        monkeypatch.setattr(dllm_decode.models, "load_model", lambda name, **_: model)
        return model

    use(SORT)
    return use


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A random LLaDA with the bundled tokenizer, as a folder."""
    folder = tmp_path_factory.mktemp("checkpoint")
    config = LLaDAConfig(
        d_model=16,
        n_layers=1,
        n_heads=2,
        mlp_hidden_size=24,
        vocab_size=len(vocabulary()),
        embedding_size=len(vocabulary()),
        max_sequence_length=64,
        mask_token_id=MASK_ID,
        eos_token_id=EOS_ID,
        pad_token_id=EOS_ID,
    )
    LLaDA(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


# ------------------------------------------------------------------------------------------------------ start-up


@pytest.mark.parametrize("args", [[], ["generate"], ["evaluate"], ["policies"], ["replay"], ["demo"]])
def test_help_is_quick_and_brings_no_torch(args):
    """Measured in processor time: the wall clock belongs to whoever else uses the machine."""
    code = (
        "import sys; from dllm_decode.cli import main; code = main(sys.argv[1:]); "
        "assert not {'torch', 'transformers', 'scipy'} & sys.modules.keys(); sys.exit(code)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code, *args, "--help"], cwd=ROOT, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "Usage: dllm-decode" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


def test_live_view_and_traces_import_no_torch():
    code = (
        "import sys, dllm_decode.viewing.live, dllm_decode.viewing.playback, dllm_decode.engine.trace; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_module_and_version(capsys):
    done = subprocess.run(
        [sys.executable, "-m", "dllm_decode", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"dllm-decode {__version__}\n"
    assert main([]) == 2 and "Usage" in "".join(capsys.readouterr())  # nothing asked: the help, as a usage error


def test_verbose_says_once_which_attention_and_why(checkpoint, capsys, monkeypatch):
    monkeypatch.setattr(attention, "_said", set())
    command = [
        "generate",
        "copy: a b",
        "--raw",
        "--model",
        str(checkpoint),
        "--max-new-tokens",
        "3",
        "--no-early-stop",
    ]
    assert main(["--verbose", *command, "--device", "cpu"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith(
        "dllm-decode: attention on cpu in float32, no cache: sdpa (flash: it runs on CUDA only; "
    )
    monkeypatch.setattr(attention, "_said", set())
    assert main([*command, "--device", "cpu"]) == 0 and capsys.readouterr().err == ""


# ------------------------------------------------------------------------------------------------------ generate


def test_generate_prints_the_answer_alone(table, capsys):
    assert main(["generate", "sort: b a"]) == 0
    got = capsys.readouterr()
    assert got.out == " a b\n" and got.err == ""


def test_generate_reads_prompts_from_a_file_and_standard_input(table, capsys, tmp_path, monkeypatch):
    (tmp_path / "p.txt").write_text("sort: b a\n\nsort: d c\n")
    assert main(["generate", "-f", str(tmp_path / "p.txt")]) == 0
    assert capsys.readouterr().out == " a b\n c d\n"
    prompts = ["sort: d c", {"prompt": "sort: b a"}, [{"role": "user", "content": "sort: d c"}]]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts))
    assert main(["generate", "-f", str(tmp_path / "p.jsonl"), "--batch-size", "2"]) == 0
    assert capsys.readouterr().out == " c d\n a b\n c d\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO("lines:\nsort: b a\nsort: d c\n"))
    assert main(["generate"]) == 0  # standard input is one prompt
    assert capsys.readouterr().out == " a b\n c d\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO("sort: b a\nsort: d c\n"))
    assert main(["generate", "-f", "-"]) == 0  # -f - is one per line
    assert capsys.readouterr().out == " a b\n c d\n"


def test_generate_json_is_the_result(table, capsys, tmp_path):
    model = table(SORT)
    (tmp_path / "p.txt").write_text("sort: b a\nsort: d c\n")
    flags = ["--policy", "topk:k=2", "--max-new-tokens", "8", "--block-length", "4", "--no-early-stop"]
    assert main(["generate", "-f", str(tmp_path / "p.txt"), "--json", *flags]) == 0
    found = lines(capsys.readouterr().out)
    want = DiffusionSampler(model, "topk:k=2").generate(
        ["sort: b a", "sort: d c"], max_new_tokens=8, block_length=4, early_stop=False
    )
    assert len(found) == 2
    for row, one in enumerate(found):
        assert one.pop("seconds") > 0
        assert one == {
            "prompt": ["sort: b a", "sort: d c"][row],
            "text": want.texts[row],
            "tokens": want.sequences[row],
            "nfe": want.nfe[row],
            "full_forwards": want.full_forwards[row],
            "rows_forwarded": want.rows_forwarded[row],
            "tokens_forwarded": want.tokens_forwarded[row],
            "content_tokens": want.content_tokens[row],
            "until_eos_tokens": want.until_eos_tokens[row],
            "canvas_tokens": want.canvas_tokens[row],
            "tokens_per_forward": want.tokens_per_forward[row],
        }
        assert one["nfe"] == 4 and one["content_tokens"] == 2


def test_every_setting_reaches_the_trace(checkpoint, capsys, tmp_path):
    trace = tmp_path / "t.jsonl"
    flags = "--max-new-tokens 12 --block-length 5 --temperature 0.7 --top-p 0.9 --top-k 40 --seed 3 --guidance 0.5"
    where = ["--model", str(checkpoint), "--policy", "topk:k=2", "--cache", "dual", "--dtype", "float32"]
    assert main(["generate", "copy: a b", *flags.split(), *where, "--device", "cpu", "--trace", str(trace)]) == 0
    (read,) = load_traces(trace)
    meta = read.meta
    assert (meta["policy"], meta["cache"], meta["model"]) == ("topk:k=2", "dual", str(checkpoint))
    want = dict(max_new_tokens=12, block_length=5, temperature=0.7, top_p=0.9, top_k=40, seed=3, guidance=0.5)
    assert {name: meta["config"][name] for name in want} == want
    assert "sep" in meta["prompt_text"]  # in the chat template
    assert main(["generate", "copy: a b", "--raw", "--model", str(checkpoint), "--trace", str(trace)]) == 2
    assert "64 in all" in capsys.readouterr().err  # refused before decoding: the old trace is still there
    assert load_traces(trace)[0].meta == meta
    assert main(["generate", "copy: a b", "--raw", *where, *flags.split(), "--trace", str(trace)]) == 0
    assert load_traces(trace)[0].meta["prompt_text"] == "copy: a b"


def test_infill_prints_the_whole_text(checkpoint, capsys):
    prompt = "copy: a<|mask|> c"
    where = ["--model", str(checkpoint), "--device", "cpu"]
    assert main(["generate", prompt, *where]) == 2
    error = capsys.readouterr().err
    assert "holds the mask token" in error and "--infill" in error
    assert main(["generate", prompt, "--infill", "--no-early-stop", "--json", *where]) == 0
    (found,) = lines(capsys.readouterr().out)
    assert found["canvas_tokens"] == 1 and found["nfe"] == 1 and MASK_ID not in found["tokens"]
    if EOS_ID not in found["tokens"]:
        assert found["text"].startswith("copy: a") and found["text"].endswith(" c")


def test_generate_live_without_a_terminal_prints_a_line_per_forward(table, capsys):
    assert main(["generate", "sort: b a", "--live", "--policy", "topk:k=1"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in out[2:5]] == [["forward", "1"], ["forward", "2"], ["forward", "3"]]
    assert out[-1] == " a b" and "\x1b" not in "".join(out)


# ------------------------------------------------------------------------------------------------------ evaluate


def test_evaluate_prints_exactly_one_json_object(table, capsys):
    names = ["copy", "sort"]
    drawn = {name: samples(name, "test", 4, 0) for name in names}
    table(table_of(drawn["copy"]) | table_of(drawn["sort"], wrong=lambda i: i == 0))
    flags = ["--model", "tiny", "--tasks", "copy,sort", "--samples", "4", "--policy", "topk:k=1", "--json"]
    assert main(["evaluate", *flags]) == 0
    got = capsys.readouterr()
    assert got.err == "" and got.out.count("\n") == 1
    found = json.loads(got.out)
    assert set(found) == {"policy", "mean_accuracy", "tasks"} and list(found["tasks"]) == names
    assert found["policy"] == "topk:k=1" and found["mean_accuracy"] == 0.875
    for task in found["tasks"].values():
        assert set(task) == {"accuracy", "interval", "samples", "nfe", "tpf_content"}
        assert task["interval"][0] <= task["accuracy"] <= task["interval"][1] and task["samples"] == 4
    assert found["tasks"]["sort"]["accuracy"] == 0.75
    assert main(["evaluate", *flags[:-1]]) == 0
    shown = capsys.readouterr().out
    assert "75.0 %" in shown and "87.5 %" in shown and "sort" in shown


def test_evaluate_all_names_every_task(checkpoint, capsys):
    assert main(["evaluate", "--samples", "1", "--model", str(checkpoint), "--tasks", "copy,add", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["tasks"]) == ["copy", "add"]
    assert main(["evaluate", "--help"]) == 0 and len(TASKS) >= 13


# ------------------------------------------------------------------------------------------ policies, replay, demo


def test_policies_lists_every_registered_policy(capsys):
    assert main(["policies", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found] == list(REGISTRY)
    for row in found:
        assert row["paper"] == REGISTRY[row["name"]].paper and row["summary"]
        fields = {p["name"]: p for p in row["parameters"]}
        assert set(fields) == {f.name for f in lookup(row["name"]).__dataclass_fields__.values() if f.init}
    threshold = next(row for row in found if row["name"] == "threshold")
    assert threshold["parameters"] == [{"name": "threshold", "type": "float", "default": 0.9}]
    assert threshold["decides"] and not next(row for row in found if row["name"] == "eosstop")["decides"]
    assert main(["policies"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in REGISTRY) and "threshold=0.9" in shown and "2505.22618" in shown


def test_policies_explains_one(capsys):
    assert main(["policies", "TopK"]) == 0
    shown = capsys.readouterr().out
    assert "steps: forwards per block" in shown and "k=1  (int)" in shown
    assert main(["policies", "treshold"]) == 2
    assert "did you mean 'threshold'?" in capsys.readouterr().err


def test_replay_plays_what_generate_saved(table, capsys, tmp_path, monkeypatch):
    (tmp_path / "p.txt").write_text("sort: b a\nsort: d c\n")
    trace = str(tmp_path / "t.jsonl")
    assert main(["generate", "-f", str(tmp_path / "p.txt"), "--trace", trace, "--policy", "topk:k=1"]) == 0
    capsys.readouterr()
    monkeypatch.delattr(dllm_decode.models, "load_model")  # the trace is enough
    assert main(["replay", trace]) == 0
    shown = capsys.readouterr().out
    assert "row 0, policy topk" in shown and "row 1" in shown and "\x1b" not in shown
    assert shown.count("forward   1") == 2 and " a b∎" in shown and " c d∎" in shown
    assert main(["replay", trace, "--row", "1"]) == 0
    shown = capsys.readouterr().out
    assert "row 0" not in shown and " c d∎" in shown


def test_replay_on_an_ascii_stream(table, tmp_path):
    trace = str(tmp_path / "t.jsonl")
    assert main(["generate", "sort: b a", "--trace", trace, "--policy", "topk:k=1"]) == 0
    command = [sys.executable, "-m", "dllm_decode", "replay", trace]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and done.stderr == "" and "NFE 3" in done.stdout and done.stdout.isascii()


def test_demo_compares_two_policies_and_draws_a_picture(table, capsys, tmp_path):
    drawn = [samples(name, "test", 1, 0)[0] for name in ("sort", "chain", "lines")]
    table(table_of(drawn))
    svg = tmp_path / "live.svg"
    assert main(["demo", "--svg", str(svg)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("correct") == 6 and "wrong" not in shown
    assert all(name in shown for name in ("sort", "chain", "lines", "threshold", "topk:k=1"))
    picture = svg.read_text()
    assert picture.startswith("<svg") and "threshold" in picture
    assert "font-face" not in picture and "cdnjs" not in picture  # nothing is fetched to show it
    assert "forward&#160;1&#160;of" in picture and "NFE" in picture


# ---------------------------------------------------------------------------------------------- interrupt and pipes


def interrupt_at(number: int):
    def listen(call: int) -> None:
        if call == number:
            raise KeyboardInterrupt

    return listen


def test_interrupt_keeps_what_is_finished(table, capsys, tmp_path):
    (tmp_path / "p.txt").write_text("sort: b a\nsort: d c\nsort: b a\n")
    trace = tmp_path / "t.jsonl"
    args = ["generate", "-f", str(tmp_path / "p.txt"), "--policy", "topk:k=1", "--trace", str(trace), "--json"]
    table(SORT, before_call=interrupt_at(7))  # three forwards per prompt: in the third prompt
    assert main(args) == 130
    got = capsys.readouterr()
    assert [one["text"] for one in lines(got.out)] == [" a b", " c d"] and "Traceback" not in got.err
    assert len(load_traces(trace)) == 2
    table(SORT, before_call=interrupt_at(1))
    assert main(args) == 130
    assert len(load_traces(trace)) == 2  # nothing finished: the old file stays


def test_interrupted_evaluation_shows_complete_tasks(table, capsys):
    drawn = {name: samples(name, "test", 2, 0) for name in ("copy", "sort")}
    copying = sum(len(codec().encode(s.answer)) + 1 for s in drawn["copy"])  # forwards, one prompt at a time
    table(table_of(drawn["copy"]) | table_of(drawn["sort"]), before_call=interrupt_at(copying + 2))
    args = ["evaluate", "--tasks", "copy,sort", "--samples", "2", "--batch-size", "1", "--json"]
    assert main(args) == 130
    got = capsys.readouterr()
    assert list(json.loads(got.out)["tasks"]) == ["copy"] and got.err == "interrupted: 1 of 2 tasks are complete\n"


def test_interrupt_of_the_live_view_is_quiet(table, capsys):
    table(SORT, before_call=interrupt_at(2))
    assert main(["generate", "sort: b a", "--live"]) in (0, 130)
    table(SORT, before_call=interrupt_at(2))
    assert main(["generate", "sort: b a", "--live", "--policy", "topk:k=1"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_closed_pipe_is_no_disaster():
    command = [sys.executable, "-m", "dllm_decode", "policies", "--json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        error = process.stderr.read()
    assert b"Traceback" not in error and b"BrokenPipe" not in error
    assert os.waitstatus_to_exitcode(process.returncode << 8) in (0, 1)
