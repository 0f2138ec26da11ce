"""The long tasks: generators, splits, and scorers that refuse near misses."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dllm_decode.lab.problems import task_names
from dllm_decode.tasks import SPLITS, TASKS, get_task, group, long_tasks, samples, score, split_of
from dllm_decode.tasks.arithmetic import GAINS
from dllm_decode.tasks.grids import sudoku_squares
from dllm_decode.tasks.long.grammar import NUMBERS, SHAPES, THINGS, VERBS, entropy, log_likelihood
from dllm_decode.tasks.tokenizer import count_tokens, encode

LONG = long_tasks()
EVERY = pytest.mark.parametrize("task", LONG)
ALPHABET = '0123456789abxyDS =+-*:;>{}[]",.\n'


@EVERY
def test_the_same_seed_gives_the_same_samples(task):
    assert samples(task, "valid", 4, seed=3) == samples(task, "valid", 4, seed=3)
    assert samples(task, "valid", 4, seed=3) != samples(task, "valid", 4, seed=4)


@EVERY
def test_three_wordings_of_one_problem(task):
    wordings = [samples(task, "test", 5, seed=1, template=template) for template in range(TASKS[task].templates)]
    assert TASKS[task].templates == 3
    for same in zip(*wordings, strict=True):
        assert len({sample.prompt for sample in same}) == 3
        assert all(sample.meta == same[0].meta and sample.answer == same[0].answer for sample in same)


@EVERY
def test_splits_are_disjoint_whatever_the_wording(task):
    for split in SPLITS:
        for sample in samples(task, split, 8, seed=0):
            assert split_of(TASKS[task].prompt(sample.meta, 0)) == split


@EVERY
def test_lengths_are_as_intended(task):
    drawn = samples(task, "train", 60, seed=7)
    answers = [count_tokens(sample.answer) + 1 for sample in drawn]
    prompts = [count_tokens(sample.prompt) + 2 for sample in drawn]
    assert max(answers) <= TASKS[task].max_new_tokens <= 250
    assert sum(answers) / 60 >= 60
    if task == "extract":
        assert min(prompts) >= 300 and max(prompts) <= 500
    rng = Random(0)
    short = [count_tokens(TASKS[task].sample(rng, "train", short=True).answer) for _ in range(30)]
    assert sum(short) / 30 < 0.8 * sum(answers) / 60


@EVERY
def test_no_word_is_spelled_in_bytes(task):
    for sample in samples(task, "train", 30, seed=0):
        for word in re.findall(r" ?[A-Za-z]+", f"{sample.prompt}\n{sample.answer}"):
            assert len(encode(word)) == 1, word


@EVERY
def test_the_answer_is_right_and_its_parts_are_not(task):
    for sample in samples(task, "train", 15, seed=5):
        assert score(sample, sample.answer) and score(sample, f"\n{sample.answer} ")
        assert not score(sample, "") and not score(sample, sample.prompt)
        assert not score(sample, sample.answer + " x")
        assert not score(sample, sample.answer.rsplit("\n", 1)[0] if "\n" in sample.answer else sample.answer[:-1])
        if task != "story":  # whose last line alone counts
            assert not score(sample, sample.answer + sample.answer)
            assert not score(sample, sample.answer.strip()[1:])


@EVERY
def test_answers_to_other_problems_are_wrong(task):
    first, *others = samples(task, "train", 8, seed=6)
    answers = {other.answer.rsplit("\n", 1)[-1] for other in others} if task == "story" else set()
    for other in others:
        if first.answer.rsplit("\n", 1)[-1] not in answers:
            assert not score(first, other.answer)


@pytest.mark.parametrize("task", ["program", "columns", "trip", "sudokus"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_changed_character_is_refused(task, data):
    """Their answers are unique but for other routes, and no other route differs in one character."""
    sample = samples(task, "train", 1, seed=data.draw(st.integers(0, 30)))[0]
    text = sample.answer.strip()
    at = data.draw(st.integers(0, len(text) - 1))
    new = data.draw(st.sampled_from(ALPHABET.replace(text[at], "")))
    edit = data.draw(st.sampled_from((new, new + text[at], "")))  # another character, one more, one less
    changed = text[:at] + edit + text[at + 1 :]
    if [line.strip(" ") for line in changed.strip().split("\n")] != [line.strip(" ") for line in text.split("\n")]:
        assert not score(sample, changed)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 30), data=st.data())
def test_json_of_another_content_is_refused(seed, data):
    sample = samples("extract", "train", 1, seed=seed)[0]
    found = json.loads(sample.answer)
    assert score(sample, json.dumps(found, indent=1))  # spacing is not content
    key = data.draw(st.sampled_from(list(found)))
    letter, count, thing = found[key].split(" ")
    near = (f"{letter} {int(count) + 1} {thing}", f"{letter} {count}", f"{letter.upper()} {count} {thing}")
    record = data.draw(st.sampled_from([*near, f"{found[key]} ", [found[key]], None, True, int(count)]))
    assert not score(sample, json.dumps({**found, key: record}))
    assert not score(sample, json.dumps({k: v for k, v in found.items() if k != key}))
    assert not score(sample, json.dumps(dict(reversed(found.items()))))
    assert not score(sample, json.dumps({**found, "zz": record}))
    assert not score(sample, json.dumps([found])) and not score(sample, json.dumps(list(found.items())))
    assert not score(sample, sample.answer[:-1] + f',"{key}":{json.dumps(record)}}}')


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 30), wrong=st.integers(-3, 40))
def test_a_story_is_judged_by_its_final_answer_alone(seed, wrong):
    sample = samples("story", "train", 1, seed=seed)[0]
    *work, last = sample.answer.split("\n")
    right = int(last.removeprefix("answer: "))
    assert score(sample, last) and score(sample, "\n".join([*work[1:], "no", last]))
    assert score(sample, f"answer: {wrong}") == (wrong == right)
    near = ("{0}", "answer:{0}", "Answer: {0}", "answer: {0}.", "answer: {0} pens", "answer: {0}\nDan", "answer: 0{0}")
    for form in near:
        assert not score(sample, "\n".join([*work, form.format(right)]))
    assert not score(sample, "\n".join(work))


def test_work_adds_up():
    for sample in samples("program", "train", 30, seed=0):
        known: dict[str, int] = {}
        for (name, left, sign, right), line in zip(sample.meta["lines"], sample.answer.split("\n"), strict=True):
            read = {operand: known[operand] for operand in (left, right) if operand in known}
            known[name] = eval(f"{left}{sign}{right}", {}, dict(known))
            *steps, last = line.split(";")
            assert last == f"{name}={known[name]}" and 0 <= known[name] <= 20
            if sign:
                repeated, *looked_up, work = steps
                assert repeated == f"{name}:={left}{sign}{right}"
                assert looked_up == [f"{operand}={value}" for operand, value in read.items()]
                assert eval(work.split("=")[0]) == int(work.split("=")[1]) == known[name]
    for sample in samples("columns", "train", 30, seed=0):
        *columns, last = sample.answer.split("\n")
        total = eval(f"{sample.meta['a']}{sample.meta['sign']}{sample.meta['b']}")
        assert last == f"answer:{total}"
        for pair, with_carry, value in (line.split("=") for line in columns):
            assert eval(pair) == int(with_carry.split("+")[0]) and eval(with_carry) == int(value)
        digits = "".join(str(int(line.split("=")[2]) % 10) for line in reversed(columns))
        assert str(total).endswith(digits)
    for sample in samples("story", "train", 30, seed=0):
        value = sample.meta["start"]
        for who, verb, amount in sample.meta["steps"]:
            value += (amount if verb in GAINS else -amount) * (who == sample.meta["name"])
        assert sample.answer.endswith(f"\nanswer: {value}")


def routes(flights, tour, cities):
    """All ways on from a tour over existing flights that visit every city once."""
    if len(tour) == cities:
        yield tour
    for a, b in sorted(flights):
        if a == tour[-1] and b not in tour:
            yield from routes(flights, [*tour, b], cities)


def test_every_possible_route_is_accepted_and_no_other():
    other = 0
    for sample in samples("trip", "train", 60, seed=0):
        days, route = dict(sample.meta["days"]), sample.meta["route"]
        assert set(zip(route, route[1:], strict=False)) < set(sample.meta["flights"])
        write, rng = get_task("trip").answer, Random(1)
        more = [(a, b) for a in route for b in route[1:] if a != b]
        flights = {*sample.meta["flights"], *rng.sample(more, 6)}  # drawn trips have one route, these may have more
        sample = replace(sample, meta={**sample.meta, "flights": list(flights)})
        possible = list(routes(flights, route[:1], len(route)))
        assert route in possible
        other += len(possible) - 1
        for tried in possible:
            assert score(sample, write({**sample.meta, "route": tried}, rng))
        for _ in range(20):
            tried = [route[0], *rng.sample(route[1:], len(route) - 1)]
            assert score(sample, write({**sample.meta, "route": tried}, rng)) == (tried in possible)
        assert not score(sample, write({**sample.meta, "route": route[1:]}, rng))
        longer = {**sample.meta, "days": [(city, count + 1) for city, count in days.items()]}
        assert not score(sample, write(longer, rng))
    assert other > 0


def test_each_sudoku_has_one_completion():
    for sample in samples("sudokus", "train", 10, seed=0):
        assert len(sample.meta["grids"]) == 3
        for grid in sample.meta["grids"]:
            fits = [s for s in sudoku_squares() if all(c in (0, x) for c, x in zip(grid["clues"], s, strict=True))]
            assert fits == [grid["square"]] and 4 <= sum(clue > 0 for clue in grid["clues"]) <= 6
        grids = sample.answer.split("\n\n")
        assert not score(sample, "\n\n".join(grids[:2])) and not score(sample, "\n".join(grids))


def test_the_likelihood_is_exact():
    """Over all lines of one clause it sums to the share of such lines; a text is the product of its lines."""
    problem = {"names": ["Amy"]}
    ones = [f"Amy {verb} {n} {thing}." for verb in VERBS for n in NUMBERS for thing in THINGS[verb]]
    assert sum(math.exp(log_likelihood(problem, line)) for line in ones) == pytest.approx(SHAPES[1])
    both = "Amy has 1 pens and buys 2 eggs."
    part = math.log(0.25 * NUMBERS[1] * 0.4) + math.log(0.2 * NUMBERS[2] * 0.4)
    assert log_likelihood(problem, both) == pytest.approx(math.log(0.35) + part)
    two = {"names": ["Amy", "Dan"]}
    assert log_likelihood(two, f"{both}\nDan sells 9 figs.") == pytest.approx(
        log_likelihood(problem, both) + log_likelihood({"names": ["Dan"]}, "Dan sells 9 figs.")
    )
    assert sum(SHAPES.values()) == pytest.approx(1) and sum(NUMBERS.values()) == pytest.approx(1)
    assert sum(VERBS.values()) == pytest.approx(1) and all(
        sum(t.values()) == pytest.approx(1) for t in THINGS.values()
    )


def test_drawn_text_has_the_entropy_of_the_grammar():
    drawn = samples("grammar", "train", 300, seed=0)
    surprise = [-log_likelihood(s.meta, s.answer) / len(s.meta["names"]) for s in drawn]
    assert sum(surprise) / 300 == pytest.approx(entropy(1), abs=0.15)


@pytest.mark.parametrize(
    "line",
    [
        "Amy has 0 pens.",
        "Amy has 10 pens.",
        "Amy has 1 pens",
        "Amy has 1 eggs.",
        "Amy has 1 pens, buys 2 eggs.",
        "Amy has 1 pens and buys 2 eggs, sells 3 toys.",
        "Amy gets 1 pens.",
        "Dan has 1 pens.",
        "Amy has 1 pens. Amy has 1 pens.",
        "Amy has 1 pens and.",
        "",
    ],
)
def test_what_the_grammar_does_not_derive(line):
    assert log_likelihood({"names": ["Amy"]}, line) == -math.inf


def test_long_tasks_are_a_group_of_their_own():
    assert group("long") == task_names("long") == LONG
    assert not set(LONG) & set(group("all")) and all(name in TASKS for name in LONG)
    assert task_names("long,copy,story") == [*LONG, "copy"]
