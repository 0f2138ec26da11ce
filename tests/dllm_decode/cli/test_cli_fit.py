"""``dllm-decode fit`` needs a config.json and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

from dllm_decode.cli import main


def test_a_table_from_a_config_alone(tmp_path: Path, capsys) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "sdar", "architectures": ["SDARForCausalLM"]}')
    assert main(["fit", str(tmp_path), "--prompt", "64", "--new", "32", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["cache"] for row in rows} == {"none", "block"} and sum(row["best"] for row in rows) <= 1
    assert main(["fit", "tiny"]) == 0 and "try this first" in " ".join(capsys.readouterr().out.split())
    assert main(["fit", str(tmp_path / "none")]) == 2
