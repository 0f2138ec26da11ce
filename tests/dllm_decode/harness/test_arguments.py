"""What the bridge to the harness does before the harness is there: arguments, wishes, texts, ranks."""

from __future__ import annotations

import json
import socket

import pytest

from dllm_decode import DllmError, GenerationConfig
from dllm_decode.engine.policy_file import PolicyFile, write_policy_file
from dllm_decode.harness.arguments import ELSEWHERE, NAMES, read_model_args
from dllm_decode.harness.launch import complete
from dllm_decode.harness.ranks import Ranks, _leave
from dllm_decode.harness.requests import Tally, Wish
from samplers import PolicyError
from samplers.registry import REGISTRY, lookup
from tests.dllm_decode.answering import codec

# Arguments.


def test_defaults_and_given_arguments():
    plain = read_model_args(pretrained="tiny")
    assert (plain.policy, plain.cache, plain.max_new_tokens, plain.mc_num) == ("topk", "none", None, 128)
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
    assert codec().cut(ids, ())[0] == "one two. Question: three"
    assert codec().cut(ids, ("Question:", "nothing"))[0] == "one two. "
    assert codec().cut(ids, ("Question:", "<|sep|>"))[0] == "one"


def test_tallies_add_up():
    tally = Tally(2, 10, 10, 100, 30, 64, 2.0)
    tally.merge(Tally(1, 5, 6, 50, 15, 32, 1.0))
    assert vars(tally) == vars(Tally(3, 15, 16, 150, 45, 96, 3.0))
    assert tally.figures()["content_tokens_per_forward"] == 3.0
    assert Tally().figures()["nfe_per_request"] == 0


def test_the_command_line_is_completed(tmp_path):
    assert complete([]) == [] and complete(["ls", "tasks"]) == ["ls", "tasks"]
    assert complete(["--tasks", "a"]) == ["run", "--tasks", "a", "--model", "dllm-decode", "--device", "auto"]
    assert complete(["run", "-M", "hf", "--device=cpu"]) == ["run", "-M", "hf", "--device=cpu"]
    config = tmp_path / "run.yaml"
    config.write_text("model: hf\ndevice: cpu\ntasks: [a]\n")
    assert complete(["--config", str(config)]) == ["run", "--config", str(config)]
    config.write_text("tasks: [a]\n")
    assert complete([f"--config={config}"])[2:] == ["--model", "dllm-decode", "--device", "auto"]


# Ranks.


def test_one_process_is_alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    ranks = Ranks.read()
    assert (ranks.rank, ranks.world_size, ranks.folder) == (0, 1, None)
    assert list(ranks.share(None, 3, str)) == ["0", "1", "2"]
    assert ranks.device("auto") is None and ranks.device("cuda:1") == "cuda:1"


@pytest.mark.parametrize(
    ("environment", "what"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two'; it must be a whole number"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is 2 of WORLD_SIZE 2"),
        ({"WORLD_SIZE": "2", "RANK": "1", "LOCAL_WORLD_SIZE": "1"}, "several machines; give work_folder=FOLDER"),
    ],
)
def test_a_broken_environment_is_named(monkeypatch, environment, what):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DllmError, match=what):
        Ranks.read()


def test_the_last_rank_to_leave_removes_the_folder(tmp_path):
    folder = tmp_path / "ranks"
    for rank in range(2):
        assert list(Ranks(rank, 2, rank, folder).share("asked", 1, str)) == ["0"]
    _leave(folder, 1, 2)
    assert folder.exists()
    _leave(folder, 0, 2)
    assert not list(tmp_path.iterdir())


def test_a_rank_that_has_died_is_done_without(tmp_path):
    """Rank 1 has done a shard and claimed another: rank 0 takes the first as it is, and the claim over."""
    first, second = (Ranks(rank, 2, rank, tmp_path) for rank in range(2))

    def dies(number):
        if number == 1:
            raise KeyboardInterrupt
        return ["rank 1", number]

    with pytest.raises(KeyboardInterrupt):
        list(second.share(["asked"], 3, dies))
    (folder,) = tmp_path.iterdir()
    gone = {"worker": "gone", "host": socket.gethostname(), "pid": 1, "born": "never"}
    (folder / "claims" / f"{1:08d}").write_text(json.dumps(gone))
    wanted = [["rank 1", 0], ["rank 0", 1], ["rank 0", 2]]
    assert list(first.share(["asked"], 3, lambda number: ["rank 0", number])) == wanted
    assert list(second.share(["asked"], 3, lambda number: pytest.fail("done already"))) == wanted
    assert list(second.share(["other"], 1, lambda number: number)) == [0]
