"""``RayWorker``: called as Ray calls it, and by a local Ray where there is one."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dllm_decode import DiffusionSampler, GenerationConfig
from dllm_decode.jobs import RayWorker
from dllm_decode.jobs.lines import Line

ROOT = Path(__file__).parents[3]
PROMPTS = [f"copy: a b {letter}" for letter in "cdefgh"]
IDS = [f"row {i}" for i in range(len(PROMPTS))]
SETTINGS = {"policy": "threshold", "cache": "dual", "max_new_tokens": 16, "block_length": 16, "temperature": 0.7}
PIPELINE = """
import json, sys, ray
from dllm_decode.jobs import RayWorker

ids, prompts, settings = json.loads(sys.argv[1])
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
rows = ray.data.from_items([{"id": i, "prompt": p} for i, p in zip(ids, prompts)])
answers = rows.map_batches(
    RayWorker, fn_constructor_kwargs=settings, concurrency=1, num_cpus=0.5, batch_size=2, batch_format="numpy"
)
print(json.dumps({row["id"]: [row["text"], int(row["nfe"])] for row in answers.take_all()}))
"""


def expected() -> dict[str, list[object]]:
    """What ``generate`` gives for the same ids, whoever stands beside them."""
    config = GenerationConfig(**{k: v for k, v in SETTINGS.items() if k not in ("policy", "cache")})
    sampler = DiffusionSampler("tiny", str(SETTINGS["policy"]), str(SETTINGS["cache"]), config)
    found = sampler.generate(PROMPTS, places=[Line(name, "", {}).place() for name in IDS])
    assert found.texts is not None
    return {name: [text, nfe] for name, text, nfe in zip(IDS, found.texts, found.nfe, strict=True)}


def test_a_batch_comes_back_with_its_answers() -> None:
    worker, found = RayWorker("tiny", **SETTINGS), {}
    for part in (slice(0, 4), slice(4, 6)):
        batch = {"id": np.array(IDS[part]), "prompt": np.array(PROMPTS[part]), "kept": np.arange(6)[part]}
        got = worker(batch)
        assert got["kept"].tolist() == batch["kept"].tolist()
        found |= {i: [text, nfe] for i, text, nfe in zip(got["id"], got["text"], got["nfe"], strict=True)}
    assert found == expected()
    with pytest.raises(Exception, match="was made for"):
        worker({"prompt": np.array(["a " * 5000])})


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_a_pipeline_on_a_local_ray() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PIPELINE, json.dumps([IDS, PROMPTS, {"model": "tiny", **SETTINGS}])],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == expected()
