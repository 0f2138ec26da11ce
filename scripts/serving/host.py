"""A server in a thread of this process."""

from __future__ import annotations

import gc
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.scheduler import Limits, Scheduler
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.serve.app import build_app
from dllm_decode.serve.server import Server, make_service, settled
from dllm_decode.serve.settings import Serving


class Host:
    """A server on a free port; everything of it can be looked at."""

    def __init__(self, model: DenoisingModel, limits: Limits, **settings: Any) -> None:
        config = GenerationConfig(max_new_tokens=64, block_length=32)
        serving = Serving(**{"name": "tiny", "config": config, **settings})
        self.model = model
        self.service = make_service(lambda: settled(model), serving, limits)
        self.port = free_port()
        self.server = Server(self.service, build_app(self.service), "127.0.0.1", self.port)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self) -> Host:
        self.service.engine.start()
        self.thread.start()
        while not (self.server.started and self.service.engine.state == "ready"):
            if self.service.engine.state == "dead" or not self.thread.is_alive():
                raise RuntimeError(self.service.engine.why or "the server did not start")
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        self.service.engine.stop()
        gc.unfreeze()

    @property
    def scheduler(self) -> Scheduler:
        """The engine's."""
        assert self.service.engine.scheduler is not None
        return self.service.engine.scheduler

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far: of the server's thread, of the engine's, and of the caller's, which is the client."""
        threads = {"http": self.thread, "engine": self.service.engine._thread, "client": threading.current_thread()}
        return {n: time.clock_gettime(time.pthread_getcpuclockid(t.ident or 0)) for n, t in threads.items()}

    def on_tick(self, listener: Callable[[float], None]) -> None:
        """Have the seconds of every tick told."""
        self.service.engine._on_tick = listener

    def settle(self, seconds: float = 20.0) -> None:
        """Wait until nobody runs or waits."""
        until = time.monotonic() + seconds
        while self.service.engine.busy and time.monotonic() < until:
            time.sleep(0.01)

    def busy_places(self) -> list[str]:
        """Places that are not free, in words."""
        places = self.scheduler.limits.places
        pools = [lane.pool for lane in self.scheduler.pools if lane.pool is not None]
        return [f"{places - len(pool.free)} places are not free" for pool in pools if len(pool.free) != places]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
