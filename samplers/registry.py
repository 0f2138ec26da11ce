"""The table of policies by name: where each part lives, and what is known of it."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.metadata
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from samplers.contract.data import PolicyError
from samplers.contract.policy import Policy


@dataclass(frozen=True)
class Entry:
    """One line of the registry.

    Attributes:
        target: the part's class, as ``module:Class``.
        paper: where the rule comes from.
        example: fields, as policy strings spell them, under which the part acts on a small random model whose
            confidences are low; empty = its defaults. The tests of everything registered take them.
    """

    target: str
    paper: str
    example: str = ""

    def load(self) -> type[Policy]:
        """Import the part's class."""
        return cast(type[Policy], pkgutil.resolve_name(self.target))


REGISTRY: dict[str, Entry] = {
    "topk": Entry("samplers.topk:TopK", "LLaDA arXiv 2502.09992; Dream arXiv 2508.15487", "k=2"),
    "threshold": Entry("samplers.threshold:Threshold", "Fast-dLLM arXiv 2505.22618", "threshold=0.4"),
    "blockquota": Entry(
        "samplers.block_quota:BlockQuota", "SDAR arXiv 2510.06303; LLaDA2.0 arXiv 2512.15745", "steps=2,threshold=0.4"
    ),
    "jointthreshold": Entry(
        "samplers.joint_threshold:JointThreshold", "LLaDA2.1", "threshold=0.4,edit_threshold=0.3,max_post_steps=3"
    ),
    "factor": Entry("samplers.factor:Factor", "Fast-dLLM arXiv 2505.22618", "factor=1.9"),
    "frechet": Entry("samplers.frechet:Frechet", "Fast-dLLM++ arXiv 2606.02955", "margin=-0.5"),
    "entropybound": Entry("samplers.entropy_bound:EntropyBound", "EB-Sampler arXiv 2505.24857", "gamma=1.5"),
    "entropythreshold": Entry(
        "samplers.entropy_threshold:EntropyThreshold", "dParallel arXiv 2509.26488", "threshold=2.0"
    ),
    "hierarchy": Entry("samplers.hierarchy:Hierarchy", "dInfer arXiv 2510.08666", "threshold=0.5,low=0.2,remask=0.6"),
    "pcsampler": Entry("samplers.pc_sampler:PcSampler", "PC-Sampler arXiv 2508.13021"),
    "saber": Entry("samplers.saber:Saber", "Saber arXiv 2510.18165"),
    "credit": Entry("samplers.credit:Credit", "CreditDecoding arXiv 2510.06133", "threshold=0.5,alpha=2"),
    "klass": Entry("samplers.klass:Klass", "KLASS arXiv 2511.05664", "threshold=0.1,divergence=3,history=1"),
    "localleap": Entry(
        "samplers.local_leap:LocalLeap",
        "LocalLeap arXiv 2510.07081",
        "anchor_threshold=0.5,relaxed_threshold=0.3,radius=1",
    ),
    "adablock": Entry(
        "samplers.adablock:AdaBlock",
        "AdaBlock-dLLM arXiv 2509.26432",
        "delimiters=1/3/5/7/9/11,delimiter_threshold=0.2,window=1",
    ),
    "learn2pd": Entry("samplers.learn2pd:Learn2PD", "Learn2PD arXiv 2509.25188"),
    "eotp": Entry("samplers.eotp:EoTP", "Learn2PD arXiv 2509.25188", "ids=2/22"),
    "egp": Entry("samplers.egp:EGP", "the oracle of Learn2PD arXiv 2509.25188"),
    "ccd": Entry("samplers.ccd:CCD", "CCD arXiv 2512.02044", "candidates=2"),
    "ccdds": Entry("samplers.ccd:CCDDS", "CCD arXiv 2512.02044", "candidates=3"),
    "sched": Entry("samplers.sched:SchED", "SchED arXiv 2512.02892", "high=1,low=0.2"),
    "prophet": Entry("samplers.prophet:Prophet", "Prophet arXiv 2508.19982", "early=3,middle=1,late=0.2"),
    "freedave": Entry("samplers.freedave:FreeDave", "FreeDave arXiv 2510.00294", "drafts=3"),
    "freedaveplus": Entry(
        "samplers.freedave:FreeDavePlus", "FreeDave++ arXiv 2510.00294", "step=(threshold:threshold=0.4),drafts=3"
    ),
    "dawn": Entry(
        "samplers.dawn:Dawn", "DAWN arXiv 2602.06953", "sink=0.3,edge=0.1,induce=0.3,low=0.2,strong=0.5,layers=1"
    ),
    "lopa": Entry("samplers.lopa:Lopa", "LoPA arXiv 2512.16229", "threshold=0.5"),
    "wino": Entry("samplers.wino:Wino", "WINO arXiv 2507.18578", "threshold=0.3,threshold_back=0.5"),
    "daedal": Entry(
        "samplers.daedal:Daedal",
        "DAEDAL arXiv 2508.00819",
        "initial_length=2,factor=2,window=2,expand_below=0.5,low=0.6",
    ),
    "doubtexit": Entry("samplers.doubt_exit:DoubtExit", "a union bound on wrong cells; in no paper", "eps=4"),
    "contentfirst": Entry("samplers.content_first:ContentFirst", "in no paper", "step=(threshold:threshold=0.4)"),
    "allbutone": Entry(
        "samplers.all_but_one:AllButOne", "in no paper", "step=(threshold:threshold=0.4),cells=2,slack=1,doubt=1"
    ),
    "eosstop": Entry("samplers.eos:EosStop", "early stop at the end of the text"),
    "defereos": Entry("samplers.eos:DeferEos", "LLaDA arXiv 2502.09992"),
}


def lookup(name: str) -> type[Policy]:
    """The class of a registered policy name; unknown names raise with a suggestion."""
    key = _plain(name)
    if key in REGISTRY:
        return REGISTRY[key].load()
    if key in installed():
        return foreign(installed()[key].target)
    known = [*REGISTRY, *installed()]
    raise PolicyError(f"unknown policy {name!r}{suggest(name, known)}; known: {', '.join(known)}.")


def example(name: str) -> str:
    """The policy string of a registered part with its entry's example fields."""
    given = REGISTRY[name].example
    return f"{name}:{given}" if given else name


def shortest(name: str) -> str:
    """The name alone where every field has a default, else :func:`example`."""
    unset, fields = dataclasses.MISSING, dataclasses.fields(cast(Any, lookup(name)))
    return example(name) if any(f.init and f.default is f.default_factory is unset for f in fields) else name


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "").replace("_", "")


@lru_cache
def installed() -> dict[str, Entry]:
    """Policies of other packages, by entry points of the group ``dllm_decode.policies``; ours win a clash."""
    found = importlib.metadata.entry_points(group="dllm_decode.policies")
    return {_plain(point.name): Entry(point.value, f"package {point.module}") for point in found}


def foreign(target: str) -> type[Policy]:
    """The policy class at ``module:Class``.

    Raises:
        PolicyError: there is none.
    """
    try:
        cls = Entry(target, "").load()
    except (ImportError, AttributeError, ValueError) as error:
        raise PolicyError(
            f"{target!r} is neither a registered policy nor a class that can be imported ({error}); "
            f"known: {', '.join(REGISTRY)}."
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, Policy) and dataclasses.is_dataclass(cls)):
        raise PolicyError(f"{target!r} is no policy; give a frozen dataclass that is a Policy.")
    return cls


def suggest(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the closest known name, or nothing."""
    close = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
