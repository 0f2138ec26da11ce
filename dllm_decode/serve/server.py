"""From a command line to a running server: load, listen, drain, leave."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from dllm_decode.engine.admission import free_bytes, work_bytes
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.engine.scheduler import Limits
from dllm_decode.errors import DllmError
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.serve.app import Guard, build_app
from dllm_decode.serve.engine import Engine
from dllm_decode.serve.errors import ApiError
from dllm_decode.serve.metrics import Metrics
from dllm_decode.serve.service import Service
from dllm_decode.serve.settings import Serving

log = logging.getLogger(__name__)
GRACE = 1.0  #: seconds for the last events to reach their clients


def make_service(load: Callable[[], DenoisingModel], serving: Serving, limits: Limits) -> Service:
    """A service whose engine has not begun to load."""
    metrics = Metrics(serving.name)

    def prepare() -> tuple[DenoisingModel, Limits]:
        model = load()
        return model, fitting(model, serving, limits)

    engine = Engine(prepare, metrics.tick.observe)
    metrics.engine = engine
    return Service(engine, serving, metrics)


def fitting(model: DenoisingModel, serving: Serving, limits: Limits) -> Limits:
    """Limits with the memory there is.

    Raises:
        DllmError: the model cannot be served as asked: no tokenizer, a policy that does not fit, too little memory.
    """
    if model.tokenizer is None:
        raise DllmError(f"model {model.name!r} has no tokenizer, so texts cannot be served; give one that has.")
    sampler = DiffusionSampler(model, serving.policy, serving.cache_of(model), serving.config)
    (request,) = sampler.requests([[min(1, model.vocab_size - 1 - model.mask_id) or 1]], max_new_tokens=1)
    free = limits.bytes
    if free is None:
        there = free_bytes(model.device)
        free = None if there is None else int(0.8 * there)
    need = work_bytes(model, request, limits.places, 512, limits.opening_budget)
    if free is not None and need > free:
        raise DllmError(
            f"{limits.places} places of 512 tokens take {need} bytes, but {free} are free; use fewer --places."
        )
    return Limits(**{**limits.__dict__, "bytes": free})


class Server(uvicorn.Server):
    """Uvicorn that drains: on SIGTERM or SIGINT what was admitted ends; a second ends all."""

    def __init__(self, service: Service, app: Guard, host: str, port: int) -> None:
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=5,
            ws="none",
            proxy_headers=False,
            lifespan="off",
        )
        super().__init__(config)
        self.service, self.failed = service, False
        self._drain: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by the signal's handler, in the loop's thread."""
        loop = asyncio.get_running_loop() if asyncio._get_running_loop() is not None else None
        if loop is None:
            self.should_exit = True
            return
        loop.call_soon_threadsafe(self._leave)

    def _leave(self) -> None:
        if self._drain is None:
            self.service.draining = True
            self._drain = asyncio.ensure_future(self._wait(self.service.serving.drain))
        else:
            self._drain.cancel()
            self._drain = asyncio.ensure_future(self._end())

    async def _wait(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while (self.service.engine.busy or self.server_state.tasks) and loop.time() < until:
            await asyncio.sleep(0.05)
        await self._end()

    async def _end(self) -> None:
        engine = self.service.engine
        if engine.busy:
            error = ApiError(503, "the server is shutting down.", code="draining", retry_after=5)
            engine.fail_all(error)
            loop = asyncio.get_running_loop()
            until = loop.time() + GRACE
            while (engine.busy or self.server_state.tasks) and loop.time() < until:
                await asyncio.sleep(0.02)
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Leave when the engine is dead."""
        if self.service.engine.state == "dead" and not self.should_exit:
            self.failed = True
            await asyncio.sleep(GRACE)
            self.should_exit = True
        return await super().on_tick(counter)


def settled(model: DenoisingModel) -> DenoisingModel:
    """The model, when the collector of garbage has been told to leave alone all that is there for good.

    Walking through a loaded torch takes it a fifth of a second, in the middle of somebody's answer.
    """
    gc.collect()
    gc.freeze()
    return model


def serve(load: Callable[[], DenoisingModel], serving: Serving, limits: Limits, host: str, port: int) -> int:
    """Serve until told to leave.

    Returns:
        0, or 1 when the engine has died.

    Raises:
        DllmError: the port is taken, or the model cannot be served.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise DllmError(
            f"cannot listen on {host}:{port} ({error.strerror}); give another --host or --port."
        ) from error
    service = make_service(lambda: settled(load()), serving, limits)
    server = Server(service, build_app(service), host, port)
    service.engine.start()
    server.run()
    service.engine.stop()
    gc.unfreeze()
    if server.failed:
        raise DllmError(service.engine.why) if service.engine.model is None else RuntimeError(service.engine.why)
    return 0
