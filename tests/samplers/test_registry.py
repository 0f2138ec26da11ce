"""Policy strings: parsed in one place, printed back, refused with a suggestion."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samplers import (
    REGISTRY,
    AdaBlock,
    Composition,
    DeferEos,
    EosStop,
    Factor,
    Policy,
    PolicyError,
    Threshold,
    TopK,
    lookup,
    parse_policy,
    spell,
)
from samplers import registry as registry_module
from samplers.contract.fields import alternatives, hints_of
from samplers.registry import Entry, installed, shortest
from tests.policies import policies


def test_every_entry_loads_and_says_where_it_comes_from() -> None:
    for name, entry in REGISTRY.items():
        cls = lookup(name)
        assert issubclass(cls, Policy) and dataclasses.is_dataclass(cls)
        assert cls.__doc__ and entry.paper
        assert lookup(name.upper()) is cls is lookup("-".join(name)) is lookup(f" {name}_ ")
        assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]


@given(policies())
def test_what_is_printed_reads_back(text: str) -> None:
    policy = parse_policy(text)
    assert parse_policy(spell(policy)) == policy
    assert spell(parse_policy(spell(policy))) == spell(policy)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("threshold", Threshold()),
        ("threshold:threshold=0.5", Threshold(0.5)),
        (" Threshold : threshold = 0.5 ", Threshold(0.5)),
        ("topk:k=2,score=margin+eosstop", Composition.of(TopK(k=2, score="margin"), EosStop())),
        ("topk:k=2|eosstop", Composition.of(TopK(k=2), EosStop())),
        ("topk:steps=none", TopK()),
        ("topk:steps=4,schedule=time,origin=TRUE", TopK(steps=4, schedule="time", origin=True)),
        ("factor:factor=0.75", Factor(0.75)),
        ("defereos:ids=3/4+topk", Composition.of(DeferEos(ids=(3, 4)), TopK())),
        ("threshold:threshold=1e20", Threshold(1e20)),
    ],
)
def test_strings(text: str, policy: Policy) -> None:
    assert parse_policy(text) == policy
    assert parse_policy(spell(policy)) == policy


def test_a_policy_passes_through() -> None:
    policy = TopK() | EosStop()
    assert parse_policy(policy) is policy
    assert spell(policy) == "topk+eosstop"
    assert spell(TopK(k=3, spend=False)) == "topk:k=3"


@dataclasses.dataclass(frozen=True)
class Nested(Policy):
    """A part that takes a rule as an argument."""

    step: Policy = TopK()
    names: tuple[str, ...] = ()
    limit: int | float | None = None


@pytest.fixture
def nested(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers `Nested`."""
    monkeypatch.setattr(registry_module, "Nested", Nested, raising=False)
    monkeypatch.setitem(REGISTRY, "nested", Entry(f"{__name__}:Nested", "test"))


@pytest.mark.usefixtures("nested")
def test_rules_as_arguments_go_in_parentheses() -> None:
    for policy, text in (
        (Nested(TopK(k=2, score="margin")), "nested:step=(topk:k=2,score=margin)"),
        (Nested(Nested(Threshold(0.5))), "nested:step=(nested:step=(threshold:threshold=0.5))"),
        (Nested(Composition.of(TopK(), EosStop()), ("a", "b"), 2.5), "nested:step=(topk+eosstop),names=a/b,limit=2.5"),
    ):
        assert spell(policy) == text and parse_policy(text) == policy
    with pytest.raises(PolicyError, match="nested: step is 'topk', which is not a policy in parentheses"):
        parse_policy("nested:step=topk")
    with pytest.raises(
        PolicyError, match=r"nested: limit is '\(topk\)', which is not a whole number or a number or non"
    ):
        parse_policy("nested:limit=(topk)")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("treshold", "unknown policy 'treshold' (did you mean 'threshold'?); known: topk, "),
        ("zzz", "unknown policy 'zzz'; known: topk, "),
        ("topk+", "unknown policy ''"),
        ("topk:kk=2", "topk has no parameter 'kk' (did you mean 'k'?); it takes k, steps, score, "),
        ("threshold:0.9", "threshold has no parameter '0.9'; it takes threshold."),
        ("threshold:threshold", "threshold: parameter 'threshold' has no value; write threshold=VALUE."),
        ("threshold:threshold=high", "threshold: threshold is 'high', which is not a number."),
        ("threshold:threshold=(topk)", "threshold: threshold is '(topk)', which is not a number."),
        ("topk:k=1.5", "topk: k is '1.5', which is not a whole number."),
        ("topk:k=1,k=2", "topk: parameter 'k' is given twice; keep one of them."),
        ("topk:spend=yes", "topk: spend is 'yes', which is not true or false."),
        ("topk:steps=few", "topk: steps is 'few', which is not a whole number or none."),
        ("topk:score=best", "topk: score is 'best', which is not one of confidence, margin, entropy, random"),
        ("topk:k=0", "k is 0; give a whole number from 1 up."),
        ("topk:(k=1", "unbalanced parentheses in policy "),
        ("topk)", "unbalanced parentheses in policy "),
        ("", "'' is no policy; give a Policy or a string such as 'threshold:threshold=0.9'."),
    ],
)
def test_refused_in_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(PolicyError) as error:
        parse_policy(text)
    assert str(error.value).startswith(sentence)


def test_what_is_no_string_either() -> None:
    with pytest.raises(PolicyError, match="3 is no policy; give a Policy or a string"):
        parse_policy(3)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Threshold2(Threshold):
    """Somebody's own."""


def test_somebody_s_own_goes_by_its_module() -> None:
    mine = type("Threshold", (Threshold2,), {"__module__": __name__})(0.5)
    assert spell(mine) == f"{__name__}:Threshold(threshold=0.5)" != spell(Threshold(0.5))
    policy = Threshold2(0.5) | EosStop()
    assert parse_policy(spell(policy)) == policy
    with pytest.raises(PolicyError, match="names a class to import, which is not allowed here"):
        parse_policy(spell(policy), trusted=False)
    with pytest.raises(PolicyError, match="filter names a file to read, which is not allowed here"):
        parse_policy("learn2pd:filter=a.safetensors", trusted=False)
    with pytest.raises(PolicyError, match="'nowhere:Mine' is neither a registered policy nor a class"):
        parse_policy("nowhere:Mine")
    assert parse_policy("threshold+eosstop", trusted=False) == Threshold() | EosStop()


@pytest.mark.parametrize("delimiter", [*"1\u3000\u00a0\n/:é", "none", "-1.5", "a b", "x=y", "\\n"])
def test_every_delimiter_comes_back(delimiter: str) -> None:
    policy = AdaBlock(delimiters=(delimiter, 1, "z"))
    assert parse_policy(spell(policy)) == policy


AWKWARD = st.sampled_from([*"1/,+|:=()\u3000\u00a0\x85\n\\", "", "-1.5", "inf", "none", "True", "\\e"])


def values(hint: Any, infinity: bool) -> st.SearchStrategy[Any]:
    """Values that an annotation allows; a field's own check may refuse some."""
    found: list[st.SearchStrategy[Any]] = []
    for option in alternatives(hint):
        if option is type(None) or option is bool:
            found.append(st.none() if option is not bool else st.booleans())
        elif option is int or option is float:
            found.append(st.integers(-(2**31), 2**31) | st.integers(0, 9))
            if option is float:
                found.append(st.floats(-3e38, 3e38) | st.floats(0, 1) | st.sampled_from([10**17 + 1, 1e20, 1e-7]))
                found += [st.just(float("inf"))] * infinity
        elif option is str:
            found.append(AWKWARD | st.text(max_size=4) | st.lists(AWKWARD).map("".join))
        elif typing.get_origin(option) is typing.Literal:
            found.append(st.sampled_from(typing.get_args(option)))
        elif typing.get_origin(option) is tuple:
            found.append(st.lists(values(typing.get_args(option)[0], infinity), max_size=4).map(tuple))
        elif isinstance(option, type) and issubclass(Policy, option):
            found.append(policies().map(parse_policy))
    return st.one_of(found)


@pytest.mark.parametrize("name", [*REGISTRY, "nested"])
@settings(max_examples=40)
@given(data=st.data())
def test_any_allowed_value_comes_back(name: str, data: st.DataObject) -> None:
    cls: Any = Nested if name == "nested" else lookup(name)
    policy = Nested() if name == "nested" else parse_policy(shortest(name))
    for field in dataclasses.fields(cls):
        if field.init and field.repr and data.draw(st.booleans(), field.name):
            value = data.draw(values(hints_of(cls)[field.name], bool(field.metadata.get("infinity"))), field.name)
            try:
                policy = dataclasses.replace(policy, **{field.name: value})
            except PolicyError:  # out of the field's range, or unfit beside the others
                continue
    assert parse_policy(spell(policy)) == policy
    beside = Composition.of(policy, EosStop())
    assert parse_policy(spell(beside)) == beside


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What three other packages say they hold."""
    points = {"My-Own": f"{__name__}:Threshold2", "topk": f"{__name__}:Threshold2", "broken": "nowhere:Mine"}
    group = "dllm_decode.policies"
    found = [importlib.metadata.EntryPoint(name, target, group) for name, target in points.items()]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **asked: found if asked == {"group": group} else [])
    installed.cache_clear()
    yield
    installed.cache_clear()


@pytest.mark.usefixtures("packages")
def test_policies_of_installed_packages_are_found() -> None:
    policy = parse_policy("My-Own:threshold=0.5+eosstop", trusted=False)
    assert policy == Threshold2(0.5) | EosStop() and spell(policy) == "myown:threshold=0.5+eosstop"
    assert lookup("my_own") is Threshold2 and lookup("topk") is TopK
    with pytest.raises(PolicyError, match=r"unknown policy 'myownn' \(did you mean 'myown'\?\); known: topk, .*myown"):
        parse_policy("myownn")
    with pytest.raises(PolicyError, match="'nowhere:Mine' is neither a registered policy nor a class that can be"):
        parse_policy("broken")


def test_a_class_inside_a_function_cannot_be_named() -> None:
    @dataclass(frozen=True)
    class Inside(TopK):
        """Nobody else can import it."""

    with pytest.raises(PolicyError, match="Inside.* is neither a registered policy nor a class that can be imported"):
        parse_policy(spell(Inside() | EosStop()))
