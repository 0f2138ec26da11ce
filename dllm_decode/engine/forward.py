"""One forward for a group of rows: which tokens to send, which cells to score, what came back.

Three kinds of forward, one code path: the *full* row (no cache, or a block's opening forward, which refills the
cache), the *suffix* from the block on (prefix cache), the *block* alone (dual cache).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.attended import attention_of
from dllm_decode.engine.blocks import BlockGrid
from dllm_decode.engine.canvas import Rows
from dllm_decode.engine.capture.ahead import Lookahead, may_look_ahead
from dllm_decode.engine.capture.graphs import lend_cache
from dllm_decode.engine.layout import Layout, flat_cells, fold_branches, lay_out
from dllm_decode.engine.reach import Reach
from dllm_decode.engine.spread import spread
from dllm_decode.engine.step import ModelStep
from dllm_decode.errors import DllmError, NotFiniteError
from dllm_decode.interface.cache import KVCache
from dllm_decode.interface.inputs import AttentionWatch, ForwardInput, Known
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.interface.scoring import Draws, ScoreRule, Scores
from samplers import Composition, Prediction, Query, View
from samplers.contract import Scope
from samplers.contract.memory import twin


class Forwarder:
    """Sends rows through a model and returns predictions in generation coordinates."""

    def __init__(
        self, model: DenoisingModel, policy: Composition, config: GenerationConfig, cache: str, rows: int, slots: int
    ) -> None:
        self.model, self.policy, self.config = model, policy, config
        self.grid = BlockGrid.of(model, config, cache)
        self.reach = Reach(policy, config, cache, model.shift, self.grid)
        self.guided = config.guidance > 0
        # Guidance keeps the unconditional rows behind the conditional ones in the same cache.
        self.rows = rows
        self.cache: KVCache | None = None
        if cache != "none":
            held, kept = rows * (1 + self.guided), config.cache_dtype
            self.cache = lend_cache(model, held, slots) if kept is None else model.new_cache(held, slots, kept=kept)
        filtered = model.confidence == "filtered"
        self.rule = ScoreRule(
            mask_id=model.mask_id,
            suppress=config.suppress_tokens,
            ends=() if config.infill_ends else model.eos_ids,
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
            filtered=filtered if config.confidence == "auto" else config.confidence == "filtered",
            needs=policy.needs,
            float64=config.precision == "reference",
        )
        forecast = policy.forecast if may_look_ahead(policy, config.refresh) else None
        self.step = ModelStep(model, self.rule, config.guidance, None if forecast is None else Lookahead(forecast))
        greedy = replace(self.rule, temperature=0.0, top_p=None, top_k=None)
        self.seed_step = self.step if greedy == self.rule else ModelStep(model, greedy, config.guidance)
        self.calls = 0

    @property
    def seconds(self) -> float:
        """Time in the model so far."""
        return self.step.seconds + (0.0 if self.seed_step is self.step else self.seed_step.seconds)

    def predict(
        self, group: Rows, ids: Tensor, view: View, query: Query | None, opening: Tensor, alone: bool = False
    ) -> Prediction:
        """Forward a group of rows once; the prediction's ``predicted`` says which cells were scored.

        Args:
            group: the rows; their cost counters are updated.
            ids: long ``[R]``, their places in the cache.
            view: their view.
            query: what the policy wants forwarded, or ``None``.
            opening: bool ``[R]``, the block's first forward.
            alone: these are all the live rows.
        """
        full = self.cache is None or all(self.reach.is_full(group))
        first, last = self.reach.span(group, view, full)
        wanted = self.reach.scored(group, view, opening, None if full else (first, last))
        query = Query() if query is None else query
        if query.canvases is None:
            shadow = query.shadow
            if shadow is not None and not self.model.can_shadow:
                raise DllmError(
                    f"model {self.model.name!r} cannot forward shadow cells; a policy that asks for them must refuse "
                    "it when it is bound (Setting.shadows is False)."
                )
            layout = lay_out(group.slots, first, last, shadow, group.offset, self.model.mask_id)
            if query.joint and layout.branch is not None:
                layout = replace(layout, joint=True)
            prediction = self._run(layout, group, ids, view, wanted, shadow, alone)
        else:
            every = torch.ones(query.canvases.shape[:2], dtype=torch.bool, device=wanted.device)
            used = every if query.used is None else query.used
            prediction = self._run_branches(group, ids, view, query.canvases, used, first, last, wanted)
        if full:
            group.full_forwards = group.full_forwards + 1
        return prediction

    def _run(
        self, layout: Layout, group: Rows, ids: Tensor, view: View, wanted: Tensor, shadow: Tensor | None, alone: bool
    ) -> Prediction:
        """Forward a plain layout and score ``wanted`` (and the shadow twins)."""
        at = row, cell = wanted.nonzero(as_tuple=True)
        rows, wide = layout.tokens.shape
        begins = torch.arange(0, rows * wide, wide, device=wanted.device) - layout.positions[:, 0]
        if self.model.shift:
            cells = (cell + group.offset[row] - self.model.shift).clamp_(min=0) + begins[row]
        else:
            cells = cell + (group.offset + begins)[row]
        marks, size = [wanted], len(cells)
        if shadow is not None:
            # The k-th twin of a row stands k columns behind its last plain one.
            plain = layout.queries - shadow.sum(-1)
            behind = plain[:, None] + shadow.cumsum(-1) - 1
            cells = torch.cat([cells, flat_cells(shadow, behind, layout)])
            marks.append(shadow)
        watch = AttentionWatch(self.policy.attention_layers) if self.policy.attention_layers else None
        prompt = wanted
        if watch is not None:
            prompt = torch.arange(int(group.offset.max()), device=wanted.device) < group.offset[:, None]
            slot = torch.arange(prompt.shape[1], device=wanted.device)
            columns = (slot - self.model.shift).clamp(min=0).expand_as(prompt)
            cells = torch.cat([cells, flat_cells(prompt, columns, layout)])
        draws = None
        if self.step.counted:
            drawn = (
                self._draws(mark, group, None, torch.full_like(group.step, i), view.generators)
                for i, mark in enumerate(marks)
            )
            draws = Draws.cat(list(drawn))
        held = None if shadow is None else torch.cat([view.tokens[mark] for mark in marks])
        barred = self._barred(view, marks)
        if watch is not None:
            marks = [*marks, prompt]
            barred = None if barred is None else torch.cat([barred, barred.new_zeros(int(prompt.sum()))])
        dice = view.generators
        scores = self._forward(layout, group, ids, cells, marks, None, dice, draws, alone, held, barred, watch)
        prediction = spread(scores, slice(0, size), wanted, at, view)
        if shadow is not None:
            behind_it = slice(size, len(cells))
            twins = spread(scores, behind_it, shadow, shadow.nonzero(as_tuple=True), view)
            prediction = replace(prediction, shadow=replace(twins, logits=None, logsumexp=None, cells=None))
        if watch is not None:
            seen = attention_of(watch, scores.confidence[size:], prompt, layout.queries, group.offset, view)
            prediction = replace(prediction, attention=seen)
        return prediction

    def _run_branches(
        self,
        group: Rows,
        ids: Tensor,
        view: View,
        canvases: Tensor,
        used: Tensor,
        first: Tensor,
        last: Tensor,
        wanted: Tensor,
    ) -> Prediction:
        """Forward hypothetical canvases, as extra rows or as one row with block-diagonal visibility."""
        branches = canvases.shape[1]
        tree = self.config.branches == "tree" or (self.config.branches == "auto" and self.cache is not None)
        imagined = view.imagine(canvases)
        owner, name = used.nonzero(as_tuple=True)
        flat = owner * branches + name  # rows of the imagined view that are forwarded
        slots = group.slots[owner]
        cell = view.index + group.offset[owner][:, None]
        inside = view.valid[owner]
        row = torch.arange(len(owner), device=owner.device)[:, None].expand_as(cell)
        slots[row[inside], cell[inside]] = canvases[owner, name][inside]
        scored = wanted[owner]
        if Scope.BLOCK not in self.policy.scope:  # the others also read committed cells
            scored = scored & imagined.masked[flat]
        plain = lay_out(slots, first[owner], last[owner], None, group.offset[owner], self.model.mask_id)
        columns = (cell - self.model.shift).clamp(min=0) - plain.positions[:, :1]
        if tree:
            layout, shifted = fold_branches(plain, owner, len(group.offset))
            cells = (owner[:, None] * layout.tokens.shape[1] + shifted[:, None] + columns)[scored]
        else:
            zero = torch.zeros_like(plain.tokens) if self.cache is not None else None
            layout = replace(plain, owner=owner, branch=zero)
            cells = flat_cells(scored, columns, layout)
        generators = tuple(view.generators[i] for i in owner.tolist())
        draws = self._draws(scored, group, owner, name, generators) if self.step.counted else None
        everything = torch.zeros_like(imagined.masked)
        everything[flat] = scored
        barred = self._barred(imagined, [everything])
        scores = self._forward(layout, group, ids, cells, [scored], owner, generators, draws, barred=barred)
        said = spread(scores, slice(0, len(cells)), everything, everything.nonzero(as_tuple=True), imagined)
        return replace(said, branches=branches, canvases=canvases)

    def _forward(
        self,
        layout: Layout,
        group: Rows,
        ids: Tensor,
        cells: Tensor,
        marks: list[Tensor],
        whose: Tensor | None,
        generators: tuple[torch.Generator, ...],
        draws: Draws | None,
        alone: bool = False,
        held: Tensor | None = None,
        barred: Tensor | None = None,
        watch: AttentionWatch | None = None,
    ) -> Scores:
        """Call the model and score the cells at ``marks`` (bool ``[M, G]`` each, of rows ``whose``); counts the cost.

        ``whose`` is ``None`` when the M rows are the group's.

        Raises:
            NotFiniteError: a softmax over these logits has no value.
        """
        owner = layout.owner
        tokens, positions, queries, branch = layout.tokens, layout.positions, layout.queries, layout.branch
        lengths = _of(group.offset + group.length, owner) if self.cache is not None else queries
        block, step = None, self.step
        if self.grid is not None:
            first, last = self.grid.span(group)
            lengths = _of(last, owner) if self.cache is not None else queries
            block = self.grid.several(first, last)
            if bool((group.block_step < 0).any()):  # the seed is the model's best token at every temperature
                step, alone = self.seed_step, False
        rows = _of(ids, owner) if self.cache is not None else None
        if self.guided:
            blind = torch.where(_of(group.given, owner).gather(1, positions), self.model.mask_id, tokens)
            cells = torch.cat([cells, cells + tokens.numel()])
            tokens = torch.cat([tokens, blind])
            positions, queries, lengths = (torch.cat([x, x]) for x in (positions, queries, lengths))
            branch = None if branch is None else torch.cat([branch, branch])
            rows = None if rows is None else torch.cat([rows, rows + self.rows])
        inp = ForwardInput(
            tokens, positions, queries, lengths, branch, self.cache, rows, joint=layout.joint, block=block, watch=watch
        )
        starts = layout.starts if branch is None else None
        inp = twin(inp, known=Known.of(inp, None if starts is None else starts * (1 + self.guided)))
        sizes = torch.cat([m.sum(-1) for m in marks]).tolist() if step.rule.temperature > 0 else []
        scores = step.run(inp, cells, sizes, generators, draws, alone, held, barred)
        if not math.isfinite(float(scores.confidence.sum())):
            raise self._not_finite(scores, marks, group, whose)
        self.calls, cost = self.calls + 1, 1 + self.guided
        queries = layout.queries * cost if self.guided else layout.queries
        if owner is None:
            group.rows_forwarded, group.tokens_forwarded = (
                group.rows_forwarded + cost,
                group.tokens_forwarded + queries,
            )
        else:
            group.rows_forwarded = group.rows_forwarded.index_add(0, owner, torch.full_like(owner, cost))
            group.tokens_forwarded = group.tokens_forwarded.index_add(0, owner, queries)
        return scores

    def _barred(self, view: View, marks: list[Tensor]) -> Tensor | None:
        """Bool ``[M]``: the cells at ``marks`` with given text behind them, where no end token may be proposed."""
        behind = view.text_behind if self.rule.ends else None
        return None if behind is None else torch.cat([behind[mark] for mark in marks])

    def _not_finite(self, scores: Scores, marks: list[Tensor], group: Rows, whose: Tensor | None) -> NotFiniteError:
        """The first row and step at fault. A softmax over NaN or infinity is NaN, wherever in the row it stands."""
        rows = torch.cat([mark.nonzero()[:, 0] for mark in marks]).to(scores.confidence.device)
        row = int(rows[~scores.confidence.isfinite()][0])
        row = row if whose is None else int(whose[row])
        named = str(self.model.dtype).removeprefix("torch.")
        return NotFiniteError(
            f"model {self.model.name!r} gave scores that are no finite numbers (row {int(group.name[row])}, step "
            f"{int(group.step[row]) + 1}, in {named}); try "
            f"another {'dtype, or another copy of its weights' if named == 'float32' else 'dtype, such as float32'}."
        )

    @staticmethod
    def _draws(
        mark: Tensor, group: Rows, owner: Tensor | None, branch: Tensor, generators: tuple[torch.Generator, ...]
    ) -> Draws:
        """Keys of the noise of the cells at ``mark`` (bool ``[R, G]``), whose rows belong to rows ``owner``."""
        row, cell = mark.nonzero(as_tuple=True)
        seeds = torch.tensor([g.initial_seed() for g in generators], device=cell.device)
        return Draws(seeds[row], _of(group.step, owner)[row], cell, branch[row])


def _of(values: Tensor, owner: Tensor | None) -> Tensor:
    """``[R, ...]``: what forwarded rows have of the group rows that they belong to."""
    return values if owner is None else values[owner]
