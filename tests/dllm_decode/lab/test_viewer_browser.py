"""The report and the trace viewer in a real headless browser: clicked, dragged, and compared with the data."""

from __future__ import annotations

import json
import time
from itertools import combinations

import pytest

from dllm_decode.engine.trace import Trace, TraceStep
from dllm_decode.lab.report import write_report
from dllm_decode.lab.summary import summarise_folder, write_summary
from dllm_decode.viewing.viewer import write_viewer
from tests.dllm_decode.lab.browser import Browser, find_browser
from tests.dllm_decode.lab.lab_records import HOSTILE, MASK, PIECES, canvas_after, write_run

BROWSER = find_browser()
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no browser found: install Debian's chromium, or name one in $CHROMIUM"
)
POLICIES = ("threshold:threshold=0.6", "threshold:threshold=0.9", "topk:k=4", "factor")
DIALOG = "dialog[open] "


@pytest.fixture(scope="module")
def browser():
    with Browser(str(BROWSER)) as found:
        yield found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    records = write_run(folder, POLICIES, "copy,lines", samples=3, prompt=HOSTILE)
    write_summary(folder, summarise_folder(folder))
    write_report(folder)
    return folder, {record["key"]: record for record in records}


@pytest.fixture
def report(browser, run):
    browser.resize(1280, 900)
    browser.prefer("light")
    browser.events.clear()
    browser.open(run[0] / "report.html")
    yield browser
    assert browser.problems() == []


def shown(token: int) -> str:
    return {MASK: "·", 1: "∎", 2: "↵"}.get(token, PIECES[str(token)])


def cells(browser, inside: str = DIALOG) -> list[dict]:
    look = (
        "n => ({text: n.textContent, kind: n.className.split(' '), step: Number(n.dataset.step),"
        " colour: getComputedStyle(n).backgroundColor})"
    )
    return browser.run(f"[...document.querySelectorAll('{inside}[data-cell]')].map({look})")


def open_samples(browser, label: str, task: str) -> None:
    browser.run(f"document.querySelector(\".point[data-label='{label}'][data-task='{task}']\").focus()")
    browser.key("Enter")  # the mouse would get the mark on top
    browser.wait(f"document.querySelector('{DIALOG}.cell') !== null")


def chosen(browser, run) -> dict:
    """The record on display, by the page's address."""
    parts = browser.run("decodeURIComponent(location.hash.slice(1).split('|').join('\\u0000'))").split("\0")
    return run[1]["|".join(parts)]


def check_step(browser, record: dict, upto: int) -> None:
    """Every cell shows what the record says, in the right state."""
    expected, found = canvas_after(record, upto), cells(browser)
    assert [cell["text"] for cell in found] == [shown(token) for token in expected]
    fresh = {cell for cell, *_ in record["steps"][upto - 1]} if upto else set()
    start, end = record["blocks"][max(0, upto - 1)]
    for at, (cell, token) in enumerate(zip(found, expected, strict=True)):
        assert ("mask" in cell["kind"]) == (token == MASK)
        assert ("fresh" in cell["kind"]) == (at in fresh)
        assert ("block" in cell["kind"]) == (start <= at < end and upto < record["nfe"])
        step = max((i + 1 for i in range(upto) for c, t, _ in record["steps"][i] if c == at), default=0)
        assert cell["step"] == (step if token != MASK else 0)
    colours = {cell["step"]: cell["colour"] for cell in found if cell["step"]}
    assert len(set(colours.values())) == len(colours)  # one colour per forward


def test_from_point_to_sample_to_slider(report, run):
    open_samples(report, "topk:k=4", "lines")
    assert report.run(f"document.querySelector('{DIALOG}h2').textContent") == "topk:k=4 on lines"
    assert report.run(f"document.querySelectorAll('{DIALOG}.sample').length") == 6
    report.click(f"{DIALOG}.sample", 3)
    record = chosen(report, run)
    assert (record["label"], record["task"], record["sample"], record["template"]) == ("topk:k=4", "lines", 1, 1)
    quoted = report.run(f"[...document.querySelectorAll('{DIALOG}.quote dd')].map(n => n.textContent)")
    assert quoted == [record["prompt"], record["answer"], record["expected"]]
    check_step(report, record, record["nfe"])

    # Drag the knob to the left end, then click into the middle of the track.
    box = report.run(
        f"(() => {{ const b = document.querySelector('{DIALOG}input[type=range]').getBoundingClientRect();"
        "return [b.left, b.width, b.top + b.height / 2]; })()"
    )
    left, width, y = box
    report.mouse("mousePressed", left + width - 8, y, button="left", clickCount=1)
    for share in (0.5, 0.1, -0.1):
        report.mouse("mouseMoved", left + share * width, y, button="left", buttons=1)
    report.mouse("mouseReleased", left - 0.1 * width, y, button="left", clickCount=1)
    check_step(report, record, 0)
    for kind in ("mousePressed", "mouseReleased"):
        report.mouse(kind, left + width / 2, y, button="left", clickCount=1)
    now = int(report.run(f"document.querySelector('{DIALOG}input[type=range]').value"))
    assert 0 < now < record["nfe"]
    check_step(report, record, now)


def test_keys_buttons_and_play(report, run):
    open_samples(report, "factor", "copy")  # the one that revokes
    record = max(
        (r for r in run[1].values() if (r["label"], r["task"]) == ("factor", "copy")), key=lambda r: r["revokes"]
    )
    report.run(f"location.hash = {json.dumps('|'.join(map(str, record['key'].split('|'))))}")
    report.wait(f"location.hash && document.querySelector('{DIALOG}.quote dt').textContent.includes("
                f"'template {record['template']}, seed 0, sample {record['sample']})')")  # fmt: skip
    assert record["revokes"] > 0
    for upto in range(record["nfe"], -1, -1):
        check_step(report, record, upto)
        report.key("ArrowLeft")
    report.key("End")
    check_step(report, record, record["nfe"])
    report.key("Home")
    check_step(report, record, 0)
    report.click(f"{DIALOG}[aria-label='on (→)']")
    check_step(report, record, 1)
    report.run(f"(() => {{ const s = document.querySelector('{DIALOG}.controls select'); s.value = 32;"
               "s.dispatchEvent(new Event('change')); })()")  # fmt: skip
    report.click(f"{DIALOG}.play")
    report.wait(f"document.querySelector('{DIALOG}input[type=range]').value == {record['nfe']}")
    check_step(report, record, record["nfe"])
    report.wait(f"document.querySelector('{DIALOG}.play').getAttribute('aria-label') === 'play'")  # it stopped itself


def test_a_revoked_cell_says_so(report, run):
    record = next(r for r in run[1].values() if r["revokes"] and r["label"] == "factor")
    at, cell = next((i, c) for i, step in enumerate(record["steps"]) for c, token, _ in step if token == MASK)
    report.open(run[0] / "report.html", "#" + record["key"])
    report.wait(f"document.querySelector('{DIALOG}.cell') !== null")
    report.key("Home")
    for _ in range(at + 1):
        report.key("ArrowRight")
    assert "revoked" in cells(report)[cell]["kind"]
    report.hover(f"{DIALOG}[data-cell='{cell}']")
    assert report.run("document.getElementById('tip').textContent").endswith(f"revoked at forward {at + 1}")


def test_confidence_on_hover(report, run):
    open_samples(report, "threshold", "copy")
    record = chosen(report, run)
    for cell in range(record["n_canvas"]):
        at, token, confidence = next(
            (i + 1, t, p) for i, step in enumerate(record["steps"]) for c, t, p in step if c == cell and t != MASK
        )
        report.hover(f"{DIALOG}[data-cell='{cell}']")
        text = report.run("document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent")
        assert f"cell {cell}\n" in text and f"committed at forward {at}" in text and f"“{shown(token)}”" in text
        assert f"confidence {round(1000 * confidence) / 10:.1f} %" in text


def test_static_beside_it_and_what_differs(report, run):
    wrong = next(r for r in run[1].values() if not r["correct"])
    report.open(run[0] / "report.html", "#" + wrong["key"])
    report.wait(f"document.querySelector('{DIALOG}.cell') !== null")
    report.click("#beside")
    report.wait(f"document.querySelectorAll('{DIALOG}.viewer').length === 2")
    static = run[1][wrong["key"].replace(wrong["label"], "static", 1)]
    found = cells(report)
    mine, other = found[: wrong["n_canvas"]], found[wrong["n_canvas"] :]
    assert [cell["text"] for cell in other] == [shown(token) for token in static["tokens"]]
    differs = [i for i, cell in enumerate(mine) if "differs" in cell["kind"]]
    assert differs == [i for i, (a, b) in enumerate(zip(wrong["tokens"], static["tokens"], strict=True)) if a != b]
    assert differs
    report.key("ArrowLeft")  # both go back
    values = report.run(f"[...document.querySelectorAll('{DIALOG}input[type=range]')].map(n => Number(n.value))")
    assert values == [wrong["nfe"] - 1, min(wrong["nfe"] - 1, static["nfe"])]
    report.click("#beside")


def test_lists_can_be_narrowed(report, run):
    open_samples(report, "topk:k=4", "all tasks")
    mine = [r for r in run[1].values() if r["label"] == "topk:k=4" and r["cache"] == "none"]
    want = {
        "wrong": sum(not r["correct"] for r in mine),
        "right": sum(r["correct"] for r in mine),
        "differs": sum(r["answer"] != run[1][r["key"].replace("topk:k=4", "static", 1)]["answer"] for r in mine),
        "all": len(mine),
    }
    for value, count in want.items():
        report.run(f"(() => {{ const s = document.querySelector('{DIALOG}.list select'); s.value = '{value}';"
                   "s.dispatchEvent(new Event('change')); })()")  # fmt: skip
        assert report.run(f"document.querySelectorAll('{DIALOG}.sample').length") == count
    report.key("Escape")
    assert report.run("document.querySelector('dialog[open]')") is None
    report.wait("location.hash === ''")  # the dialog says that it has closed a moment after it has


def test_prompts_do_nothing(report, run):
    for label in ("static", "topk:k=4"):
        open_samples(report, label, "copy")
        report.key("Escape")
    assert report.run("window.pwned") is None
    assert report.run("document.querySelectorAll('img, iframe, object').length") == 0
    assert {url.partition("#")[0] for url in report.requests()} == {(run[0] / "report.html").as_uri()}


def test_points_stand_where_the_figures_are(report, run):
    summary = json.loads((run[0] / "summary.json").read_text())
    for cache, name in enumerate(("none", "dual")):
        report.click(".caches button", cache)
        for task, title in (("copy", "copy"), ("all", "all tasks")):
            rows = {r["label"]: r for r in summary["rows"] if (r["cache"], r["task"]) == (name, task)}
            points = report.run(
                f"[...document.querySelectorAll(\".point[data-task='{title}']\")].map(n => {{"
                "const b = n.querySelector('.mark').getBBox(), f = n.closest('svg').querySelector('.frame').getBBox();"
                "return [n.dataset.label, (b.x + b.width / 2 - f.x) / f.width, b.y + b.height / 2, n.ariaLabel]})"
            )
            assert sorted(point[0] for point in points) == sorted(rows)
            for (a, ax, ay, said), (b, bx, by, _) in combinations(points, 2):
                assert (ax - bx) * (rows[a]["tpf_content"] - rows[b]["tpf_content"]) >= -1e-3
                if rows[a]["accuracy"] != rows[b]["accuracy"]:  # marks of other shapes have other middles
                    assert (ay > by) == (rows[a]["accuracy"] < rows[b]["accuracy"])
                assert f"accuracy {100 * rows[a]['accuracy']:.1f} %" in said
            assert all(0 <= x <= 1 for _, x, _, _ in points)


def test_families_and_axes_can_be_chosen(report):
    points = "document.querySelectorAll('#overall .point[data-label]').length"
    before = report.run(points)
    report.click("#frontier .legend button[aria-pressed]")
    assert report.run(points) == before - 2  # both thresholds
    report.click("#frontier .legend button[aria-pressed]")
    assert report.run(points) == before
    report.run("(() => { const s = document.querySelector('#frontier .bar select'); s.value = 6;"
               "s.dispatchEvent(new Event('change')); })()")  # fmt: skip
    assert "content tokens per second" in report.run("document.querySelector('#overall svg').textContent")


def test_the_table_sorts(report):
    column = "[...document.querySelectorAll('#table tbody tr')].map(r => parseFloat(r.children[INDEX].textContent))"
    heads = report.run("[...document.querySelectorAll('#table thead th')].map(n => n.textContent)")
    for name, first in (("content TPF", True), ("NFE", False)):
        at = heads.index(name)
        report.click("#table thead button", at)
        values = report.run(column.replace("INDEX", str(at)))
        assert values == sorted(values, reverse=first) and len(set(values)) > 2
        report.click("#table thead button", at)
        assert report.run(column.replace("INDEX", str(at))) == sorted(values, reverse=not first)
    report.click("#table thead button", heads.index("policy"))
    names = report.run("[...document.querySelectorAll('#table tbody th')].map(n => n.textContent)")
    assert names == sorted(names) and len(names) == 10
    report.click("#table tbody tr", 2)
    report.wait(f"document.querySelector('{DIALOG}.cell') !== null")


@pytest.mark.parametrize("width, media", [(1280, ""), (420, ""), (720, "print")])
def test_no_label_touches_another(report, width, media):
    report.resize(width, 900)
    report.prefer("dark", media)
    boxes = report.run(
        "[...document.querySelectorAll('main svg[viewBox]')].map(s => [...s.querySelectorAll('text')].map(t => {"
        "const b = t.getBoundingClientRect(); return [t.textContent, b.left, b.top, b.right, b.bottom]; }))"
    )
    assert sum(map(len, boxes)) > 50
    for texts in boxes:
        for (a, *p), (b, *q) in combinations(texts, 2):
            apart = p[2] <= q[0] + 0.5 or q[2] <= p[0] + 0.5 or p[3] <= q[1] + 0.5 or q[3] <= p[1] + 0.5
            assert apart, f"{a!r} and {b!r} overlap"
    assert report.run("document.documentElement.scrollWidth") <= width


def test_on_a_phone_nothing_scrolls_sideways_and_figures_can_be_read(report):
    report.resize(390, 844)
    report.run("new Promise(done => setTimeout(done, 50))")  # the figures are drawn again
    assert report.run("document.documentElement.scrollWidth") <= 390
    sizes = report.run(
        "[...document.querySelectorAll('main figure svg[viewBox] text')].map(t => {"
        "const s = t.ownerSVGElement, scale = s.clientWidth / s.viewBox.baseVal.width;"
        "return parseFloat(getComputedStyle(t).fontSize) * scale })"
    )
    assert len(sizes) > 50 and min(sizes) >= 9
    report.resize(1280, 900)


def test_what_ties_is_drawn_around_what_it_ties_with(browser, tmp_path):
    records = write_run(tmp_path, ("topk:k=2", "factor", "threshold"), "copy", ("none",), samples=3)
    first = {(r["template"], r["sample"]): r for r in records if r["label"] == "factor"}
    own = ("key", "policy", "label", "family")
    twins = [
        {**first[r["template"], r["sample"]], **{k: r[k] for k in own}} if r["label"] == "threshold" else r
        for r in records
    ]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in twins))
    browser.resize(1280, 900)
    browser.open(write_report(tmp_path))
    assert browser.run("document.querySelectorAll('#steps polyline.tied').length") == 1
    here = "document.querySelector(\"#overall .point[data-label='{}'] .mark\").getBBox().width"
    assert browser.run(here.format("threshold")) != browser.run(here.format("factor"))


def test_dark_and_light_and_paper(report):
    def ground():
        return report.run("getComputedStyle(document.body).backgroundColor")

    assert ground() == "rgb(255, 255, 255)"
    report.prefer("dark")
    assert ground() != "rgb(255, 255, 255)"
    report.prefer("dark", "print")
    assert ground() == "rgb(255, 255, 255)"


def test_the_trace_viewer(browser, tmp_path):
    # One given cell; a revoke; the row is cut to four cells, and its last one filled, at the end.
    steps = [
        TraceStep(1, 0, 0, 3, True, [0, 2], [0, 0], [5, 6], [0.75, 0.51], 6, 1, 8),
        TraceStep(2, 0, 0, 3, False, [2], [6], [0], [0.1], 6, 1, 8),
        TraceStep(3, 1, 3, 6, True, [2, 3], [0, 0], [7, 1], [0.9, 0.0], 4, 1, 8, [3]),
    ]
    pieces = {"0": "?", "1": "!", "5": "<b>a</b>", "6": " six", "7": "\n", "8": "given"}
    meta = {"eos_ids": [1], "pieces": pieces, "policy": "toy", "prompt_text": HOSTILE}
    other = Trace(
        [], [0], 0, [TraceStep(1, 0, 0, 1, True, [0], [0], [5], [1.0], 1, 1, 1)], {**meta, "policy": "other"}
    )
    path = write_viewer([Trace([8], [0, 8, 0, 0, 0, 0], 0, steps, meta), other], tmp_path / "trace.html")
    browser.resize(900, 700)
    browser.prefer("light")
    browser.events.clear()
    browser.open(path)
    canvases = [
        ["·", "given", "·", "·", "·", "·"],
        ["<b>a</b>", "given", " six", "·", "·", "·"],
        ["<b>a</b>", "given", "·", "·", "·", "·"],
        ["<b>a</b>", "given", "↵", "∎"],
    ]
    for upto in (3, 2, 1, 0):
        found = cells(browser, "#replay ")
        assert [cell["text"] for cell in found] == canvases[upto]
        assert "given" in found[1]["kind"]
        assert ("revoked" in found[2]["kind"]) == (upto == 2)
        browser.key("ArrowLeft")
    browser.key("End")
    browser.hover("[data-cell='3']")
    assert browser.run("document.getElementById('tip').textContent").endswith("filled because the row had stopped")
    said = browser.run("document.querySelector('.now').textContent")
    assert said.startswith(
        "Forward 3 committed, in order (cell, token, confidence): 2 ↵ 90.0 %. The row stopped: 1 cell"
    )
    assert "given" in browser.run("[...document.querySelectorAll('.axes')].map(n => n.textContent).join()")
    assert browser.run("document.querySelector('#prompt dd').textContent") == HOSTILE
    browser.run("(() => { const s = document.querySelector('#pick select'); s.value = 1;"
                "s.dispatchEvent(new Event('change')); })()")  # fmt: skip
    assert "other" in browser.run("document.getElementById('facts').textContent")
    assert [cell["text"] for cell in cells(browser, "#replay ")] == ["<b>a</b>"]
    assert browser.run("window.pwned") is None
    assert browser.problems() == []


def test_the_list_of_commits_starts_with_content(browser, tmp_path):
    tokens = [*[1] * 30, 5, 6]
    step = TraceStep(1, 0, 0, 32, True, list(range(32)), [0] * 32, tokens, [0.9] * 32, 32, 1, 32)
    meta = {"eos_ids": [1], "pieces": {"5": "a", "6": "b"}}
    browser.open(write_viewer([Trace([8], [0] * 32, 0, [step], meta)], tmp_path / "trace.html"))
    said = browser.run("document.querySelector('.now').textContent")
    assert said.endswith("confidence): 30 a 90.0 %,  31 b 90.0 %, and 30 end tokens (∎).")
    assert browser.run("document.querySelectorAll('.canvas .cell.end').length") == 30


def test_a_long_trace_stays_quick(browser, tmp_path):
    size = 512
    steps = [TraceStep(i + 1, i // 32, i // 32 * 32, i // 32 * 32 + 32, i % 32 == 0, [i], [0], [5], [0.9], size, 1, 9)
             for i in range(size)]  # fmt: skip
    trace = Trace([], [0] * size, 0, steps, {"eos_ids": [1], "pieces": {"0": "?", "5": " word"}})
    browser.events.clear()
    browser.open(write_viewer([trace], tmp_path / "long.html"))
    begun = time.monotonic()
    for _ in range(10):
        browser.key("ArrowLeft")
    assert sum("done" in cell["kind"] for cell in cells(browser, "#replay ")) == size - 10
    assert time.monotonic() - begun < 20  # a tenth of a second each is usual; a busy machine gets its time
    assert browser.problems() == []
