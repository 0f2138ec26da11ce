"""Generators, splits and scorers of the bundled tasks."""

from __future__ import annotations

from random import Random

import pytest

from dllm_decode.errors import DllmError
from dllm_decode.tasks import SPLITS, TASKS, few_shot, get_task, samples, score, split_of
from dllm_decode.tasks.grids import latin_squares, sudoku_squares
from dllm_decode.tasks.tokenizer import count_tokens, encode, vocabulary

EVERY = pytest.mark.parametrize("task", list(TASKS))


def one(task: str, seed: int = 0, template: int | None = None):
    return samples(task, "train", 1, seed, template)[0]


@EVERY
def test_the_same_seed_gives_the_same_samples(task):
    assert samples(task, "valid", 5, seed=3) == samples(task, "valid", 5, seed=3)
    assert samples(task, "valid", 5, seed=3) != samples(task, "valid", 5, seed=4)


@EVERY
def test_templates_change_the_wording_and_nothing_else(task):
    wordings = [samples(task, "test", 8, seed=1, template=template) for template in range(TASKS[task].templates)]
    assert TASKS[task].templates == 3
    for same in zip(*wordings, strict=True):
        assert len({sample.prompt for sample in same}) == 3
        assert all(sample.meta == same[0].meta and sample.answer == same[0].answer for sample in same)


@EVERY
def test_splits_are_disjoint_whatever_the_wording(task):
    problems = {split: {TASKS[task].prompt(s.meta, 0) for s in samples(task, split, 40, seed=0)} for split in SPLITS}
    assert all(len(found) == 40 for found in problems.values())
    assert not problems["train"] & problems["test"]
    assert not problems["train"] & problems["valid"]
    assert not problems["valid"] & problems["test"]
    if task != "lines":
        assert all(split_of(prompt) == split for split, found in problems.items() for prompt in found)


def test_every_line_of_a_test_sample_is_a_test_problem():
    for split in SPLITS:
        for sample in samples("lines", split, 10, seed=0):
            assert {split_of(TASKS[name].prompt(part, 0)) for name, part in sample.meta["parts"]} == {split}


@EVERY
def test_the_answer_is_right_and_damaged_answers_are_wrong(task):
    for sample in samples(task, "train", 20, seed=5):
        assert score(sample, sample.answer)
        assert score(sample, f"\n{sample.answer} ")
        assert not score(sample, "")
        assert not score(sample, sample.answer + sample.answer)
        assert not score(sample, sample.answer.strip()[:-1])
        assert not score(sample, sample.answer.strip()[1:])
        assert not score(sample, sample.answer + " x")
        assert not score(sample, sample.prompt)


@EVERY
def test_an_answer_to_another_problem_is_wrong(task):
    # "choose" overlaps by chance; the letters of these two problems do not.
    first, *others = samples(task, "train", 12, seed=6)
    others = [o for o in others if not set(o.meta.get("items", ())) & set(first.meta.get("items", ("-",)))]
    assert not any(score(first, other.answer) for other in others)


@EVERY
def test_lengths_are_as_intended(task):
    drawn = samples(task, "train", 150, seed=7)
    answers = [count_tokens(sample.answer) for sample in drawn]
    prompts = [count_tokens(sample.prompt) for sample in drawn]
    assert min(answers) >= (24 if task == "lines" else 8)
    assert max(answers) <= (90 if task == "lines" else 29)
    assert max(answers) < TASKS[task].max_new_tokens
    assert max(prompts) <= 128
    size = len(vocabulary())
    assert all(0 <= token < size for sample in drawn for token in encode(sample.prompt + sample.answer))


def test_several_answers_are_accepted_where_several_are_right():
    shuffled = one("shuffle")
    items = list(shuffled.meta["items"])
    assert score(shuffled, " ".join(items[::-1]))
    assert score(shuffled, " ".join([items[1], items[0], *items[2:]]))
    assert not score(shuffled, " ".join(items))
    assert not score(shuffled, " ".join([items[0], *items[:-1]]))
    assert not score(shuffled, " ".join(items[::-1][:-1]))

    replaced = one("replace_random")
    items, new = list(replaced.meta["items"]), replaced.meta["new"]
    for index in range(len(items)):
        assert score(replaced, " ".join([*items[:index], new, *items[index + 1 :]]))
    assert not score(replaced, " ".join(items))
    assert not score(replaced, " ".join([new, new, *items[2:]]))
    assert not score(replaced, " ".join([*items, new]))

    chosen = one("choose")
    for letter in chosen.meta["items"]:
        assert score(chosen, " ".join([letter] * 8))
        assert not score(chosen, " ".join([letter] * 7))
    first, second = chosen.meta["items"][:2]
    assert not score(chosen, " ".join([first] * 7 + [second]))
    outside = next(letter for letter in "abcdefg" if letter not in chosen.meta["items"])
    assert not score(chosen, " ".join([outside] * 8))


def test_the_free_replacement_is_not_told():
    spec = TASKS["replace_random"]
    problem = dict(one("replace_random").meta)
    moved = {**problem, "index": (problem["index"] + 1) % len(problem["items"])}
    assert [spec.prompt(problem, t) for t in range(3)] == [spec.prompt(moved, t) for t in range(3)]


def test_json_is_judged_as_json():
    sample = one("kv_json")
    pairs = sample.meta["pairs"]
    assert score(sample, "{" + ", ".join(f'"{key}": {value}' for key, value in pairs) + "}")
    assert not score(sample, "{" + ",".join(f'"{key}":{value}' for key, value in pairs[::-1]) + "}")
    assert not score(sample, "{" + ",".join(f'"{key}":{value}.0' for key, value in pairs) + "}")
    assert not score(sample, "{" + ",".join(f'"{key}":"{value}"' for key, value in pairs) + "}")
    assert not score(sample, sample.answer[:-1] + ',"zz":1}')
    assert not score(sample, "[" + sample.answer + "]")


def test_worked_answers_add_up():
    for sample in samples("add", "train", 50, seed=0):
        columns, total = sample.answer.split("=")
        assert int(total) == sample.meta["a"] + sample.meta["b"]
        digits = [int(column) % 10 for column in columns.split()]
        assert digits == [int(digit) for digit in total[::-1]][: len(digits)]
    for task in ("chain", "word"):
        for sample in samples(task, "train", 50, seed=0):
            steps = sample.answer.split("\n")[0].split(";")
            for step in steps:
                left, right = step.split("=")
                assert eval(left) == int(right) and 0 <= int(right) <= 20
            assert int(steps[-1].split("=")[1]) == sample.meta["start"] + sum(sample.meta["moves"])


def test_grids():
    assert len(latin_squares()) == 576
    assert len(sudoku_squares()) == 288
    for sample in samples("sudoku4", "train", 20, seed=0):
        clues = sample.meta["clues"]
        fits = [s for s in sudoku_squares() if all(c in (0, x) for c, x in zip(clues, s, strict=True))]
        assert fits == [sample.meta["square"]]
        assert 6 <= sum(clue > 0 for clue in clues) <= 9
    for sample in samples("latin4", "train", 20, seed=0):
        clues = sample.meta["clues"]
        for square in latin_squares():
            fits = all(c in (0, x) for c, x in zip(clues, square, strict=True))
            rows = ["".join(f" {x}" for x in square[at : at + 4]) for at in range(0, 16, 4)]
            assert score(sample, "\n".join(rows)) == fits


def test_few_shot_prompts():
    sample = one("sort", template=1)
    messages = few_shot(sample, k=3)
    assert [message["role"] for message in messages] == ["user", "assistant"] * 3 + ["user"]
    assert messages[-1]["content"] == sample.prompt
    assert messages[0]["content"].startswith("order:")
    assert messages == few_shot(sample, k=3)
    assert messages != few_shot(sample, k=3, seed=1)
    long = few_shot(sample, min_tokens=150)
    # Each turn adds sep and newline; bos and the last sep are counted once.
    assert 150 <= sum(count_tokens(m["content"]) + 1 for m in long) + 1 < 200
    assert few_shot(sample, k=0) == messages[-1:]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: get_task("suduko4"), "did you mean 'sudoku4'"),
        (lambda: get_task("qqqq"), "Tasks are copy, reverse"),
        (lambda: samples("sort", "dev", 1, 0), "unknown split 'dev': choose one of train, valid, test"),
        (lambda: samples("sort", "test", 1, 0, template=3), "template 3 given, task 'sort' has 0 to 2"),
        (lambda: samples("sort", "test", -1, 0), "-1 samples asked for"),
        (lambda: few_shot(one("sort")), "exactly one"),
        (lambda: few_shot(one("sort"), k=1, min_tokens=9), "exactly one"),
    ],
)
def test_wrong_input_is_answered_in_one_sentence(call, words):
    with pytest.raises(DllmError, match=words):
        call()


@EVERY
def test_short_problems_are_shorter(task):
    rng = Random(0)
    short = [count_tokens(TASKS[task].sample(rng, "train", short=True).answer) for _ in range(60)]
    usual = [count_tokens(TASKS[task].sample(rng, "train").answer) for _ in range(60)]
    if task in {"choose", "latin4", "sudoku4"}:  # of one size
        assert set(short) == set(usual)
    else:
        assert sum(short) < sum(usual)
