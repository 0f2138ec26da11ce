"""Floor 2: every decoding policy, one file per paper, and the contract they share.

A policy never sees a model, a cache or a prompt; see :mod:`samplers.contract.data`.
"""

from __future__ import annotations

from samplers.adablock import AdaBlock, volatility_band
from samplers.all_but_one import AllButOne
from samplers.block_quota import BlockQuota
from samplers.ccd import CCD, CCDDS
from samplers.content_first import ContentFirst
from samplers.contract.data import Decision, Insertion, PolicyError, Prediction, Query, Setting, View
from samplers.contract.fields import bounded
from samplers.contract.memory import map_rows, merge_rows
from samplers.contract.policy import Composition, Policy, Scope
from samplers.contract.recall import divergence
from samplers.contract.referee import settle, validate
from samplers.contract.select import best, commit, dilate, prefix_sum_by_rank, rank, top
from samplers.credit import Credit
from samplers.daedal import Daedal
from samplers.dawn import Dawn
from samplers.doubt_exit import DoubtExit
from samplers.egp import EGP
from samplers.entropy_bound import EntropyBound
from samplers.entropy_threshold import EntropyThreshold
from samplers.eos import DeferEos, EosStop
from samplers.eotp import EoTP
from samplers.factor import Factor
from samplers.frechet import Frechet
from samplers.freedave.freedave import FreeDave, FreeDavePlus
from samplers.grammar import parse_policy, spell
from samplers.hierarchy import Hierarchy
from samplers.joint_threshold import JointThreshold
from samplers.klass import Klass
from samplers.learn2pd import Learn2PD
from samplers.local_leap import LocalLeap
from samplers.lopa import Lopa
from samplers.pc_sampler import PcSampler, TokenTable
from samplers.prophet import Prophet
from samplers.registry import REGISTRY, lookup
from samplers.saber import Saber
from samplers.sched import SchED
from samplers.threshold import Threshold
from samplers.topk import TopK
from samplers.wino import Wino

__all__ = [
    "CCD",
    "CCDDS",
    "DoubtExit",
    "EGP",
    "REGISTRY",
    "AdaBlock",
    "BlockQuota",
    "Composition",
    "AllButOne",
    "ContentFirst",
    "Credit",
    "Daedal",
    "Dawn",
    "Decision",
    "Insertion",
    "DeferEos",
    "EntropyBound",
    "EntropyThreshold",
    "EoTP",
    "EosStop",
    "Factor",
    "Frechet",
    "FreeDave",
    "FreeDavePlus",
    "Hierarchy",
    "JointThreshold",
    "Klass",
    "Learn2PD",
    "LocalLeap",
    "Lopa",
    "PcSampler",
    "Policy",
    "PolicyError",
    "Prediction",
    "Prophet",
    "Query",
    "Saber",
    "SchED",
    "Scope",
    "Setting",
    "Threshold",
    "TokenTable",
    "TopK",
    "View",
    "Wino",
    "best",
    "bounded",
    "commit",
    "dilate",
    "divergence",
    "lookup",
    "map_rows",
    "merge_rows",
    "parse_policy",
    "prefix_sum_by_rank",
    "rank",
    "settle",
    "spell",
    "top",
    "validate",
    "volatility_band",
]
