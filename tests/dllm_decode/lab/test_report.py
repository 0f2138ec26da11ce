"""``report.html``: complete in itself, true to the records, small, and deaf to what prompts say."""

from __future__ import annotations

import base64
import gzip
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dllm_decode.errors import DllmError
from dllm_decode.lab.report import MARGIN, lede, write_report
from dllm_decode.lab.summary import summarise_folder, write_summary
from dllm_decode.viewing.page import build_page, json_block, pack
from tests.dllm_decode.lab.lab_records import HOSTILE, MASK, PIECES, write_run

POLICIES = ("threshold:threshold=0.6", "threshold:threshold=0.9", "topk:k=4")


class Page(HTMLParser):
    """The elements of a page, and the texts of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.blocks: dict[str, str] = {}
        self.texts: list[str] = []
        self._open: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append((tag, found))
        self._open = found.get("id", "") if tag == "script" else "" if tag == "style" else None

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        if self._open is None:
            self.texts.append(data)
        elif self._open:
            self.blocks[self._open] = self.blocks.get(self._open, "") + data

    def data(self):
        return json.loads(self.blocks["data"])

    def replays(self, task):
        return json.loads(gzip.decompress(base64.b64decode(self.blocks[f"replays-{task}"])))


def unpack(packed):
    """Canvases after every forward, read off the packed lists with no help from the packing code."""
    canvas = [MASK] * packed["n"]
    for cell, token in packed.get("g", []):
        canvas[cell] = token
    out, at = [list(canvas)], 0
    for size in packed["k"]:
        for cell, token in zip(packed["c"][at : at + size], packed["v"][at : at + size], strict=True):
            canvas[cell] = token
        out.append(list(canvas))
        at += size
    assert at == len(packed["c"]) == len(packed["v"]) == len(packed["p"])
    assert sum(packed["b"][::3]) == len(packed["k"])
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    records = write_run(folder, POLICIES, "copy,lines", samples=3)
    write_summary(folder, summarise_folder(folder))
    return folder, records


@pytest.fixture(scope="module")
def page(run):
    return Page(write_report(run[0]).read_text())


def test_it_loads_nothing(run, page):
    asks = [(t, a) for t, a in page.tags if {"src", "href", "srcset", "action", "data"} & a.keys()]
    assert asks == []
    text = (run[0] / "report.html").read_text()
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    for word in ("@import", "url(", "fetch(", "XMLHttpRequest", "import("):
        assert word not in text
    addresses = {text[i : i + 30] for i in range(len(text)) if text.startswith(("http://", "https://"), i)}
    assert all(address.startswith("http://www.w3.org/2000/svg") for address in addresses)  # a name, not a place


def test_every_record_can_be_replayed(run, page):
    _, records = run
    data = page.data()
    found = {}
    for t, task in enumerate(data["tasks"]):
        chunk = page.replays(t)
        for label, cache, problem, correct, nfe, content, answer, early, replay in chunk["samples"]:
            template, seed, sample, prompt, expected = chunk["problems"][problem]
            key = "|".join(
                map(str, (data["labels"][label]["label"], data["caches"][cache], task, template, seed, sample))
            )
            figures = (correct, nfe, content, chunk["answers"][answer], prompt, expected, bool(early))
            found[key] = figures, unpack(replay), replay["p"]
    assert found.keys() == {record["key"] for record in records}
    for record in records:
        figures, canvases, confidence = found[record["key"]]
        names = ("correct", "nfe", "n_content", "answer", "prompt", "expected", "early_exit")
        assert figures == tuple(record[name] for name in names)
        assert canvases[-1] == record["tokens"]
        assert len(canvases) == record["nfe"] + 1
        written = [write for step in record["steps"] for write in step]
        assert confidence == [-1 if p == 0 and token != MASK else round(1000 * p) for _, token, p in written]


def test_its_figures_are_the_summary_s(run, page):
    summary, data = json.loads((run[0] / "summary.json").read_text()), page.data()
    assert len(data["rows"]) == len(summary["rows"]) == 4 * 2 * 3
    for shown, row in zip(data["rows"], summary["rows"], strict=True):
        assert data["labels"][shown["l"]]["label"] == row["label"]
        assert data["caches"][shown["c"]] == row["cache"]
        assert ([*data["tasks"], "all"][shown["t"]]) == row["task"]
        for name in ("accuracy", "accuracy_low", "tpf_content", "tpf_canvas", "row_tpf", "nfe", "identity"):
            assert shown[name] == pytest.approx(row[name], abs=1e-6)
    assert {b["name"] for b in data["bounds"]} == {"egp", "per-sample best"}


def test_without_a_summary_it_is_made(run, page, tmp_path):
    for name in ("setting.json", "records.jsonl", "pieces.json"):
        (tmp_path / name).write_bytes((run[0] / name).read_bytes())
    assert Page(write_report(tmp_path).read_text()).data() == page.data()


def test_two_reports_are_the_same_bytes(run):
    first = write_report(run[0]).read_bytes()
    assert write_report(run[0]).read_bytes() == first


def test_a_small_page_keeps_the_same_problems_of_every_policy(run):
    folder, records = run
    full = Page(write_report(folder).read_text())
    replays = sum(len(text) for name, text in full.blocks.items() if name.startswith("replays"))
    limit = (folder / "report.html").stat().st_size - replays // 2 + MARGIN
    text = write_report(folder, limit).read_text()
    page = Page(text)
    assert len(text) <= limit
    kept = {}
    for t in range(2):
        for label, cache, problem, *_ in page.replays(t)["samples"]:
            kept.setdefault((t, label, cache), set()).add(problem)
    assert len({(t, tuple(sorted(problems))) for (t, _, _), problems in kept.items()}) == 2
    assert len(kept) == 2 * 5 * 2
    assert 1 <= len(kept[0, 0, 0]) < 6
    assert f"replays of {len(kept[0, 0, 0])} of 6 problems per task" in "".join(page.texts)
    assert Page(write_report(folder, 1).read_text()).replays(0)["samples"] == []
    write_report(folder)


def test_prompts_stay_text(tmp_path):
    write_run(tmp_path, ("topk:k=2",), "copy", ("none",), samples=2, prompt=HOSTILE)
    text = write_report(tmp_path).read_text()
    page, plain = Page(text), Page(text.replace(HOSTILE, ""))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    assert "img" not in [tag for tag, _ in page.tags]
    assert text.count("</script") == len([tag for tag, _ in page.tags if tag == "script"])
    assert page.replays(0)["problems"][0][3].startswith(HOSTILE)


def test_names_stay_text_too(tmp_path):
    write_run(tmp_path, ("topk:k=2",), "copy", ("none",), samples=1)
    setting = json.loads((tmp_path / "setting.json").read_text())
    (tmp_path / "setting.json").write_text(json.dumps({**setting, "model": HOSTILE}))
    (tmp_path / "pieces.json").write_text(json.dumps({**PIECES, "5": HOSTILE}))
    text = write_report(tmp_path).read_text()
    assert "img" not in [tag for tag, _ in Page(text).tags]
    assert text.count("<script") == 3 and "window.pwned=1</script>" not in text
    assert Page(text).data()["pieces"]["5"].startswith("</script><script>")
    assert "@@title@@" in text  # what looks like a placeholder is none


def test_data_blocks_are_safe_and_exact():
    value = {HOSTILE: [HOSTILE, "\ud800", 1.5, None]}
    block = json_block("x", value)
    assert block.count("<") == 2
    assert block.isascii()
    inner = block[block.index(">") + 1 : block.rindex("</script>")]
    assert json.loads(inner) == value
    with pytest.raises(ValueError, match="JSON"):
        pack({"nan": float("nan")})


def test_a_script_that_html_would_cut_is_refused(monkeypatch):
    monkeypatch.setattr("dllm_decode.viewing.page.asset", lambda name: "x = '</SCRIPT>';")
    with pytest.raises(ValueError, match="cut short"):
        build_page("view.html", {"title": ""}, [], ["base.js"])


def outcome(*policies):
    """A summary of static decoding and some policies, each ``(label, accuracy, TPF, low, high, gained, lost)``."""
    rows = []
    for label, accuracy, tpf, low, high, gained, lost in (("static", 0.99, 1.0, 1.0, 1.0, 0, 0), *policies):
        row = {"label": label, "cache": "none", "task": "all", "kind": "static" if label == "static" else "policy"}
        row |= {"accuracy": accuracy, "tpf_content": tpf, "tpf_content_low": low, "tpf_content_high": high, "n": 20}
        row |= {"difference": accuracy - 0.99, "difference_low": -0.05, "difference_high": 0.01}
        rows.append({**row, "gained": gained, "lost": lost})
    return {"rows": rows}


def test_the_outcome_in_words():
    fast, slow = ("a", 0.985, 3.0, 2.8, 3.2, 1, 2), ("b", 0.99, 2.0, 1.9, 2.1, 0, 0)
    assert lede(outcome(fast, slow, ("wrong", 0.9, 9.0, 8.0, 10.0, 0, 9))) == (
        "At no more than one point of loss over all tasks, a (cache none) is the fastest: 3.00 content tokens per "
        "forward (95 %: 2.80 to 3.20) against 1.00 of static decoding, at 98.5 % accuracy against 99.0 % "
        "(difference −0.5 points, 95 %: −5.0 to +1.0, so a larger loss is not ruled out; 20 samples)."
    )
    assert "(none of the 20 answers turned right or wrong, which leaves up to 16.1 points open at 95 %)" in lede(
        outcome(slow)
    )
    nothing = "No setting is faster than static decoding at no more than one point of loss over all tasks."
    assert (
        lede(outcome()) == nothing == lede(outcome(("still", 0.99, 1.0, 1.0, 1.0, 0, 0), ("no", 0.9, 5.0, 5, 5, 0, 1)))
    )


def test_ties_are_called_ties_and_overlaps_name_no_winner():
    fast = ("a", 0.985, 3.0, 2.8, 3.2, 1, 2)
    assert "a (cache none) and twin (cache none) tie as the fastest: 3.00" in lede(outcome(fast, ("twin", *fast[1:])))
    near = ("near", 0.99, 2.9, 2.7, 3.1, 0, 0)
    assert lede(outcome(fast, near)).endswith("overlaps that of near: among them this run names no winner.")
    alone = ("one", 0.99, 2.9, None, None, 0, 0)  # a single problem has no interval
    assert "one (cache none) is the fastest: 2.90 content" in lede(
        outcome(alone, ("two", 0.99, 2.0, None, None, 0, 0))
    )
    many = [(f"n{i}", 0.99, 2.9 - 0.01 * i, 2.7, 3.1, 0, 0) for i in range(5)]
    assert "overlaps that of n0, n1, n2 and 2 more: among" in lede(outcome(fast, *many))


@pytest.mark.parametrize("break_it, sentence", [
    (lambda folder: (folder / "setting.json").unlink(), "holds no comparison"),
    (lambda folder: (folder / "records.jsonl").unlink(), "holds no records.jsonl"),
    (lambda folder: (folder / "records.jsonl").write_text(""), "not finished"),
    (lambda folder: (folder / "summary.json").write_text("{"), "delete it"),
    (lambda folder: (folder / "report.html").mkdir(), "cannot write"),
])  # fmt: skip
def test_what_is_wrong_is_said_in_one_sentence(tmp_path: Path, break_it, sentence):
    write_run(tmp_path, ("topk:k=2",), "copy", ("none",), samples=1)
    break_it(tmp_path)
    with pytest.raises(DllmError, match=sentence):
        write_report(tmp_path)
