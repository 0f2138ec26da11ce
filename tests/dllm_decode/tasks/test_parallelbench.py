"""ParallelBench-style tasks: right answers are found by trying everything; files are read in the original's form."""

from __future__ import annotations

import json
from itertools import permutations, product
from random import Random

import pytest
import yaml

from dllm_decode.errors import DllmError
from dllm_decode.lab.evaluate import evaluate
from dllm_decode.lab.problems import draw as draw_for_the_lab
from dllm_decode.lab.problems import task_names
from dllm_decode.tasks import TASKS, Sample, get_task, samples, score
from dllm_decode.tasks.parallelbench import PARALLELBENCH
from dllm_decode.tasks.parallelbench import waiting_line as parsing
from dllm_decode.tasks.parallelbench.sentences import holds, sentence_faults
from dllm_decode.tasks.parallelbench.waiting_line import FIRST_NAMES, LAST_NAMES, OPERATIONS
from tests.dllm_decode.answering import answering, table_of

NAMES = [name for name in PARALLELBENCH if name.startswith("parallelbench/")]
EVERY = pytest.mark.parametrize("name", NAMES)
LISTS = [operation.name for operation in OPERATIONS]
A, B, C, D, NEW = "Ada Abbott", "Bela Bauer", "Clara Chan", "Dario Duarte", "Zoe Zimmer"


def problem(name: str, **facts: object) -> Sample:
    return Sample(f"parallelbench/{name}", 0, "", "", facts)


def strictly(sample: Sample) -> Sample:
    return Sample(sample.task.replace("parallelbench/", "parallelbench-strict/"), 0, "", "", sample.meta)


@EVERY
def test_seeds_splits_wordings_and_answers(name):
    first, again = samples(name, "test", 4, seed=3), samples(name, "test", 4, seed=3)
    assert first == again != samples(name, "test", 4, seed=4)
    assert samples(name, "test", 2, seed=3) == first[:2]
    assert not {s.prompt for s in samples(name, "train", 30, 0, 0)} & {
        s.prompt for s in samples(name, "test", 5, 0, 0)
    }
    wordings = [samples(name, "test", 3, seed=1, template=t) for t in range(3)]
    for same in zip(*wordings, strict=True):
        assert len({sample.prompt for sample in same}) == 3
        assert all(sample.meta == same[0].meta for sample in same)
    for sample in [*first, *(s for drawn in wordings for s in drawn)]:
        assert score(sample, sample.answer)
        assert score(strictly(sample), sample.answer)
        assert not score(sample, "")
        assert not score(sample, sample.answer[: len(sample.answer) // 2])


@EVERY
def test_they_are_found_by_name_but_are_not_part_of_all(name):
    assert get_task(name) is TASKS[name] and name in TASKS
    assert name not in list(TASKS) and name not in task_names("all")
    assert task_names(f"copy,{name}") == ["copy", name]


@pytest.mark.parametrize("name", LISTS)
def test_list_prompts_show_one_solved_example_and_the_problem(name):
    for sample in samples(f"parallelbench/{name}", "test", 3, seed=0):
        lines = [line for line in sample.prompt.split("\n") if line.startswith(("Line: ", "Result:"))]
        assert lines[0] == "Line: " + parsing.write_list(sample.meta["example"]["items"])
        assert lines[1] == "Result: " + parsing.write_list(sample.meta["example"]["expected"])
        assert lines[2] == "Line: " + parsing.write_list(sample.meta["items"])
        assert lines[3] == "Result:" and sample.prompt.endswith("Result:")
        assert 3 <= len(sample.meta["items"]) <= 6
        assert len(set(sample.meta["items"])) == len(sample.meta["items"])
        assert ("New person" in sample.prompt) == name.startswith(("insert", "replace"))
        assert ("Position" in sample.prompt) == name.endswith("_index")
        example = problem(name, **sample.meta["example"])
        assert score(example, parsing.write_list(sample.meta["example"]["expected"]))


def test_sort_is_by_the_full_string_and_says_so():
    for template in range(3):
        (sample,) = samples("parallelbench/sort", "test", 1, seed=0, template=template)
        assert "by the full string" in sample.prompt
        assert sample.meta["expected"] == sorted(sample.meta["items"])


def test_lines_have_the_length_asked_for():
    lengths = {len(s.meta["items"]) for s in samples("parallelbench/copy", "train", 40, seed=0)}
    assert lengths == {3, 4, 5, 6}
    assert {len(s.meta["items"]) for s in samples("parallelbench-n15/shuffle", "train", 3, seed=0)} == {15}
    assert len(set(FIRST_NAMES)) == len(set(LAST_NAMES)) == 40


ANYWHERE = {
    "shuffle": (
        {"items": [A, B, C]},
        [list(p) for p in permutations([A, B, C])][1:],
    ),
    "insert_random": (
        {"items": [A, B, C], "new": NEW},
        [[NEW, A, B, C], [A, NEW, B, C], [A, B, NEW, C], [A, B, C, NEW]],
    ),
    "remove_random": ({"items": [A, B, C]}, [[B, C], [A, C], [A, B]]),
    "replace_random": ({"items": [A, B, C], "new": NEW}, [[NEW, B, C], [A, NEW, C], [A, B, NEW]]),
    "insert_index": ({"items": [A, B, C], "new": NEW, "index": 1, "expected": [A, NEW, B, C]}, [[A, NEW, B, C]]),
    "replace_index": ({"items": [A, B, C], "new": NEW, "index": 2, "expected": [A, B, NEW]}, [[A, B, NEW]]),
    "remove_index": ({"items": [A, B, C], "index": 0, "expected": [B, C]}, [[B, C]]),
}


@pytest.mark.parametrize("name", ANYWHERE)
def test_exactly_the_right_lists_are_accepted_among_all_lists(name):
    facts, right = ANYWHERE[name]
    tried = [list(p) for n in range(5) for p in product([A, B, C, NEW], repeat=n)]
    accepted = [x for x in tried if score(problem(name, **facts), parsing.write_list(x))]
    assert sorted(accepted) == sorted(right)


@pytest.mark.parametrize("operation", OPERATIONS, ids=LISTS)
def test_a_label_at_a_position_is_made_there(operation):
    rng = Random(0)
    for _ in range(30):
        drawn = operation.draw(rng, (3, 6))
        items, expected = drawn["items"], drawn["expected"]
        if operation.name == "insert_index":
            assert expected[drawn["index"]] == drawn["new"] and len(expected) == len(items) + 1
        if operation.name == "remove_index":
            assert items[drawn["index"]] not in expected and len(expected) == len(items) - 1
        if operation.name == "replace_index":
            assert expected[drawn["index"]] == drawn["new"] and items[drawn["index"]] not in expected


def test_positions_reach_from_the_front_to_behind_the_end():
    drawn = [
        samples("parallelbench/insert_index", "train", 60, seed=0),
        samples("parallelbench/remove_index", "train", 60, 0),
    ]
    inserted, removed = (
        {(len(s.meta["items"]), s.meta["index"]) for s in d if len(s.meta["items"]) == 3} for d in drawn
    )
    assert inserted == {(3, 0), (3, 1), (3, 2), (3, 3)}
    assert removed == {(3, 0), (3, 1), (3, 2)}


@pytest.mark.parametrize(
    ("text", "lenient", "strict"),
    [
        (f'["{A}", "{B}"]', [A, B], [A, B]),
        (f'Here: [x] and ["{A}", "{B}"] done', [A, B], [A, B]),
        (f"[{A}, {B}]", [A, B], None),
        (f'["{A}","{B}"]', [A, B], None),
        (f'["{A}", "{B}"', [A, B], None),
        (f'"{A}", "{B}"]', [A, B], None),
        (f"{A}, {B}", [A, B], None),
        (f'["{A}",  "{B}", ]', [A, B], None),
        (f'["{A}", "{B}""]', [A, B], None),
        ("[]", [], None),
        ("", [], None),
    ],
)
def test_lists_are_read_strictly_and_leniently(text, lenient, strict):
    assert parsing.read_list(text) == lenient
    assert parsing.read_list_strictly(text) == strict


def test_latin_squares():
    sample = problem("latin_square", symbols=["A", "7", "K", "Q"])
    square = "A,7,K,Q\n7,A,Q,K\nK,Q,A,7\nQ,K,7,A"
    assert score(sample, square) and score(strictly(sample), square)
    chatty = "Here it is:\n\nA, 7, K, Q\n 7,A,Q,K\nK,Q,A,7\nQ,K,7,A\nA,7,K,Q\nDone."
    assert score(sample, chatty) and not score(strictly(sample), chatty)
    for wrong in (
        square.replace("7,A,Q,K", "A,7,Q,K"),  # a column twice
        square.replace("7,A,Q,K", "7,7,Q,K"),  # a row without a symbol
        square.replace("7,A,Q,K", "7,A,Q,K,K"),  # five cells
        square.rsplit("\n", 1)[0],
        square.replace("Q", "X"),
    ):
        assert not score(sample, wrong) and not score(strictly(sample), wrong)


GOOD = [
    "My dog ran after the ball that I threw in the park.",
    '"She bought an apple and a pear at the market."',
    "Mr. Olsen waited an hour for a one-way ticket.",
    "Does he have a university degree?",
    "She and it are old friends!",
    "The price, as he said, was 3.50 dollars (or less).",
]
BAD = {
    "My dog dog ran in the park.": "twice",
    "my dog ran in the park.": "capital",
    "My dog ran in the park": "full stop",
    "My dog ran. It was in the park.": "more than one sentence",
    "My dog ran\nin the park.": "more than one line",
    "My dog ran , in the park.": "punctuation",
    "My dog ran,, in the park.": "punctuation",
    "My dog ran in the park..": "punctuation",
    "My dog ran in a old park.": "article",
    "My dog ran an long way in the park.": "article",
    "It have a ball in the park.": "agreement",
    "We is in the park with a ball.": "agreement",
    "Dog park ball throw.": "function word",
    "The dog.": "2 words",
    'My "dog ran in the park.': "pair",
    "My **dog** ran in the park.": "markup",
    "My dog ran<|mask|> in the park.": "markup",
    "I saw the dog in the park and I saw the dog in the park.": "four words",
    "": "empty",
}


@pytest.mark.parametrize("text", GOOD)
def test_good_sentences_have_no_faults(text):
    assert sentence_faults(text) == []


@pytest.mark.parametrize("text", BAD)
def test_bad_sentences_have_the_fault_meant(text):
    assert any(BAD[text] in fault for fault in sentence_faults(text)), sentence_faults(text)


def test_words_must_be_in_the_sentence():
    sample = problem("words_easy", words=["dog", "ice_cream", "throw", "party"])
    right = "The dogs were throwing ice cream at both parties."
    assert not score(sample, right)  # as in the original, "party" is looked for as it is
    assert score(strictly(sample), right)
    assert score(sample, "The dog will throw ice cream at the party.")
    assert not score(sample, "The dog will throw cream at the party.")
    assert holds("a doghouse", "dog", strict=False) and not holds("a doghouse", "dog", strict=True)
    assert all(holds(text, "bake", strict=True) for text in ("We bake.", "She bakes.", "He baked.", "Baking is fun."))
    assert holds("It stopped.", "stop", strict=True)


def right_and_wrong(name: str, count: int) -> tuple[dict[str, str], int]:
    drawn = samples(name, "test", count, seed=0)
    return table_of(drawn, wrong=lambda index: index % 4 == 3), count - count // 4


def test_evaluate_takes_them():
    name = "parallelbench/latin_square"
    table, right = right_and_wrong(name, 8)
    report = evaluate(answering(table), "threshold", name, 8, batch_size=3, block_length=None)
    assert report.tasks[name]["samples"] == 8 and sum(record["correct"] for record in report.records) == right


def test_the_lab_draws_them():
    drawn = draw_for_the_lab("parallelbench/shuffle", "test", seed=0, first=2, count=2, templates=(0, 2))
    assert [p.template for p in drawn] == [0, 0, 2, 2] and all(p.canvas == 48 for p in drawn)
    assert all(p.accepts(p.expected, ()) and not p.accepts("[]", ()) for p in drawn)


def test_unknown_names():
    with pytest.raises(DllmError, match="did you mean 'parallelbench/shuffle'"):
        get_task("parallelbench/shufle")
    with pytest.raises(DllmError, match="did you mean 'copy'"):
        get_task("cpy")
    assert "parallelbench/nothing" not in TASKS and 3 not in TASKS


# Files of the original, written here in its form.

ANSWER = {"input": [A, B, C], "word": NEW, "example": parsing.write_list([A, NEW, C])}
LINES = {
    "waiting_line/copy": {"input": {"context": parsing.write_list([A, B])}, "answer": parsing.write_list([A, B])},
    "waiting_line/replace_random": {
        "input": {
            "context": parsing.write_list([A, B, C]),
            "word": NEW,
            "icl_examples": [{"input": {"context": parsing.write_list([A, B, C]), "word": NEW}, "answer": ANSWER}],
        },
        "answer": ANSWER,
    },
    "waiting_line/insert_index": {
        "input": {"context": parsing.write_list([A, B]), "word": NEW, "index": 2},
        "answer": parsing.write_list([A, B, NEW]),
    },
    "puzzle/latin_square_n4": {
        "input": {"size": 4, "symbols": "[A, B, C, D]"},
        "answer": {"symbols": list("ABCD"), "example": "A,B,C,D\nB,A,D,C\nC,D,A,B\nD,C,B,A"},
    },
    "puzzle/sudoku_n4_12": {"input": {"sudoku": "1004\n3412\n2143\n4321"}, "answer": "1234\n3412\n2143\n4321"},
    "words_to_sentence/hard": {"input": {"words": "key, and moon"}, "answer": {"words": ["key", "moon"]}},
}
CONFIGS = {
    "waiting_line/copy": {"metric": "list_match_score", "prompt": "Copy:\n{context}\n"},
    "waiting_line/insert_index": {"metric": "list_match_score", "prompt": "{word} to {index} of {context}"},
    "puzzle/latin_square_n4": {"metric": "latin_square_score", "prompt": "A square of {symbols}"},
    "words_to_sentence/hard": {"metric": "sentence_to_words_score", "prompt": "A sentence of {words}"},
    "waiting_line/replace_random": {"metric": "list_random_replace_score", "prompt": "Put {word} into\\n{context}"},
    "puzzle/sudoku_n4_12": {"metric": "sudoku_score", "prompt": "Solve\n{sudoku}"},
}


def write_original(folder, name, count=3):
    path = folder / f"{name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({**LINES[name], "metadata": {"n": n}}) + "\n" for n in range(count)))
    (path.parent / "task_config.yaml").write_text(yaml.safe_dump({name: CONFIGS[name]}))
    return path


@pytest.mark.parametrize("name", LINES)
def test_files_of_the_original_are_read(tmp_path, name):
    path = write_original(tmp_path, name)
    drawn = samples(f"parallelbench:{path}", "test", 3, seed=0)
    assert len(drawn) == 3
    for sample in drawn:
        assert score(sample, sample.answer) and not score(sample, "[]")
        assert sample.task == f"parallelbench:{path}"
    if name == "waiting_line/replace_random":
        asked = f"Put {NEW} into\n{parsing.write_list([A, B, C])}"
        assert drawn[0].prompt == f"{asked}\n{ANSWER['example']}\n\n{asked}"
    strict = samples(f"parallelbench-strict:{path}", "test", 1, seed=0)[0]
    assert score(strict, strict.answer)
    if name == "waiting_line/copy":
        assert score(drawn[0], f"Sure: [{A},{B}]") and not score(strict, f"Sure: [{A},{B}]")


def test_a_file_gives_each_problem_once_and_a_longer_draw_begins_with_the_shorter(tmp_path):
    path = write_original(tmp_path, "waiting_line/copy")
    rows = [parsing.write_list([A, B] * (n + 1)) for n in range(6)]
    path.write_text("".join(json.dumps({"input": {"context": row}, "answer": row}) + "\n" for row in rows))
    name = f"parallelbench:{path}"
    drawn = samples(name, "test", 6, seed=1)
    assert {s.answer for s in drawn} == set(rows)
    assert samples(name, "test", 2, seed=1) == drawn[:2]
    for split, n, what in (("test", 7, "6 problems, but 7"), ("train", 1, "test problems only")):
        with pytest.raises(DllmError, match=what):
            samples(name, split, n, seed=0)


@pytest.mark.parametrize(
    ("content", "file", "what"),
    [
        (None, "copy.jsonl", "No such file"),
        ("", "copy.jsonl", "is empty"),
        ("{", "copy.jsonl", "line 1 of .* is no list_match problem"),
        ('{"input": {"context": "[]"}}', "copy.jsonl", "no field 'answer'"),
        ('{"input": 3, "answer": ""}', "copy.jsonl", "no object with an 'input' object"),
        (
            '{"input": {"context": "[a]"}, "answer": {"input": ["b"], "example": "[b]"}}',
            "shuffle.jsonl",
            "another list",
        ),
        (
            '{"input": {"context": "[a]"}, "answer": "[a]"}',
            "other.jsonl",
            "knows no task 'other'; keep",
        ),
        ('{"input": {"words": "a"}, "answer": {}}', "easy.jsonl", "no field 'words'"),
    ],
)
def test_files_that_cannot_be_read_say_why(tmp_path, content, file, what):
    if content is not None:
        (tmp_path / file).write_text(content)
        metrics = {"copy": "list_match_score", "shuffle": "list_shuffle_score", "easy": "sentence_to_words_score"}
        config = {f"x/{name}": {"metric": metric, "prompt": "{words}"} for name, metric in metrics.items()}
        (tmp_path / "task_config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(DllmError, match=what):
        get_task(f"parallelbench:{tmp_path / file}")


def test_metrics_that_need_a_service_and_broken_configurations_are_refused(tmp_path):
    path = tmp_path / "samsum.jsonl"
    path.write_text("{}")
    config = tmp_path / "task_config.yaml"
    config.write_text(yaml.safe_dump({"x/samsum": {"metric": "summary_score", "prompt": "Summarise {text}"}}))
    with pytest.raises(DllmError, match="needs services that are not used here"):
        get_task(f"parallelbench:{path}")
    config.write_text("a: [")
    with pytest.raises(DllmError, match="fetch it again"):
        get_task(f"parallelbench:{path}")
    with pytest.raises(DllmError, match="is a folder; give one of its files, such as samsum.jsonl"):
        get_task(f"parallelbench:{tmp_path}")
