"""Batch jobs: what a folder holds, who may work on it, and that nothing is lost, doubled or mixed up."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dllm_decode.errors import DllmError
from dllm_decode.jobs import Decoder, JobFolder, JobSettings, Manifest, Worker, create_or_resume, merge
from dllm_decode.jobs.files import written_whole
from dllm_decode.jobs.lines import Line
from samplers import PolicyError
from tests.dllm_decode.tiny import tiny

CONFIG = {"max_new_tokens": 6, "block_length": 3, "temperature": 0.7}
SETTINGS = JobSettings(model="random", policy="threshold:threshold=0.2", cache="dual")


def settings(**changes: Any) -> JobSettings:
    from dllm_decode.config import GenerationConfig

    config = GenerationConfig(**{**CONFIG, **changes}).to_dict()
    return JobSettings(model="random", policy="threshold:threshold=0.2", cache="dual", config=config)


def decoder() -> Decoder:
    return Decoder(tiny("llada"), settings(), batch_size=4)


def some_lines(count: int) -> list[dict[str, Any]]:
    own: list[dict[str, Any]] = [
        {},
        {"temperature": 0.0},
        {"policy": "topk:k=2", "cache": "none"},
        {"max_new_tokens": 9},
        {"samples": 2},
        {"seed": 7},
    ]
    return [{"id": f"line {i}", "prompt": [1 + i % 7, 2, 3][: 1 + i % 3], **own[i % len(own)]} for i in range(count)]


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def job_of(folder: Path, source: Path, shard_lines: int = 4, stale_after: float = 60.0) -> JobFolder:
    create_or_resume(source, folder, settings(), shard_lines=shard_lines)
    return JobFolder.open(folder, stale_after)


def answers(folder: Path, source: Path, shard_lines: int) -> bytes:
    job = job_of(folder, source, shard_lines)
    Worker(job, decoder()).run()
    merge(job, folder / "out.jsonl")
    return (folder / "out.jsonl").read_bytes()


def test_answers_depend_on_neither_shards_nor_order_nor_workers(tmp_path: Path) -> None:
    lines = some_lines(13)
    source = write(tmp_path / "in.jsonl", lines)
    whole = answers(tmp_path / "a", source, 100)
    assert whole == answers(tmp_path / "b", source, 4) == answers(tmp_path / "c", source, 1)
    assert [json.loads(line)["id"] for line in whole.splitlines()] == [line["id"] for line in lines]
    backwards = answers(tmp_path / "d", write(tmp_path / "back.jsonl", lines[::-1]), 3)
    assert sorted(backwards.splitlines()) == sorted(whole.splitlines()), "a line's answer does not depend on its place"
    job, workers = job_of(tmp_path / "e", source, 2), []
    for _ in range(3):
        workers.append(threading.Thread(target=Worker(JobFolder.open(job.path), decoder()).run))
        workers[-1].start()
    for worker in workers:
        worker.join()
    merge(job, tmp_path / "e.jsonl")
    assert (tmp_path / "e.jsonl").read_bytes() == whole


def test_answers_are_those_of_generate(tmp_path: Path) -> None:
    from dllm_decode import DiffusionSampler, GenerationConfig

    source = write(tmp_path / "in.jsonl", [{"id": "x", "prompt": [1, 2], "samples": 2}])
    (line,) = answers(tmp_path / "a", source, 4).splitlines()
    sampler = DiffusionSampler(tiny("llada"), SETTINGS.policy, cache="dual", config=GenerationConfig(**CONFIG))
    place = Line("x", None, {}).place()
    result = sampler.generate([[1, 2]], num_samples=2, places=[place])
    assert json.loads(line)["tokens"] == [s[:n] for s, n in zip(result.sequences, result.content_tokens, strict=True)]
    assert json.loads(line)["nfe"] == result.nfe and place[0] == Line("x", None, {}).place(3)[0]


def test_a_finished_shard_is_not_decoded_again(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", some_lines(9))
    job = job_of(tmp_path / "a", source)
    Worker(job, decoder()).run([1])
    stamp = job.part(1).stat().st_mtime_ns
    finished: list[int] = []
    assert Worker(JobFolder.open(job.path), decoder()).run(on_part=finished.append) == 2
    assert finished == [0, 2] and job.part(1).stat().st_mtime_ns == stamp
    assert not any(job.claims.iterdir()) and not [p for p in job.parts.iterdir() if p.name.startswith(".")]


def test_a_line_that_fails_has_its_error_in_its_place(tmp_path: Path) -> None:
    lines = some_lines(6)
    lines[2]["prompt"] = [1, 999]
    source = write(tmp_path / "in.jsonl", lines)
    with pytest.raises(DllmError, match="line 3: prompt 0 holds token id 999"):  # found before anything is decoded
        create_or_resume(source, tmp_path / "checked", settings(), check=decoder().check)
    assert not (tmp_path / "checked").exists()
    job = job_of(tmp_path / "a", source)
    Worker(job, decoder(), max_errors=1).run()
    merge(job, tmp_path / "out.jsonl")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [("error" in line) for line in found] == [i == 2 for i in range(6)]
    assert found[2] == {"id": "line 2", "error": {"message": found[2]["error"]["message"], "type": "DllmError"}}
    assert job.progress().errors == 1 and job.progress().complete
    again = job_of(tmp_path / "b", source, shard_lines=6)
    with pytest.raises(DllmError, match="1 lines of the job have failed, and --max-errors is 0"):
        Worker(again, decoder(), max_errors=0).run()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "line 2 is no JSON"),
        ("[1]", "line 2 is a list; write one object"),
        ('{"prompt": [1]}', "line 2 must have an 'id'"),
        ('{"id": "y", "prompt": "a", "messages": []}', "one of 'prompt', 'messages'"),
        ('{"id": "y", "prompt": "a", "temprature": 1}', "line 2: unknown setting 'temprature'"),
        ('{"id": "y", "prompt": "a", "samples": 0}', "line 2: samples is 0"),
        ('{"id": "y", "prompt": "a", "policy": "@/etc/passwd"}', "a policy file .* is given to the whole job"),
        ('{"id": "x", "prompt": [1]}', "lines 1 and 2 have the same id 'x'"),
        ('{"custom_id": "y", "url": "/v1/embeddings", "body": {}}', "asks for POST /v1/embeddings"),
        (
            '{"custom_id": "y", "url": "/v1/completions", "body": {"prompt": "a", "best_of": 3}}',
            "best_of is 3, which is",
        ),
        ('{"custom_id": "y", "url": "/v1/completions", "body": {"prompt": "a", "tool": 3}}', "'tool' is not served"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, text: str, sentence: str) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"id": "x", "prompt": [1]}\n' + text + "\n")
    with pytest.raises(DllmError, match=sentence):
        create_or_resume(source, tmp_path / "job", settings())
    assert not (tmp_path / "job").exists()


def test_another_job_in_the_folder_is_refused_with_what_differs(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", some_lines(3))
    create_or_resume(source, tmp_path / "a", settings())
    assert create_or_resume(source, tmp_path / "a", settings())[1], "the same goes on"
    with pytest.raises(DllmError, match="holds another job: temperature is 0.0, was 0.7"):
        create_or_resume(source, tmp_path / "a", settings(temperature=0.0))
    with pytest.raises(DllmError, match="the input holds .* bytes"):
        create_or_resume(write(tmp_path / "b.jsonl", some_lines(4)), tmp_path / "a", settings())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(DllmError, match="holds other files"):
        create_or_resume(source, tmp_path / "other", settings())


def test_an_input_that_changes_under_way_is_noticed(tmp_path: Path) -> None:
    lines = some_lines(9)
    source = write(tmp_path / "in.jsonl", lines)
    job = job_of(tmp_path / "a", source)
    Worker(job, decoder()).run([0])
    before = source.read_bytes()
    source.write_bytes(before.replace(b"line 5", b"LINE 5"))
    with pytest.raises(DllmError, match="has changed at line 5 or after"):
        Worker(job, decoder()).run()
    assert not any(job.claims.iterdir()), "the claim is given back"
    source.write_bytes(before)
    Worker(job, decoder()).run()
    assert job.progress().complete


def test_a_line_names_no_class_and_no_file(tmp_path: Path) -> None:
    for policy in ("os:system", "learn2pd:filter=/etc/passwd"):
        with pytest.raises(PolicyError):
            decoder().check(Line("a", [1, 2], {"policy": policy}))


def test_claims(tmp_path: Path) -> None:
    job = job_of(tmp_path / "a", write(tmp_path / "in.jsonl", some_lines(9)), stale_after=0.05)
    other = JobFolder.open(job.path, 0.05)
    assert job.claim(0, "one") and not other.claim(0, "two"), "exclusive"
    # The owner runs on; what it touches is alive, whatever the clock says.
    for ago in (0, -(10**6), 10**6):
        os.utime(job.claims / "00000000", (10**9 + ago, 10**9 + ago))
        assert not other.claim(0, "two"), "something has changed"
    threading.Event().wait(0.1)
    assert other.claim(0, "two"), "silent for longer than allowed"
    job.answered(0, [b"{}\n"] * 4, {"lines": 4, "errors": 0, "tokens": 0, "seconds": 0.0})
    assert not other.claim(0, "two"), "finished"
    path = job.claims / "00000001"
    assert job.claim(1, "one")
    held = json.loads(path.read_text())
    path.write_text(json.dumps({**held, "pid": 2**22 + 5}))
    assert JobFolder.open(job.path).claim(1, "two"), "its process is gone: no need to wait"


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), written_whole(path) as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["x"]
    with pytest.raises(DllmError, match="what was there is as it was"), written_whole(path) as file:
        raise OSError(28, "No space left on device")
    with pytest.raises(DllmError, match="cannot write"), written_whole(tmp_path / "no" / "x") as file:
        pass
    with written_whole(path) as file:
        file.write(b"new")
    assert path.read_text() == "new"


def test_merging_refuses_what_is_not_whole(tmp_path: Path) -> None:
    job = job_of(tmp_path / "a", write(tmp_path / "in.jsonl", some_lines(9)))
    Worker(job, decoder()).run([0, 1])
    with pytest.raises(DllmError, match="1 of 3 shards are not finished"):
        merge(job, tmp_path / "out.jsonl")
    Worker(job, decoder()).run()
    good = job.part(1).read_bytes()
    for bad in (good[: len(good) // 2], b"".join(reversed(good.splitlines(keepends=True))), b"{}\n"):
        job.part(1).write_bytes(bad)
        with pytest.raises(DllmError, match="is damaged|does not answer"):
            merge(job, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
    with pytest.raises(DllmError, match="is no job folder"):
        JobFolder.open(tmp_path)
    (tmp_path / "a" / "manifest.jsonl").write_text('{"format": 1}\n')
    with pytest.raises(DllmError, match="is damaged"):
        Manifest.load(tmp_path / "a" / "manifest.jsonl")


@given(
    st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=5), min_size=1, max_size=30, unique=True),
    st.integers(1, 9),
)
def test_shards_hold_every_line_once(tmp_path_factory: pytest.TempPathFactory, ids: list[str], shard: int) -> None:
    folder = tmp_path_factory.mktemp("job")
    source = folder / "in.jsonl"
    source.write_text(
        "\n\n".join(json.dumps({"id": name, "prompt": [1]}, ensure_ascii=False) for name in ids), encoding="utf-8"
    )
    manifest, _ = create_or_resume(source, folder / "job", settings(), shard_lines=shard)
    assert Manifest.load(folder / "job" / "manifest.jsonl") == manifest and manifest.lines == len(ids)
    assert [line.id for i in range(len(manifest.shards)) for line in manifest.read(i)] == ids


def test_openai_lines_are_answered_in_their_shape() -> None:
    chat = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions"}
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "max_completion_tokens": 5,
        "n": 2,
        "stream": False,
    }
    line = Line.read(json.dumps({**chat, "body": {**body, "dllm": {"policy": "topk:k=1"}}}).encode(), 1)
    assert line.settings == {"chat": True, "max_new_tokens": 5, "samples": 2, "policy": "topk:k=1"}
    one = {"text": "yes", "finish_reason": "stop", "prompt_tokens": 3, "content_tokens": 1, "until_eos_tokens": 2}
    one |= {"canvas_tokens": 5, "nfe": 1, "full_forwards": 1, "tokens_forwarded": 8}
    said = json.loads(line.answer([one, one], "m"))
    assert said["custom_id"] == "a" and said["error"] is None and said["response"]["status_code"] == 200
    found = said["response"]["body"]
    assert [c["message"]["content"] for c in found["choices"]] == ["yes", "yes"] and found[
        "object"
    ] == "chat.completion"
    assert found["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    failed = json.loads(line.failure(DllmError("no\nroom")))
    assert failed["custom_id"] == "a" and failed["error"] == {"message": "no room", "type": "DllmError"}


def test_stop_strings_and_masks_in_the_prompt() -> None:
    from dllm_decode import load_model

    made = Decoder(load_model("tiny", device="cpu"), JobSettings())
    plain, cut = (Line("a", "reverse: a b c d", {"max_new_tokens": 32, **own}) for own in ({}, {"stop": ["b"]}))
    (whole,), (stopped,) = made.samples([plain, cut])
    assert "b" in whole["text"] and stopped["text"] == whole["text"].partition("b")[0]
    assert stopped["finish_reason"] == "stop" and stopped["content_tokens"] < whole["content_tokens"]
