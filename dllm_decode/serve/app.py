"""The ASGI application: routes, the guard in front of them, and errors in OpenAI's shape."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from dllm_decode import __version__
from dllm_decode.serve.errors import ApiError, bad, of_exception
from dllm_decode.serve.job import Job
from dllm_decode.serve.page import build_playground, standalone
from dllm_decode.serve.protocol import read_ask
from dllm_decode.serve.service import Service
from dllm_decode.serve.stream import stream

log = logging.getLogger(__name__)
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
#: a body that is too large is read to its end, and let go, up to so many times the limit: a client that is still
#: sending when the connection closes does not get to read why
READ_ON = 64
LOCAL = ("localhost", "127.0.0.1", "::1")


def error_response(error: ApiError) -> JSONResponse:
    """The answer for an error."""
    return JSONResponse(error.body, error.status, error.headers)


class Guard:
    """In front of the routes: host, key, size and kind of the body; counts answers; says every error in one shape."""

    def __init__(self, app: Any, service: Service, asks: dict[str, Completions]) -> None:
        """``asks``: by path, what answers POST there; they are most of the work, and skip the router."""
        self.app, self.service, self.asks = app, service, asks
        self.hosts = {*LOCAL, *service.serving.hosts}
        self.keys = [key.encode() for key in service.serving.keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def sent(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                self.service.metrics.status(message["status"])
            await send(message)

        try:
            headers = {name.lower(): value for name, value in scope["headers"]}
            self._check(scope, headers)
            if scope["method"] == "POST":
                scope["dllm.body"] = await self._body(headers, receive)
                await self.asks.get(scope["path"], self.app)(scope, receive, sent)
            else:
                await self.app(scope, receive, sent)
        except ApiError as error:
            if not begun:
                await error_response(error)(scope, receive, sent)
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("a handler failed")
            if not begun:
                failure = ApiError(500, "the server failed; the log says how.", code="internal_error", retry=False)
                await error_response(failure)(scope, receive, sent)

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        host = headers.get(b"host", b"").decode("latin-1")
        name = host.rsplit("]", 1)[0].lstrip("[") if host.startswith("[") else host.rsplit(":", 1)[0]
        if "*" not in self.hosts and name.lower() not in self.hosts:
            raise ApiError(
                403,
                f"this server does not answer to the name {name[:80]!r}; start it with --allow-host for that name.",
                code="host_not_allowed",
            )
        if self.keys and scope["path"].startswith("/v1"):
            kind, _, key = headers.get(b"authorization", b"").partition(b" ")
            given = key.strip() if kind.lower() == b"bearer" else b""
            if not any([hmac.compare_digest(given, known) for known in self.keys]):  # all, so that time tells nothing
                raise ApiError(
                    401, "no valid API key was given; send Authorization: Bearer KEY.", code="invalid_api_key"
                )

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> Any:
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if kind != b"application/json":
            raise ApiError(
                415, "the body must be JSON; send Content-Type: application/json.", code="wrong_content_type"
            )
        limit, size, pieces = self.service.serving.body_limit, 0, []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ApiError(400, "the client is gone.")
            size += len(message.get("body", b""))
            if size <= limit:
                pieces.append(message.get("body", b""))
            if not message.get("more_body") or size > READ_ON * limit:
                break
        if size > limit:
            raise ApiError(413, f"the body is larger than {limit} bytes; send less.", code="body_too_large")
        body = b"".join(pieces)
        try:
            return json.loads(body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise bad(f"the body is no JSON ({str(error)[:120]}).", code="invalid_json") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


class Completions:
    """``POST`` of an ask: the plain answer, or a stream; a client that goes away takes its rows with it."""

    def __init__(self, service: Service, chat: bool) -> None:
        self.service, self.chat = service, chat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ask."""
        service, serving = self.service, self.service.serving
        ask = read_ask(
            scope["dllm.body"],
            self.chat,
            names=(serving.name,),
            most_stops=serving.most_stops,
            most_n=serving.most_n,
            strict=serving.strict,
        )
        job = await service.submit(ask)
        here = asyncio.current_task()
        assert here is not None

        def stop(_: object) -> None:
            here.cancel()

        gone = asyncio.ensure_future(_disconnected(receive))
        gone.add_done_callback(stop)
        try:
            await (self._stream(job, send) if ask.stream else self._plain(job, send))
        except asyncio.CancelledError:
            if not gone.done():
                raise  # the server is leaving
            service.metrics.status(499)
        finally:
            gone.remove_done_callback(stop)
            gone.cancel()
            service.cancel(job)

    async def _plain(self, job: Job, send: Send) -> None:
        data = json.dumps(
            await self.service.answer(job), ensure_ascii=False, allow_nan=False, separators=(",", ":")
        ).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    async def _stream(self, job: Job, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for chunk in stream(self.service, job):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def build_app(service: Service) -> Guard:
    """The application over a service."""
    serving, engine = service.serving, service.engine

    def card() -> dict[str, Any]:
        config = serving.config
        return {
            "id": serving.name,
            "object": "model",
            "created": 0,
            "owned_by": "dllm-decode",
            "max_model_len": None if engine.model is None else engine.model.max_length,
            "dllm": {
                "policy": serving.policy,
                "cache": serving.cache_of(engine.model),
                "block_length": config.block_length,
                "max_tokens": config.max_new_tokens,
                "most_tokens": serving.most_tokens,
                "temperature": config.temperature,
                "most_n": serving.most_n,
                "chat": engine.model is not None and service.codec.chat_template is not None,
            },
        }

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [card()]})

    async def model(request: Request) -> Response:
        name = request.path_params["name"]
        if name != serving.name:
            raise ApiError(404, f"model {name[:80]!r} is not served here.", param="model", code="model_not_found")
        return JSONResponse(card())

    async def health(request: Request) -> Response:
        state = "draining" if service.draining and engine.state == "ready" else engine.state
        scheduler = engine.scheduler
        body: dict[str, Any] = {"status": state}
        if scheduler is not None:
            body |= {"running": scheduler.running, "waiting": scheduler.waiting}
        later = {} if state == "ready" else {"retry-after": "2"}
        return JSONResponse(body, 200 if state == "ready" else 503, later)

    async def metrics(request: Request) -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def version(request: Request) -> Response:
        return JSONResponse({"version": __version__})

    async def page(request: Request) -> Response:
        headers = {"x-frame-options": "DENY", "x-content-type-options": "nosniff", "cache-control": "no-store"}
        return HTMLResponse(build_playground(serving, engine.model), headers=headers)

    async def replay(request: Request) -> Response:
        return HTMLResponse(standalone(request.scope["dllm.body"]), headers={"content-disposition": "attachment"})

    async def not_found(request: Request, error: Exception) -> Response:
        said = f"there is no {request.url.path[:120]!r} here; the API is under /v1."
        return error_response(ApiError(404, said, code="not_found"))

    async def wrong_method(request: Request, error: Exception) -> Response:
        return error_response(ApiError(405, f"{request.url.path[:120]} does not take {request.method}."))

    async def told(request: Request, error: Exception) -> Response:
        return error_response(of_exception(error))

    asks = {
        "/v1/chat/completions": Completions(service, chat=True),
        "/v1/completions": Completions(service, chat=False),
    }
    routes = [
        *(Route(path, answer, methods=["POST"]) for path, answer in asks.items()),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/v1/dllm/replay", replay, methods=["POST"]),
        Route("/health", health),
        Route("/metrics", metrics),
        Route("/version", version),
    ]
    if serving.page:
        routes.append(Route("/", page))
    app = Starlette(routes=routes, exception_handlers={404: not_found, 405: wrong_method, ApiError: told})
    return Guard(app, service, asks)
