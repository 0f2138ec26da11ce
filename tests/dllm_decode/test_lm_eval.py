"""The bridge to EleutherAI's harness: its requests, its tasks, its command line and its ranks, without a network."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch

from dllm_decode import CallableModel, DiffusionSampler, DllmError, GenerationConfig, NativeModel
from dllm_decode.cli import main
from dllm_decode.evaluate import evaluate
from dllm_decode.harness.arguments import ELSEWHERE, NAMES, read_model_args
from dllm_decode.harness.launch import complete
from dllm_decode.harness.ranks import Ranks
from dllm_decode.harness.requests import Tally, Wish, cut_text
from dllm_decode.models import LLaDA, LLaDAConfig, load_model
from dllm_decode.policy_file import PolicyFile, write_policy_file
from dllm_decode.tasks import TASKS, samples
from dllm_decode.tasks.tokenizer import EOS_ID, MASK_ID, vocabulary
from samplers import PolicyError
from samplers.registry import REGISTRY, lookup
from tests.dllm_decode.answering import answering, codec, table_of

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


@pytest.fixture(scope="session")
def lm_eval(tmp_path_factory):
    os.environ.update(OFFLINE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pytest.importorskip("lm_eval", reason="the extra 'eval' is not installed")
        import datasets
        import lm_eval.evaluator
        import lm_eval.utils

        import dllm_decode.harness.lm  # noqa: F401
    lm_eval.utils._LOGGING_CONFIGURED = True  # its handler would keep the stderr of one test
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    datasets.disable_progress_bars()
    return found


@pytest.fixture(scope="session")
def harness_model(lm_eval):
    from dllm_decode.harness.lm import HarnessModel

    return HarnessModel


@pytest.fixture(scope="session")
def instance(lm_eval):
    from lm_eval.api.instance import Instance

    return lambda *arguments, kind="generate_until": Instance(kind, {}, arguments, 0)


@pytest.fixture(scope="session")
def random_model() -> NativeModel:
    """Undecided about everything, with the bundled tokenizer."""
    torch.manual_seed(0)
    size = len(vocabulary())
    sizes = {"d_model": 16, "n_layers": 2, "n_heads": 2, "n_kv_heads": 2, "mlp_hidden_size": 24, "init_std": 0.5}
    module = LLaDA(LLaDAConfig(**sizes, vocab_size=size, max_sequence_length=256))
    return NativeModel(module, mask_id=MASK_ID, eos_ids=(EOS_ID,), tokenizer=codec(), name="random")


# Arguments.


def test_defaults_and_given_arguments():
    plain = read_model_args(pretrained="tiny")
    assert (plain.policy, plain.cache, plain.max_new_tokens, plain.mc_num) == ("topk:k=1", "none", None, 128)
    assert plain.config == GenerationConfig() and plain.check_greedy and not plain.given
    args = read_model_args(
        pretrained="x/y",
        policy="adablock+localleap:radius=4",
        cache="dual",
        max_new_tokens=64,
        block_length="none",
        temperature=0.5,
        suppress_tokens=3,
        branches="auto",
        dtype="auto",
        mc_num=4,
        check_greedy=False,
        escape_until=True,
        trust_remote_code=True,
    )
    assert args.config == GenerationConfig(block_length=None, temperature=0.5, suppress_tokens=(3,))
    assert (args.max_new_tokens, args.mc_num, args.dtype, args.escape_until) == (64, 4, None, True)


def test_a_tuned_policy_file_brings_its_cache_and_settings(tmp_path):
    path = tmp_path / "best.json"
    write_policy_file(path, PolicyFile("localleap:radius=2", "dual", {"block_length": 8, "temperature": 0.3}))
    args = read_model_args(pretrained="tiny", policy=f"@{path}", temperature=0.0)
    assert (args.policy, args.cache) == ("localleap:radius=2", "dual")
    assert (args.config.block_length, args.config.temperature) == (8, 0.0)
    assert read_model_args(pretrained="tiny", policy=f"@{path}", cache="none").cache == "none"


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({}, "names no model; give pretrained=FOLDER"),
        ({"pretrained": "tiny", "polcy": "x"}, "unknown model argument 'polcy' \\(did you mean 'policy'\\?\\)"),
        ({"pretrained": "tiny", "gen_length": 8}, "'gen_length'; here it is max_new_tokens"),
        ({"pretrained": "tiny", "use_cache": True}, "here it is cache=prefix"),
        (
            {"pretrained": "tiny", "policy": "localleap:radius=4", "relaxed_threshold": 0.8},
            "a parameter of policy 'localleap' that was cut off at a comma: put the policy in quotes",
        ),
        ({"pretrained": "tiny", "policy": "topk:score=margin", "steps": 8}, "parameter of policy 'topk'"),
        ({"pretrained": "tiny", "max_new_tokens": 0}, "max_new_tokens is 0; give a whole number from 1"),
        ({"pretrained": "tiny", "mc_num": "many"}, "mc_num is 'many'"),
        ({"pretrained": "tiny", "escape_until": "yes"}, "escape_until is 'yes'; give true or false"),
        ({"pretrained": "tiny", "block_length": 0}, "block_length is 0"),
        ({"pretrained": "tiny", "policy": "@/nowhere"}, "cannot read policy file"),
        ({"pretrained": "tiny", "infill": True}, "unknown model argument 'infill'"),
    ],
)
def test_wrong_arguments_are_refused_before_a_model_is_loaded(given, what):
    with pytest.raises(DllmError, match=what):
        read_model_args(**given)


def test_policies_that_do_not_parse_are_refused():
    with pytest.raises(PolicyError, match="did you mean 'threshold'"):
        read_model_args(pretrained="tiny", policy="treshold")


def test_no_policy_parameter_is_hidden_by_a_model_argument():
    """Or a policy cut off at a comma would silently change something else."""
    for name in REGISTRY:
        assert not set(lookup(name).__dataclass_fields__) & set(NAMES), name
    assert not set(ELSEWHERE) & set(NAMES)


# Wishes and texts.


def test_what_a_task_asks_for_and_what_the_model_arguments_say():
    args = read_model_args(pretrained="tiny")
    assert Wish.of({}, args) == Wish(256)
    greedy = {"until": "a", "max_gen_toks": 7, "do_sample": False, "temperature": 0.7}
    assert Wish.of(greedy, args) == Wish(7, ("a",))
    drawn = {"until": ["a", ""], "max_new_tokens": 9, "do_sample": True, "temperature": 0.7, "top_p": 0.9}
    assert Wish.of(drawn, args) == Wish(9, ("a",), (("temperature", 0.7), ("top_p", 0.9)))
    assert Wish.of({"temperature": 0.0}, args).sampling == ()
    mine = read_model_args(pretrained="tiny", max_new_tokens=32, temperature=0.0, escape_until=True)
    assert Wish.of(drawn, mine) == Wish(32, (), (("top_p", 0.9),))
    for bad, what in (({"until": [3]}, "until is"), ({"max_gen_toks": 0}, "max_gen_toks is 0")):
        with pytest.raises(DllmError, match=what):
            Wish.of(bad, args)


def test_texts_are_cut_before_special_tokens_are_left_out():
    ids = codec().encode("one<|sep|> two. Question: three")
    assert cut_text(codec(), ids, ()) == "one two. Question: three"
    assert cut_text(codec(), ids, ("Question:", "nothing")) == "one two. "
    assert cut_text(codec(), ids, ("Question:", "<|sep|>")) == "one"


def test_tallies_add_up():
    tally = Tally(2, 10, 10, 100, 30, 64, 2.0)
    tally.merge(Tally(1, 5, 6, 50, 15, 32, 1.0))
    assert vars(tally) == vars(Tally(3, 15, 16, 150, 45, 96, 3.0))
    assert tally.figures()["content_tokens_per_forward"] == 3.0
    assert Tally().figures()["nfe_per_request"] == 0


# The model, request by request.


def test_it_is_registered_under_its_name(lm_eval, harness_model):
    from lm_eval.api.registry import get_model

    assert get_model("dllm-decode") is harness_model


ARITHMETIC = {"one": " a b c. d e", "two": " f g\n h i", "three": " j", "four": "k l m n o p. q"}


@pytest.mark.parametrize("batch_size", [1, 3, "8"])
@pytest.mark.parametrize("policy", ["topk:k=1", "threshold", "freedave:step=(topk:k=1),drafts=3"])
def test_generate_until_honours_every_stop_string(harness_model, instance, policy, batch_size):
    model = harness_model(answering(ARITHMETIC), batch_size, policy=policy, block_length=8)
    texts = {name: model.apply_chat_template([{"role": "user", "content": name}]) for name in ARITHMETIC}
    asked = [
        ("one", ["."], " a b c"),
        ("two", ["."], " f g\n h i"),
        ("two", ["\n"], " f g"),
        ("three", [], " j"),
        ("four", [". q", " n"], "k l m"),
        ("one", "d e", " a b c. "),
    ]
    requests = [instance(texts[name], {"until": until, "max_gen_toks": 16}) for name, until, _ in asked]
    assert model.generate_until(requests, disable_tqdm=True) == [answer for _, _, answer in asked]
    assert model.tally.requests == len(asked)


def test_stopping_saves_forwards_and_escape_until_does_not_stop(harness_model, instance):
    spent = {}
    for escape in (False, True):
        model = harness_model(answering({"long": " a b. c d e f g h i j k"}), escape_until=escape)
        prompt = model.apply_chat_template([{"role": "user", "content": "long"}])
        (text,) = model.generate_until([instance(prompt, {"until": ["."], "max_gen_toks": 32})], disable_tqdm=True)
        assert text == (" a b. c d e f g h i j k" if escape else " a b")
        spent[escape] = model.tally.nfe
    assert spent[False] <= 4 < spent[True]


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_answers_are_those_of_the_sampler_in_any_batch_and_order(harness_model, instance, random_model, cache):
    prompts = [" a b c", " copy: x y", " z", " one two three four", " q q"]
    config = {"max_new_tokens": 12, "block_length": 4}
    alone = DiffusionSampler(random_model, "threshold:threshold=0.2", cache, GenerationConfig(**config))
    want = [alone.generate([prompt], chat=False).texts[0] for prompt in prompts]
    for size, order in ((1, [0, 1, 2, 3, 4]), (2, [4, 2, 0, 3, 1]), (8, [3, 3, 1, 0, 2, 4])):
        model = harness_model(random_model, size, policy="threshold:threshold=0.2", cache=cache, **config)
        found = model.generate_until([instance(prompts[i], {"until": []}) for i in order], disable_tqdm=True)
        assert found == [want[i] for i in order]
        assert model.tally.requests == 5  # the repeated request is decoded once


def test_repeated_draws_differ_and_come_again_with_the_seed(harness_model, instance, random_model):
    def draw(seed: int) -> list[str]:
        model = harness_model(random_model, 2, policy="topk:k=2", temperature=1.0, seed=seed, max_new_tokens=8)
        return model.generate_until([instance(" a b", {"until": []})] * 4, disable_tqdm=True)

    assert len(set(draw(0))) == 4
    assert draw(0) == draw(0) != draw(1)


def test_long_prompts_lose_their_beginning(harness_model, instance, caplog):
    seen = []

    def fn(ids):
        seen.append(ids.tolist())
        return torch.zeros(*ids.shape, len(vocabulary()))

    size = len(vocabulary())
    model = CallableModel(fn, mask_id=MASK_ID, vocab_size=size, tokenizer=codec(), max_length=8)
    text = " a b c d e f g h"
    with caplog.at_level("WARNING", logger="lm_eval"):
        harness_model(model, max_new_tokens=3).generate_until([instance(text, {})], disable_tqdm=True)
    assert seen[0][0] == [*codec().encode(text)[-5:], *[MASK_ID] * 3]
    with pytest.raises(DllmError, match="leaves no room for a prompt"):
        harness_model(model, max_new_tokens=8).generate_until([instance(text, {})], disable_tqdm=True)


def test_bos_is_added_where_it_is_missing(harness_model, instance):
    seen = []

    def fn(ids):
        seen.append(ids.tolist()[0])
        return torch.zeros(*ids.shape, len(vocabulary()))

    model = CallableModel(fn, mask_id=MASK_ID, vocab_size=len(vocabulary()), tokenizer=codec())
    lm = harness_model(model, add_bos_token=True, max_new_tokens=1)
    lm.generate_until([instance(" a", {}), instance("<|bos|> b", {}), instance("", {})], disable_tqdm=True)
    bos = codec().tokenizer.bos_token_id
    assert sorted(row[:-1] for row in seen) == sorted(
        [[bos], [bos, *codec().encode(" a")], [bos, *codec().encode(" b")]]
    )


def test_chat_templates(harness_model, random_model, tmp_path):
    lm = harness_model(random_model)
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "well"}]
    assert lm.apply_chat_template(turns[:1]) == codec().render(turns[:1])
    assert lm.apply_chat_template(turns, add_generation_prompt=False).endswith("well")
    assert lm.chat_template(True) == codec().chat_template and lm.chat_template(False) is None
    assert lm.tokenizer_name.startswith("random-")
    with pytest.raises(DllmError, match="give the option without a name"):
        lm.chat_template("fancy")
    bare = type(codec())(codec().tokenizer)
    bare.chat_template = None
    lm.codec = bare
    with pytest.raises(DllmError, match="has no chat template; leave --apply_chat_template out"):
        lm.apply_chat_template(turns)


def test_loglikelihoods_rank_what_the_model_says_first(harness_model, instance):
    model = harness_model(answering({"capital": " a b c", "number": " d"}), 4, mc_num=16)
    prompt = model.apply_chat_template([{"role": "user", "content": "capital"}])
    pairs = [(prompt, " a b c"), (prompt, " a b d"), (prompt, " x y z"), (prompt, " a b c")]
    found = model.loglikelihood([instance(*pair, kind="loglikelihood") for pair in pairs], disable_tqdm=True)
    assert found[0] == found[3] and found[0][0] == pytest.approx(0, abs=1e-6) and found[0][1] is True
    assert found[0][0] > found[1][0] > found[2][0] and found[1][1] is found[2][1] is False
    model = harness_model(answering({"capital": " a b c"}), mc_num=16, check_greedy=False)
    assert model.loglikelihood([instance(*pairs[0], kind="loglikelihood")], disable_tqdm=True)[0][1] is False


def test_blanks_between_context_and_continuation_belong_to_the_continuation(harness_model, random_model):
    lm = harness_model(random_model)
    assert lm._pair(" a ", "b") == lm._pair(" a", " b") == (codec().encode(" a"), codec().encode(" b"))
    assert lm._pair("", " b") == ([], codec().encode(" b"))


def test_rolling_likelihood_goes_window_by_window(harness_model, instance):
    size = len(vocabulary())
    model = CallableModel(
        lambda ids: torch.zeros(*ids.shape, size), mask_id=MASK_ID, vocab_size=size, tokenizer=codec(), max_length=5
    )
    lm = harness_model(model, mc_num=2)
    texts = [" a b c d e f g h i j k l", " a", ""]
    found = lm.loglikelihood_rolling([instance(text, kind="loglikelihood_rolling") for text in texts], True)
    uniform = -torch.tensor(float(size)).log().item()
    assert found == pytest.approx([12 * uniform, uniform, 0.0], rel=1e-5)


@pytest.mark.parametrize("bad", [0, "auto", "auto:4", -1])
def test_batch_sizes_are_whole_numbers(harness_model, bad):
    with pytest.raises(DllmError, match="batch_size is .*; give a whole number from 1 up"):
        harness_model("tiny", bad)


def test_impossible_combinations_are_refused_at_once(harness_model, random_model):
    with pytest.raises(DllmError, match="cache='dual' cannot work"):
        harness_model(answering({}), cache="dual")
    with pytest.raises(DllmError, match="has no tokenizer"):
        harness_model(CallableModel(lambda ids: ids, mask_id=0, vocab_size=4))


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


def test_our_tasks_on_the_bundled_model_score_as_evaluate_does(lm_eval, tmp_path):
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    from dllm_decode.harness.tasks import own_task, write_config

    names = ["copy", "latin4", "lines"]
    configs = [load_yaml(write_config(own_task(f"dllm/{name}"), tmp_path)[0], resolve_func=True) for name in names]
    settings = {"policy": "localleap:radius=2,relaxed_threshold=0.8", "cache": "dual", "block_length": 16}
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
        assert found["results"][f"dllm_{name}"]["accuracy,none"] == pytest.approx(report.tasks[name].accuracy)
        texts = {s["doc"]["index"]: s["resps"][0][0] for s in found["samples"][f"dllm_{name}"]}
        assert [texts[i] for i in range(12)] == [record.text for record in report.tasks[name].records]
    spent = found["config"]["decoding"]
    assert spent["requests"] == 36 and spent["nfe"] == sum(record.nfe for record in report.records)
    assert spent["content_tokens"] == sum(record.content_tokens for record in report.records)
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


def test_the_command_line_is_completed(tmp_path):
    assert complete([]) == [] and complete(["ls", "tasks"]) == ["ls", "tasks"]
    assert complete(["--tasks", "a"]) == ["run", "--tasks", "a", "--model", "dllm-decode", "--device", "auto"]
    assert complete(["run", "-M", "hf", "--device=cpu"]) == ["run", "-M", "hf", "--device=cpu"]
    config = tmp_path / "run.yaml"
    config.write_text("model: hf\ndevice: cpu\ntasks: [a]\n")
    assert complete(["--config", str(config)]) == ["run", "--config", str(config)]
    config.write_text("tasks: [a]\n")
    assert complete([f"--config={config}"])[2:] == ["--model", "dllm-decode", "--device", "auto"]


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


# Ranks.


def test_one_process_is_alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    ranks = Ranks.join()
    assert (ranks.rank, ranks.world_size) == (0, 1)
    assert ranks.gather_object("x") == ["x"] and ranks.all_gather(torch.tensor(3)).item() == 3
    assert ranks.device("auto") is None and ranks.device("cuda:1") == "cuda:1"


@pytest.mark.parametrize(
    ("environment", "what"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two'; it must be a whole number"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is 2 of WORLD_SIZE 2"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "MASTER_ADDR, MASTER_PORT is not set"),
    ],
)
def test_a_broken_environment_is_named(monkeypatch, environment, what):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DllmError, match=what):
        Ranks.join()


def one_rank(rank: int, port: int, folder: Path, answers: Path) -> None:
    """What one process of ``torchrun --nproc-per-node 2`` does."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    os.environ.update(
        WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    found = lm_eval.simple_evaluate(
        model="dllm-decode",
        model_args={"pretrained": "tiny", "policy": "threshold", "block_length": 16},
        device="cpu",
        batch_size=4,
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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")  # the harness takes seconds to import
    ranks = [fork.Process(target=one_rank, args=(rank, port, tmp_path, tmp_path / "found.json")) for rank in range(2)]
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
    assert accuracy == pytest.approx(report.tasks["copy"].accuracy)
    assert texts == {str(record.index): record.text for record in report.records}
    assert decoded == 7  # 4 + 3; the harness evens out with a repeated request, which is decoded once
