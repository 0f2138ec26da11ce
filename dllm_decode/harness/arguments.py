"""What ``--model_args`` may hold, checked before a model is loaded."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.policy_file import resolve_policy
from dllm_decode.errors import DllmError
from samplers import spell
from samplers.registry import REGISTRY, lookup, suggest

#: Arguments of other adapters, and what says the same here.
ELSEWHERE = {
    "model_path": "pretrained",
    "model": "pretrained",
    "gen_length": "max_new_tokens",
    "max_gen_toks": "max_new_tokens",
    "cfg": "guidance",
    "cfg_scale": "guidance",
    "classifier_free_guidance": "guidance (LLaDA's scale: Dream's minus 1)",
    "steps": "policy=topk:steps=N",
    "diffusion_steps": "policy=topk:steps=N",
    "remasking": "policy=topk (score=random for random remasking)",
    "alg": "policy, such as topk:score=entropy",
    "use_cache": "cache=prefix",
    "dual_cache": "cache=dual",
    "is_check_greedy": "check_greedy",
    "torch_dtype": "dtype",
    "attn_implementation": "attention",
}
_SETTINGS = tuple(field.name for field in dataclasses.fields(GenerationConfig) if field.name != "infill")


@dataclass(frozen=True)
class ModelArguments:
    """The arguments of the harness model.

    Attributes:
        pretrained: checkpoint folder, hub id or ``tiny``.
        policy: policy string, or ``@file``. ``cache``: none, prefix or dual.
        dtype, attention: as :func:`~dllm_decode.models.load_model` takes them.
        max_new_tokens: canvas of every answer; ``None`` = what the task asks for.
        max_length: longest row, prompt and canvas; ``None`` = the model's.
        add_bos_token: put the tokenizer's bos token before prompts that do not have it.
        escape_until: ignore the task's stop strings (Dream's evaluation of HumanEval).
        mc_num: Monte-Carlo samples of a log-likelihood.
        check_greedy: also find out whether static decoding gives the text whose likelihood is asked.
        work_folder: seen by all ranks; what is in it is not decoded again.
        config: the generation settings; ``given``: names of those that were given.
    """

    pretrained: Any
    policy: str
    cache: str
    dtype: str | None
    attention: str
    max_new_tokens: int | None
    max_length: int | None
    add_bos_token: bool
    escape_until: bool
    mc_num: int
    check_greedy: bool
    work_folder: str | None
    config: GenerationConfig
    given: frozenset[str]


_OWN: dict[str, Any] = {
    "pretrained": None,
    "policy": "topk:k=1",
    "cache": "none",
    "dtype": None,
    "attention": "auto",
    "max_new_tokens": None,
    "max_length": None,
    "add_bos_token": False,
    "escape_until": False,
    "mc_num": 128,
    "check_greedy": True,
    "work_folder": None,
}
NAMES = (*_OWN, *(name for name in _SETTINGS if name not in _OWN))


def read_model_args(**given: Any) -> ModelArguments:
    """Check the arguments and fill in the defaults.

    Raises:
        DllmError: an unknown argument (with the nearest known one) or a value out of range.
        PolicyError: a policy that does not parse.
    """
    given.pop("trust_remote_code", None)  # the harness adds it for data sets; no model here runs remote code
    for name, value in given.items():
        if name != "cache" and isinstance(value, str) and value.lower() in ("none", "auto"):
            given[name] = None  # the harness reads these as words
    policy_text = given.get("policy") or _OWN["policy"]
    for name in given:
        if name not in NAMES:
            raise DllmError(_unknown(name, str(policy_text)))
    if given.get("pretrained") is None:
        raise DllmError("--model_args names no model; give pretrained=FOLDER, a hub id, or pretrained=tiny.")
    file = resolve_policy(str(policy_text))
    own = {name: given[name] if given.get(name) is not None else default for name, default in _OWN.items()}
    own["policy"] = spell(file.policy)
    own["cache"] = given.get("cache") or file.cache or "none"
    own["attention"] = own["attention"] or "auto"
    for name, least in (("max_new_tokens", 1), ("max_length", 2), ("mc_num", 1)):
        value = own[name]
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise DllmError(f"{name} is {value!r}; give a whole number from {least} up.")
    for name in ("add_bos_token", "escape_until", "check_greedy"):
        if not isinstance(own[name], bool):
            raise DllmError(f"{name} is {own[name]!r}; give true or false.")
    settings = {**file.settings, **{name: given[name] for name in _SETTINGS if name in given}}
    settings.pop("infill", None)
    if isinstance(settings.get("suppress_tokens"), int):
        settings["suppress_tokens"] = [settings["suppress_tokens"]]
    own["max_new_tokens"] = settings.pop("max_new_tokens", None)
    nullable = {"block_length", "top_p", "top_k"}
    settings = {name: value for name, value in settings.items() if value is not None or name in nullable}
    return ModelArguments(**own, config=GenerationConfig.from_dict(settings), given=frozenset(settings))


def _unknown(name: str, policy: str) -> str:
    """Why an argument is unknown: another adapter's, a policy's parameter cut off at a comma, or a slip."""
    for part in policy.lstrip("@").split("+"):
        part = part.partition(":")[0].strip()
        if part in REGISTRY and name in {field.name for field in dataclasses.fields(lookup(part))}:  # type: ignore[arg-type]
            return (
                f"unknown model argument {name!r}; it is a parameter of policy {part!r} that was cut off at a comma: "
                f"put the policy in quotes of its own, as in --model_args \"policy='{part}:...,{name}=...'\"."
            )
    if name in ELSEWHERE:
        return f"unknown model argument {name!r}; here it is {ELSEWHERE[name]}."
    return f"unknown model argument {name!r}{suggest(name, NAMES)}; known: {', '.join(NAMES)}."
