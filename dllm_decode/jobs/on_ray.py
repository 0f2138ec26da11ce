"""Workers placed by Ray (extra ``ray``), which starts, restarts and shows them; results live in the folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dllm_decode.config import GenerationConfig
from dllm_decode.errors import DllmError
from dllm_decode.jobs.folder import JobFolder
from dllm_decode.jobs.lines import Line
from dllm_decode.jobs.manifest import JobSettings
from dllm_decode.jobs.worker import BATCH_SIZE, Decoder, Worker

AT_ONCE = 8  #: shards that an actor is told of at a time


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise DllmError("--ray needs Ray; install it with: pip install 'dllm-decode[ray]'.") from error
    return ray


class ShardActor:
    """A worker in a process of Ray's; told which shards to decode."""

    def __init__(self, path: str, stale_after: float, device: str | None, batch_size: int) -> None:
        from dllm_decode.engine.load import load_model

        self.job = JobFolder.open(Path(path), stale_after)
        settings = self.job.manifest.settings
        model = load_model(settings.model, dtype=settings.dtype, device=device, quantize=settings.quantize)
        self.worker = Worker(self.job, Decoder(model, settings, batch_size))

    def ready(self) -> str:
        """Once the model is loaded: the worker's name."""
        return self.worker.name

    def decode(self, shards: list[int]) -> None:
        """Decode shards that nobody else holds."""
        self.worker.run(shards, wait=False)


def run_on_ray(
    job: JobFolder,
    address: str,
    actors: int,
    cpus: float,
    gpus: float,
    timeout: float,
    device: str | None = None,
    batch_size: int = BATCH_SIZE,
    max_errors: int | None = None,
    on_look: Callable[[], None] | None = None,
) -> None:
    """Finish a job with actors on a cluster that sees its folder.

    Args:
        job: the job.
        address: of the cluster; ``"auto"`` finds a running one, ``"local"`` starts one here.
        actors: how many.
        cpus: of each actor.
        gpus: of each actor.
        timeout: seconds to wait for the first actor to be ready, and without any finished shard afterwards.
        device: of the actors' models.
        batch_size: rows decoded together by each.
        max_errors: stop when more lines have failed.
        on_look: called after each look at the folder, about once a second.

    Raises:
        DllmError: no Ray, no cluster, no room in it, or no progress in time.
    """
    ray = _ray()
    try:
        ray.init(address=None if address == "local" else address, ignore_reinit_error=True, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise DllmError(
            f"no Ray cluster answers at {address!r} ({error}); start one with 'ray start --head'."
        ) from error
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=2)(ShardActor)
    made = [remote.remote(str(job.path.resolve()), job.stale_after, device, batch_size) for _ in range(actors)]
    try:
        waiting = {actor.ready.remote(): actor for actor in made}
        ready, _ = ray.wait(list(waiting), num_returns=1, timeout=timeout)
        if not ready:
            room = {k: v for k, v in ray.cluster_resources().items() if k in ("CPU", "GPU")}
            raise DllmError(
                f"no actor of {cpus:g} CPUs and {gpus:g} GPUs was ready within {timeout:g} s on a cluster of {room}; "
                "ask for less with --cpus-per-actor and --gpus-per-actor, or wait longer with --ray-timeout."
            )
        _hand_out(ray, job, waiting, timeout, max_errors, on_look)
    finally:
        for actor in made:
            ray.kill(actor)


def _hand_out(
    ray: Any,
    job: JobFolder,
    waiting: dict[Any, Any],
    timeout: float,
    max_errors: int | None,
    on_look: Callable[[], None] | None,
) -> None:
    """Give each actor shards when it has none, until all are finished."""
    actors, count, last = len(waiting), 0, time.monotonic()
    given: dict[Any, set[int]] = {}
    while len(finished := job.finished()) < len(job.manifest.shards):
        if len(finished) > count:
            count, last = len(finished), time.monotonic()
        if on_look is not None:
            on_look()
        if max_errors is not None and (failed := job.progress().errors) > max_errors:
            raise DllmError(f"{failed} lines of the job have failed, and --max-errors is {max_errors}.")
        done, _ = ray.wait(list(waiting), num_returns=1, timeout=1.0)
        for reference in done:
            actor = waiting.pop(reference)
            if given.pop(reference, set()) - job.finished():
                time.sleep(0.2)  # others hold what is left of it, or the actor is gone
            try:
                ray.get(reference)
            except ray.exceptions.RayActorError:
                pass  # it is being restarted; its shards are taken up again
            except ray.exceptions.RayTaskError as error:
                raise DllmError(f"a worker on Ray failed: {error.cause}") from error
            todo = sorted(set(range(len(job.manifest.shards))) - job.finished() - set().union(*given.values()))
            if todo:  # several, of which the next one's rows take the places that one frees; fewer towards the end
                mine = todo[: max(1, min(AT_ONCE, len(todo) // (2 * actors)))]
                call = actor.decode.remote(mine)
                given[call] = set(mine)
            else:
                call = actor.ready.remote()
                time.sleep(0.2)
            waiting[call] = actor
        if time.monotonic() - last > max(timeout, 2 * job.stale_after):
            raise DllmError(
                f"no shard was finished for {time.monotonic() - last:.0f} s; look at Ray's dashboard, then go "
                "on with the same command."
            )


class RayWorker:
    """For a pipeline of your own: a class for ``ray.data.Dataset.map_batches``.

    ::

        dataset.map_batches(RayWorker, fn_constructor_kwargs={"model": "tiny"}, concurrency=2, batch_format="numpy")

    Takes batches with a column ``prompt`` (text) and, for a temperature above 0, ``id``; gives them back with columns
    ``text`` and ``nfe``.
    """

    def __init__(
        self,
        model: str = "tiny",
        policy: str = "threshold",
        cache: str = "none",
        batch_size: int = BATCH_SIZE,
        **config: Any,
    ) -> None:
        """Load the model.

        Args:
            model: as for :func:`load_model`.
            policy: what decides.
            cache: ``"none"``, ``"prefix"``, ``"dual"`` or ``"block"``.
            batch_size: rows decoded together.
            **config: fields of :class:`GenerationConfig`.
        """
        from dllm_decode.engine.load import load_model

        settings = JobSettings(model, policy=policy, cache=cache, config=GenerationConfig(**config).to_dict())
        self.decoder = Decoder(load_model(model), settings, batch_size)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Answer a batch."""
        prompts = [str(prompt) for prompt in batch["prompt"]]
        ids = [str(name) for name in batch.get("id", range(len(prompts)))]
        answers = self.decoder.samples([Line(name, prompt, {}) for name, prompt in zip(ids, prompts, strict=True)])
        for found in answers:
            if isinstance(found, Exception):
                raise found
        first: list[dict[str, Any]] = [found[0] for found in answers]  # type: ignore[index]
        return {**batch, "text": [a["text"] for a in first], "nfe": [a["nfe"] for a in first]}
