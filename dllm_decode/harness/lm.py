"""The model that EleutherAI's harness sees."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from tqdm import tqdm

from dllm_decode import __version__
from dllm_decode.engine.load import load_model
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.errors import DllmError
from dllm_decode.harness.arguments import read_model_args
from dllm_decode.harness.likelihood import Likelihood, Pair, decodes_to
from dllm_decode.harness.ranks import Ranks
from dllm_decode.harness.requests import Tally, Wish, places_in_task
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.models.fingerprint import checkpoint_fingerprint

logger = logging.getLogger("lm_eval.dllm_decode")  # the harness configures the loggers below its own name
NAME = "dllm-decode"
ALONE, SHARED = 8, 2  # batches that pass through one feed; fewer where ranks share the work evenly


@register_model(NAME)
class HarnessModel(LM):
    """A masked-diffusion model under any policy and cache as a model of the harness.

    Args:
        pretrained: checkpoint folder, hub id, ``tiny``, or a loaded :class:`DenoisingModel`.
        batch_size: rows forwarded together. ``max_batch_size``: not used.
        device: such as ``cuda:1``; ``None`` or ``"auto"`` = the GPU, if there is one (each rank its own).
        **model_args: see :class:`~dllm_decode.harness.arguments.ModelArguments` and
            :class:`~dllm_decode.config.GenerationConfig`.

    Raises:
        DllmError: unknown arguments or values out of range, before the model is loaded; or the model cannot be.
    """

    def __init__(
        self,
        pretrained: str | DenoisingModel | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        **model_args: Any,
    ) -> None:
        super().__init__()
        self.args = read_model_args(pretrained=pretrained, **model_args)
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise DllmError(f"batch_size is {batch_size!r}; give a whole number from 1 up.")
        self.batch_size = int(batch_size)
        self.ranks = Ranks.read(self.args.work_folder)  # the harness sees one process: each rank gets all answers
        if isinstance(pretrained, DenoisingModel):
            self.model: DenoisingModel = pretrained
        else:
            place = self.ranks.device(device)
            self.model = load_model(str(pretrained), self.args.dtype, place, self.args.attention)
        if self.model.tokenizer is None:
            raise DllmError(
                f"model {self.model.name!r} has no tokenizer, so the harness's texts cannot be given to it."
            )
        self.codec = self.model.tokenizer
        self.tokenizer = self.codec.tokenizer  # under this name the harness notes its special tokens
        self._device = self.model.device
        self.sampler(Wish(canvas=self.args.max_new_tokens or 256))  # clashes are found here
        self.tally = Tally()  # cost of all answers so far, whichever rank decoded them

    @property
    def max_length(self) -> int | None:
        """Longest row: the one asked for, or the model's."""
        return self.args.max_length or self.model.max_length

    @property
    def tokenizer_name(self) -> str:
        """Names the harness's cache of prompts: the model and its chat template."""
        digest = hashlib.sha256((self.codec.chat_template or "").encode()).hexdigest()[:8]
        return f"{self.model.name.replace('/', '__')}-{digest}"

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template's source, for the harness's record; a template cannot be chosen by name."""
        if isinstance(chat_template, str):
            raise DllmError(
                f"--apply_chat_template names the template {chat_template!r}, but {self.model.name} has one at most; "
                "give the option without a name."
            )
        return self.codec.chat_template if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt of a conversation; without ``add_generation_prompt`` its last message is left open.

        Raises:
            DllmError: the model has no template.
        """
        if self.codec.chat_template is None:
            raise DllmError(f"{self.model.name} has no chat template; leave --apply_chat_template out.")
        text = self.tokenizer.apply_chat_template(
            [dict(message) for message in chat_history],
            chat_template=self.codec.chat_template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        assert isinstance(text, str)
        return text

    def get_model_info(self) -> dict[str, Any]:
        """What the harness puts in its results beside the scores: how it was decoded and what that cost."""
        args = self.args
        return {
            "policy": args.policy,
            "cache": args.cache,
            "generation": {**args.config.to_dict(), "max_new_tokens": args.max_new_tokens},
            "mc_num": args.mc_num,
            "model_dtype": str(self.model.dtype).removeprefix("torch."),
            "decoding": self.tally.figures(),
        }

    def sampler(self, wish: Wish) -> DiffusionSampler:
        """What decodes the requests of a wish."""
        args = self.args
        stop = wish.until or args.config.stop
        config = args.config.replace(max_new_tokens=wish.canvas, stop=stop, **dict(wish.sampling))
        return DiffusionSampler(self.model, args.policy, args.cache, config)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Decode the answers; they do not depend on batch or rank, and greedy ones are decoded once if repeated."""
        wishes = [Wish.of(request.args[1], self.args) for request in requests]
        first: dict[Any, int] = {}
        source = []
        for at, (request, wish) in enumerate(zip(requests, wishes, strict=True)):
            drawn = self.args.config.temperature > 0 or bool(wish.sampling)
            source.append(first.setdefault((request.args[0], wish, at if drawn else None), at))
        prompts = {at: self._prompt(requests[at].args[0], wishes[at].canvas) for at in set(source)}
        order = sorted(
            prompts, key=lambda at: (wishes[at].canvas, wishes[at].until, wishes[at].sampling, len(prompts[at]))
        )
        places = places_in_task(requests)
        parted = self._parted(order, wishes)
        asked = [[(prompts[at], vars(wishes[at]), places[at]) for at in part] for part in parted]

        def decode(number: int) -> Any:
            part = parted[number]
            result = self.sampler(wishes[part[0]]).generate(
                [prompts[at] for at in part], places=[places[at] for at in part], batch_size=self.batch_size
            )
            names = ("nfe", "rows_forwarded", "tokens_forwarded", "content_tokens", "canvas_tokens")
            costs = {name: sum(getattr(result, name)) for name in names}
            return result.texts, {"requests": len(part), "seconds": result.seconds, **costs}

        texts: dict[int, str] = {}
        with self._bar(len(requests), "decoding", disable_tqdm) as bar:
            for part, (answers, costs) in zip(parted, self._shared("generate", asked, decode), strict=True):
                self.tally.merge(Tally(**costs))
                for at, text in zip(part, answers, strict=True):
                    texts[at] = text
                    self.cache_hook.add_partial("generate_until", requests[at].args, text)
                bar.update(len(part))
            bar.update(len(requests) - bar.n)
        if self.ranks.rank == 0:
            shown = ", ".join(f"{name} {value:.4g}" for name, value in self.tally.figures().items())
            logger.info("decoded with %s, cache %s: %s", self.args.policy, self.args.cache, shown)
        return [texts[at] for at in source]

    def _parted(self, order: list[int], wishes: Sequence[Wish] | None = None) -> list[list[int]]:
        """Requests in shards of equal wishes: rows of one join as places free up."""
        size = self.batch_size * (ALONE if self.ranks.folder is None else SHARED)
        parted: list[list[int]] = []
        for at in order:
            other = wishes is not None and parted and wishes[parted[-1][0]] != wishes[at]
            if not parted or len(parted[-1]) == size or other:
                parted.append([])
            parted[-1].append(at)
        return parted

    def _shared(self, kind: str, asked: list[Any], do: Callable[[int], Any]) -> Iterator[Any]:
        """Have shards of requests done by all ranks together."""
        if self.ranks.folder is None:
            return self.ranks.share(None, len(asked), do)
        args = {**vars(self.args), "config": self.args.config.to_dict(), "given": (), "work_folder": ""}
        args["pretrained"] = [self.model.name, checkpoint_fingerprint(str(self.args.pretrained))]
        return self.ranks.share([__version__, kind, self.batch_size, args, asked], len(asked), do)

    def _prompt(self, text: str, canvas: int) -> list[int]:
        """Ids of a prompt, cut on the left where prompt and canvas do not fit the model."""
        ids = self._encode(text) or [self._bos()]
        if self.max_length is not None and len(ids) + canvas > self.max_length:
            room = self.max_length - canvas
            if room < 1:
                raise DllmError(
                    f"a canvas of {canvas} leaves no room for a prompt in {self.max_length} tokens; give a smaller "
                    "max_new_tokens."
                )
            logger.warning("a prompt of %d tokens is cut to its last %d: canvas %d", len(ids), room, canvas)
            ids = ids[-room:]
        return ids

    def _encode(self, text: str) -> list[int]:
        ids = self.codec.encode(text)
        if self.args.add_bos_token and ids[:1] != [self._bos()]:
            ids = [self._bos(), *ids]
        return ids

    def _bos(self) -> int:
        found = self.tokenizer.bos_token_id
        if found is None:
            found = next(iter(self.model.eos_ids), self.model.pad_id)
        return int(found)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Monte-Carlo estimates of log p(continuation | context), and whether static decoding gives that text."""
        first: dict[Any, int] = {}
        source = [first.setdefault(request.args, at) for at, request in enumerate(requests)]
        chosen = sorted(set(source))
        pairs = [self._pair(*requests[at].args) for at in chosen]
        parted = self._parted(sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1])))

        def do(number: int) -> Any:
            part = [pairs[i] for i in parted[number]]
            greedy = [False] * len(part)
            if self.args.check_greedy:
                greedy = decodes_to(self.model, part, self.batch_size, self.args.config, self._bos())
            return list(zip(self._likelihood().estimate(part), greedy, strict=True))

        found: dict[int, tuple[float, bool]] = {}
        with self._bar(len(chosen), "estimating", disable_tqdm) as bar:
            asked = [[pairs[i] for i in part] for part in parted]
            for part, values in zip(parted, self._shared("likelihood", asked, do), strict=True):
                for i, (value, greedy) in zip(part, values, strict=True):
                    found[chosen[i]] = value, greedy
                    self.cache_hook.add_partial("loglikelihood", requests[chosen[i]].args, found[chosen[i]])
                bar.update(len(part))
        return [found[at] for at in source]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Monte-Carlo estimates of log p(text), in windows of the model's length that do not see each other."""
        pairs: list[Pair] = []
        owners = []
        for at, request in enumerate(requests):
            ids = self.codec.encode(request.args[0])
            prefix = [self._bos()] if self.args.add_bos_token else []
            size = max(1, (self.max_length or max(1, len(ids))) - len(prefix))
            for start in range(0, len(ids), size):
                pairs.append((prefix, ids[start : start + size]))
                owners.append(at)
        parted = self._parted(list(range(len(pairs))))
        asked = [[pairs[i] for i in part] for part in parted]
        totals = [0.0] * len(requests)
        with self._bar(len(pairs), "estimating", disable_tqdm) as bar:
            shared = self._shared("rolling", asked, lambda number: self._likelihood().estimate(asked[number]))
            for part, values in zip(parted, shared, strict=True):
                for i, value in zip(part, values, strict=True):
                    totals[owners[i]] += value
                bar.update(len(part))
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _likelihood(self) -> Likelihood:
        config = self.args.config
        return Likelihood(self.model, self.args.mc_num, self.batch_size, config.seed, config.guidance)

    def _pair(self, context: str, continuation: str) -> Pair:
        """Ids of both; blanks between them belong to the continuation, so that words keep their tokens."""
        blanks = len(context) - len(context.rstrip())
        if blanks:
            context, continuation = context[:-blanks], context[-blanks:] + continuation
        whole, prefix = self._encode(context + continuation), self._encode(context)
        target = whole[len(prefix) :]
        if self.max_length is not None and len(whole) > self.max_length and len(target) < self.max_length:
            logger.warning("a context of %d tokens is cut to its last %d", len(prefix), self.max_length - len(target))
            prefix = prefix[len(whole) - self.max_length :]
        return prefix, target

    def _bar(self, total: int, what: str, disable: bool) -> Any:
        return tqdm(total=total, desc=what, disable=disable or self.ranks.rank != 0)
