"""A server in this process: the bundled model on a real port, in a thread."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dllm_decode import DiffusionSampler, GenerationConfig
from dllm_decode.engine.scheduler import Limits
from dllm_decode.models import load_model

openai = pytest.importorskip("openai", reason="the openai client is not installed")
pytest.importorskip("starlette", reason="the extra 'serve' is not installed")
CONFIG = GenerationConfig(max_new_tokens=24, block_length=8)


class Running:
    """A server that answers on ``url``; ``service`` is its inside."""

    def __init__(self, model: Any, limits: Limits | None = None, **settings: Any) -> None:
        from dllm_decode.serve.app import build_app
        from dllm_decode.serve.server import Server, make_service
        from dllm_decode.serve.settings import Serving

        serving = Serving(**{"name": "tiny", "config": CONFIG, **settings})
        self.service = make_service(lambda: model, serving, limits or Limits(places=4))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.server = Server(self.service, build_app(self.service), "127.0.0.1", self.port)
        self.url = f"http://127.0.0.1:{self.port}"
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        async def main() -> None:
            self.loop = asyncio.get_running_loop()
            await self.server.serve()

        asyncio.run(main())

    def __enter__(self) -> Running:
        self.service.engine.start()
        self.thread.start()
        until = time.monotonic() + 60
        while not (self.server.started and self.service.engine.state == "ready"):
            assert time.monotonic() < until and self.thread.is_alive()
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        self.service.engine.stop()

    def client(self, **options: Any) -> Any:
        """The openai client."""
        return openai.OpenAI(base_url=f"{self.url}/v1", **{"api_key": "none", "max_retries": 0, **options})

    def settle(self) -> None:
        """Wait until nobody runs or waits."""
        until = time.monotonic() + 10
        while self.service.engine.busy:
            assert time.monotonic() < until, "somebody still runs"
            time.sleep(0.01)


@pytest.fixture(scope="session")
def model() -> Any:
    return load_model("tiny")


@pytest.fixture(scope="package")
def running(model: Any) -> Iterator[Running]:
    with Running(model) as found:
        yield found


@pytest.fixture
def client(running: Running) -> Any:
    return running.client()


@pytest.fixture(scope="session")
def sampler(model: Any) -> Callable[..., DiffusionSampler]:
    """What a request without settings is decoded by."""

    def make(policy: str = "threshold", cache: str = "dual") -> DiffusionSampler:
        return DiffusionSampler(model, policy, cache, CONFIG)

    return make
