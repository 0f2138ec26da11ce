"""Files are written whole or not at all."""

from __future__ import annotations

import os
import pathlib
from pathlib import Path

import pytest

from dllm_decode.cli import main
from dllm_decode.errors import WriteError
from dllm_decode.files import parse_json, write_whole


def test_the_old_file_survives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_whole(path, "old")

    def full(self: Path, data: bytes) -> int:
        with open(self, "wb") as file:
            file.write(data[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(WriteError, match=r"'.*x\.json' \(No space left on device\); what was there is"):
        write_whole(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["x.json"]


def test_the_answer_comes_before_the_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    path = tmp_path / "t.jsonl"
    path_existed = path.exists()
    assert main(["generate", "copy: a b", "--max-new-tokens", "4", "--trace", str(path)]) == 1
    said = capsys.readouterr()
    assert said.out.strip() and "No space left on device" in said.err and path.exists() == path_existed


@pytest.mark.parametrize("text", ['{"a": "\\ud800"}', '["\\uDFFF"]', b'"\xed\xa0\x80"', "[" * 100_000, "{", b"\xff"])
def test_json_that_no_file_could_hold_again(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


def test_json_with_whole_characters() -> None:
    assert (
        parse_json('{"a": "\\ud83d\\ude00 \\u00e9"}')
        == {"a": "\U0001f600 \u00e9"}
        == parse_json('{"a": "\U0001f600 \u00e9"}'.encode())
    )
