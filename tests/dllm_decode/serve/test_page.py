"""The playground in a real headless browser: typed into, watched, scrubbed, and compared with the API."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.dllm_decode.lab.browser import Browser, find_browser
from tests.dllm_decode.serve.conftest import Running

BROWSER = find_browser()
pytestmark = [
    pytest.mark.skipif(
        BROWSER is None, reason="no browser found: install Debian's chromium, or name one in $CHROMIUM"
    ),
    pytest.mark.slow,
]
PROMPT = "write with at: the hour, the horse, the shirt"
DONE = "document.documentElement.dataset.state === 'done'"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser(str(BROWSER)) as found:
        yield found


@pytest.fixture
def page(browser: Browser, running: Running) -> Iterator[Browser]:
    browser.resize(1400, 900)
    browser.prefer("light")
    browser.events.clear()
    browser.open(running.url + "/")
    yield browser
    assert browser.problems() == []
    assert {url.split("/")[2] for url in browser.requests() if url.startswith("http")} == {running.url.split("/")[2]}


def fill(page: Browser, **values: Any) -> None:
    """Set the prompt and the policies."""
    for name, value in values.items():
        if name == "policies":
            for i, policy in enumerate(value):
                page.run(f"void (document.querySelectorAll('.policy')[{i}].value = {json.dumps(policy)})")
        else:
            page.run(f"void (document.getElementById({json.dumps(name)}).value = {json.dumps(value)})")


def test_canvases_fill_and_end_in_the_answer(page: Browser, client: Any) -> None:
    policies = ["threshold", "topk:k=1"]
    fill(page, prompt=PROMPT, policies=policies)
    page.run(
        "window.seen = new Set(); new MutationObserver(() => document.querySelectorAll('.lane .cell.done')"
        ".forEach((n, i) => seen.add(i))).observe(document.getElementById('lanes'), {subtree: true, childList: true, "
        "attributes: true}); null"
    )
    page.click("#run")
    page.wait(DONE)
    assert page.run("seen.size") > 3, "cells filled in while it was decoded"
    texts = page.run("[...document.querySelectorAll('.lane .answer')].map(n => n.textContent)")
    for policy, text in zip(policies, texts, strict=True):
        answer = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": PROMPT}], max_tokens=24, seed=0,
            extra_body={"dllm": {"policy": policy, "block_length": 8}},
        )  # fmt: skip
        assert text == answer.choices[0].message.content
        forwards = answer.choices[0].dllm["nfe"]
        lane = policies.index(policy)
        assert page.run(f"document.querySelectorAll('.lane input[type=range]')[{lane}].max") == str(forwards)
    page.click("#together")
    page.run(
        "(() => { const n = document.querySelectorAll('.lane input[type=range]')[1]; n.value = 1;"
        " n.dispatchEvent(new Event('input')); })()"
    )
    assert page.run("[...document.querySelectorAll('.lane output')].map(n => n.textContent.split(' ')[1])") == [
        "1",
        "1",
    ]
    page.hover(".lane .cell.done")
    assert "committed at forward 1" in page.run("document.getElementById('tip').textContent")


def test_a_hole_is_filled(page: Browser, client: Any) -> None:
    fill(page, prompt="copy: red [[3]] blue", policies=["threshold", ""])
    page.click("#run")
    page.wait(DONE)
    answer = client.completions.create(
        model="tiny",
        prompt="copy: red ",
        suffix=" blue",
        max_tokens=3,
        seed=0,
        extra_body={"dllm": {"block_length": 8}},
    )
    assert page.run("document.querySelector('.lane .answer').textContent") == answer.choices[0].text


def test_links_snippets_and_refusals(page: Browser, running: Running) -> None:
    fill(page, prompt="sort: <b>c</b> 'a'", policies=["factor", "nonsense"])
    page.click("#curl")
    assert "curl " + running.url in page.run("document.getElementById('snippet').textContent")
    page.click("#python")
    compile(page.run("document.getElementById('snippet').textContent"), "snippet", "exec")
    page.click("#link")
    fragment = page.run("location.hash")
    page.click("#run")
    page.wait(DONE)
    assert "unknown policy 'nonsense'" in page.run("document.querySelector('.lane .wrong').textContent")
    page.events[:] = [e for e in page.events if e.get("method") != "Log.entryAdded"]  # the browser logs each 400
    page.open(running.url + "/", fragment)
    assert page.run("document.getElementById('prompt').value") == "sort: <b>c</b> 'a'"
    assert page.run("document.querySelectorAll('.policy')[0].value") == "factor"


@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_scrolls_sideways_and_everything_has_a_name(page: Browser, width: int) -> None:
    page.resize(width, 900)
    fill(page, prompt=PROMPT, policies=["threshold", "topk:k=1"])
    page.click("#run")
    page.wait(DONE)
    time.sleep(0.2)
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    nameless = page.run(
        "[...document.querySelectorAll('input, textarea, select, button')].filter(n => !(n.labels && n.labels.length)"
        " && "
        "!n.getAttribute('aria-label') && !n.textContent.trim()).map(n => n.outerHTML)"
    )
    assert nameless == []
