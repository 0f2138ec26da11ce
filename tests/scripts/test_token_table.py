"""Tables of token counts: made from files or tasks, read by the policy, and the one that ships."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer import Typer
from typer.testing import CliRunner

from dllm_decode import DiffusionSampler, load_model
from samplers import TokenTable
from samplers.pc_sampler import SHIPPED
from scripts import token_table


def run(*arguments: str) -> Any:
    """Call the script."""
    app = Typer()
    app.command()(token_table.main)
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, list(arguments))


def test_counts_of_a_text(tmp_path: Path) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "deep" / "table.json"
    text.write_text("sort: a b a\nsort: a\n")
    result = run(str(text), "--out", str(out))
    assert result.exit_code == 0, result.output
    model = load_model("tiny")
    ids = model.tokenizer.encode("sort: a b a\n") + model.tokenizer.encode("sort: a\n")
    said = json.loads(out.read_text())
    assert said == {"num_token": len(ids), "p_baseline_dict": {str(i): ids.count(i) for i in sorted(set(ids))}}
    assert TokenTable.load(out, model.vocab_size).frequency[ids[0]] == ids.count(ids[0]) / len(ids)
    assert not list(out.parent.glob("*.part"))


def test_the_shipped_table_is_what_the_command_makes(tmp_path: Path) -> None:
    assert run("--tasks", "all", "--out", str(tmp_path / "tiny.json")).exit_code == 0
    assert (tmp_path / "tiny.json").read_text() == (SHIPPED / "tiny.json").read_text()
    answer = DiffusionSampler("tiny", "pcsampler").generate(
        "sort: r p j a d k b z", max_new_tokens=32, block_length=16
    )
    assert answer.texts[0].strip() == "a b d j k p r z"


def test_refusals(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    for arguments, said in (
        ((), "give text files, or --tasks"),
        ((str(tmp_path / "empty.txt"),), "the text is empty"),
        (("--tasks", "srot"), "did you mean 'sort'"),
        ((str(tmp_path / "empty.txt"), "--model", "nowhere"), "there is no folder nowhere"),
    ):
        result = run(*arguments, "--out", str(tmp_path / "t.json"))
        assert result.exit_code == 2 and said in " ".join(result.output.replace("│", " ").split()), result.output
        assert not (tmp_path / "t.json").exists()
