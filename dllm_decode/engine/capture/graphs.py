"""Block steps recorded as CUDA graphs: one upload, one launch and one download instead of hundreds of launches.

A recording serves every step of its shape bucket (rows, window, cells), across blocks and prompts: its inputs are read
from buffers that each step fills and pads to the bucket; padding is rows of zero queries and cells whose scores are
dropped.  It is made anew when what it points to has moved: another cache, other weights.  Whatever cannot be recorded
runs eagerly, and the log (``dllm_decode.engine.capture.graphs``, INFO) says once why.
"""

from __future__ import annotations

import copy
import logging
import time
import weakref
from collections import Counter, OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

from dllm_decode import kernels
from dllm_decode.engine.capture.ahead import Lookahead, Request, foresee
from dllm_decode.engine.capture.recording import Bucket, CudaRecorder, Fields, Key, Recorder, Recording, pack, unpack
from dllm_decode.engine.score import one_pass, score
from dllm_decode.interface.cache import KVCache
from dllm_decode.interface.inputs import ForwardInput, Known, are_consecutive
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.interface.scoring import Draws, ScoreRule, Scores

__all__ = ["Bucket", "CudaRecorder", "Fields", "StepGraphs", "graphs_of", "lend_cache"]

log = logging.getLogger(__name__)

MOST_TOKENS = 4096  #: larger forwards keep the GPU busy longer than their launches take
MOST_RECORDINGS = 48
#: A step that a larger recording serves is recorded itself when it comes for so many times: that costs as much as ten
#: steps and spares half a step at most.  Rows that join and leave come in many shapes, few of which come often.
OWN_SIGHTINGS = 16
KEPT_CACHE_BYTES = 2 << 30  #: a cache up to this size outlives its run, so that recordings over it do too
SLOT_STEP = 64


@dataclass(frozen=True)
class Sent:
    """A step that was begun ahead: of which run, which, at work in which recording, since when."""

    look: Lookahead
    request: Request
    recording: Recording
    at: float


class StepGraphs:
    """The recorded block steps of one model."""

    def __init__(
        self, model: DenoisingModel, recorder: Recorder, *, needs_kernels: bool = True, sightings: int = 1
    ) -> None:
        """Nothing is recorded yet.

        Args:
            model: the model.
            recorder: records and replays.
            needs_kernels: refuse where Triton's kernels do not run (other backends would copy the cache).
            sightings: record a bucket's step when it comes for the n-th time; what comes once is not worth it.
        """
        self.sightings = sightings
        self._seen: Counter[Key] = Counter()
        # A proxy: what is remembered of a model must not keep it alive.
        self.model: DenoisingModel = weakref.proxy(model)
        self.recorder, self.needs_kernels = recorder, needs_kernels
        self.recordings: OrderedDict[Key, Recording] = OrderedDict()
        self.replayed = 0
        self._broken: set[Key] = set()
        self._said: set[str] = set()
        self._weights: object = None
        self._ahead: Sent | None = None
        self._kept: Tensor | None = None
        self._borrower: weakref.ref[KVCache] | None = None

    def refresh(self, weights: object) -> None:
        """Forget all recordings if the weights (anything that compares equal while they stay put) have changed."""
        if weights != self._weights:
            if self.recordings:
                self._say("the weights have moved: block steps are recorded anew")
            self.drop()
            self.recordings.clear()
            self._broken.clear()
            self._seen.clear()
            self._weights = weights

    def lend(self, rows: int, slots: int) -> KVCache:
        """A cache of at least this size: the one of the last run when it fits and nobody holds it any more.

        Recordings point into a cache, so that they outlive a run only if the cache does.

        Args:
            rows: at least so many.
            slots: of each row.
        """
        free = self._borrower is None or self._borrower() is None
        if free and self._kept is not None:
            held_rows, held_slots = self._kept.shape[2], self._kept.shape[4] - 1
            wasted = held_rows * held_slots > 2 * rows * (slots + SLOT_STEP)
            if held_rows >= rows and held_slots >= slots and not wasted:
                cache = self.model.new_cache(held_rows, held_slots, self._kept.zero_())
                self._borrower = weakref.ref(cache)
                return cache
            gone, self._kept = self._kept.data_ptr(), None  # before the new one is taken
            for key in [key for key in self.recordings if key.cache[0] == gone]:
                del self.recordings[key]
        cache = self.model.new_cache(rows, -(-slots // SLOT_STEP) * SLOT_STEP)
        if free and cache.data.nbytes <= KEPT_CACHE_BYTES:
            self._kept, self._borrower = cache.data, weakref.ref(cache)
        return cache

    def refusal(self, inp: ForwardInput, rule: ScoreRule, guided: bool, draws: Draws | None) -> str | None:
        """Why this step runs eagerly; ``None`` = it can be recorded."""
        reason = one_pass(rule)
        if reason is not None:
            return reason
        if guided:
            return "guidance mixes the logits of two rows"
        if inp.cache is None:
            return "without a cache every forward has the whole row, and its launches do not matter"
        if not inp.cache.in_place:
            return "a cache in 8 bits is read by no kernel"
        if inp.branch is not None:
            return "branches change their layout from step to step"
        if inp.block is not None:
            return "a block-causal model's opening forwards need a mask"
        if torch.equal(inp.queries, inp.lengths):
            return "opening forwards have the whole row, and every length would need a recording of its own"
        if inp.tokens.numel() > MOST_TOKENS:
            return f"forwards of more than {MOST_TOKENS} tokens keep the device busy longer than launches take"
        if rule.temperature > 0 and draws is None:
            return "the noise comes from the host"
        if self.needs_kernels:
            lacking = kernels.unusable(self.model.device, self.model.dtype)
            if lacking is not None:
                return f"it needs the Triton kernels: {lacking}"
        real = torch.arange(inp.tokens.shape[1]) < inp.queries[:, None]
        return None if are_consecutive(inp.positions, real) else "its tokens do not stand in consecutive slots"

    def run(
        self,
        inp: ForwardInput,
        cells: Tensor,
        rule: ScoreRule,
        draws: Draws | None = None,
        *,
        guided: bool = False,
        look: Lookahead | None = None,
    ) -> Scores | None:
        """Replay the step, recording it first if need be; ``None`` = run it eagerly.

        Args:
            inp: on the host.
            cells: long ``[M]``, flat indices into ``R * Q``.
            rule: how to score.
            draws: keys of the noise, when the rule has a temperature.
            guided: whether classifier-free guidance is on.
            look: the run's forecast; the step after this one is sent off before this one's scores return.

        Returns:
            Scores on the host.
        """
        reason = self.refusal(inp, rule, guided, draws)
        if reason is not None:
            if self._ahead is not None and self._ahead.request.shares_rows(inp):
                self.drop()
            self._say(f"block steps run eagerly: {reason}")
            return None
        request = Request(inp, cells, rule, draws)
        began, foreseen = time.perf_counter(), self._foreseen(request)
        recording = foreseen or self._send(request)
        if recording is None:
            return None
        self.recorder.wait()
        self.replayed += 1
        scores = unpack(recording.read[:, : len(cells)], rule)
        if look is not None:
            if foreseen is None:
                look.usual = time.perf_counter() - began
            self._look_ahead(request, scores, look)
        return scores

    def _look_ahead(self, request: Request, scores: Scores, look: Lookahead) -> None:
        """Begin the step that comes after ``request`` if the policy commits as forecast."""
        after = foresee(request, scores, look.forecast, self.model.shift) if look.pays else None
        recording = None if after is None else self._send(after)
        if after is not None and recording is not None:
            self._ahead = Sent(look, after, recording, time.perf_counter())

    def _foreseen(self, request: Request) -> Recording | None:
        """The recording that is at work on this very request already, if there is one."""
        sent = self._ahead
        if sent is None or not sent.request.same(request):
            self.drop()
            return None
        self._ahead = None
        sent.look.hit(time.perf_counter() - sent.at)
        return sent.recording

    def drop(self, look: Lookahead | None = None) -> None:
        """Throw away the step that was begun ahead, if there is one (of this run, if one is given)."""
        sent = self._ahead
        if sent is None or (look is not None and look is not sent.look):
            return
        began = time.perf_counter()
        self.recorder.wait()  # its buffers are in use until it is done
        self._ahead = None
        sent.look.miss(time.perf_counter() - began)

    def _send(self, request: Request) -> Recording | None:
        """Replay a step, recording it first if need be, and have its scores brought to the host."""
        inp, cells, rule, draws = request.inp, request.cells, request.rule, request.draws
        assert inp.cache is not None
        bucket = Bucket.of(inp.tokens.shape[0], inp.tokens.shape[1], len(cells))
        key = Key(rule, bucket, (inp.cache.data.data_ptr(), inp.cache.data.shape))
        found = self._find(key)
        if found is not None:
            self.recordings.move_to_end(found)
            recording = self.recordings[found]
            recording.fill(inp, cells, draws)
        elif key in self._broken or self._seen[key] < self.sightings:
            return None
        else:
            try:
                recording = self._record(bucket, inp, cells, rule, draws)
            except RuntimeError as error:
                self._broken.add(key)
                self._say(f"block steps of {tuple(bucket)} run eagerly: recording failed ({error})")
                return None
            self.recordings[key] = recording
            while len(self.recordings) > MOST_RECORDINGS:
                self.recordings.popitem(last=False)
        recording.replay()
        recording.read.copy_(recording.out, non_blocking=True)
        return recording

    def _find(self, key: Key) -> Key | None:
        """The recording for a step: its own, or the smallest larger one until its own is worth making."""
        if key in self.recordings:
            return key
        self._seen[key] += 1
        if key not in self._broken and self._seen[key] >= max(self.sightings, OWN_SIGHTINGS):
            return None
        return min((k for k in self.recordings if k.holds(key)), key=lambda k: k.bucket.size, default=None)

    def _record(
        self, bucket: Bucket, inp: ForwardInput, cells: Tensor, rule: ScoreRule, draws: Draws | None
    ) -> Recording:
        filled, fed = self.recorder.buffer((Fields.size(bucket),), torch.long)
        assert inp.cache is not None
        # A copy of the wrapper: whoever holds the recording must not seem to hold the run's cache.
        at, cache = Fields.of(fed, bucket), copy.copy(inp.cache)
        # Lengths and rows are read on the device: nothing of this step's values may settle in the recording.
        known = Known(padded=True, ragged=True, slots=cache.slots, consecutive=True)
        static = ForwardInput(at.tokens, at.positions, at.queries, at.lengths, None, cache, at.rows, known)
        keys = Draws(at.seed, at.step, at.cell, at.branch) if rule.temperature > 0 else None
        count = 2 + len(rule.needs & {"entropy", "margin", "logit_margin"})
        read, _ = self.recorder.buffer((count, bucket.cells), torch.int32)

        def step() -> Tensor:
            return pack(score(self.model.head(self.model.hidden(static, at.cells)), rule, draws=keys))

        recording = Recording(bucket, lambda: None, filled, fed, read, read)
        recording.fill(inp, cells, draws)  # the warm-up runs on real inputs: what it writes is right
        recording.replay, recording.out = self.recorder.record(step)
        return recording

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            log.info(text)


_known: weakref.WeakKeyDictionary[DenoisingModel, StepGraphs] = weakref.WeakKeyDictionary()


def graphs_of(model: DenoisingModel) -> StepGraphs | None:
    """The recorded block steps of a model, forgotten when its weights have moved; ``None`` = nothing is recorded."""
    if not model.capture:
        return None
    graphs = _known.get(model)
    if graphs is None:
        if model.device.type != "cuda":
            return None
        graphs = _known[model] = StepGraphs(model, CudaRecorder(model.device), sightings=2)
    graphs.refresh(model.fingerprint())
    return graphs


def lend_cache(model: DenoisingModel, rows: int, slots: int) -> KVCache:
    """A cache for one run: a fresh one, or the last run's memory where recordings point into it."""
    graphs = graphs_of(model)
    return model.new_cache(rows, slots) if graphs is None else graphs.lend(rows, slots)
