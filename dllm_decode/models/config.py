"""What all families' config classes share: refusing what is not computed here, before any weight is read."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import PreTrainedConfig

from dllm_decode.errors import ConfigError


class DecoderConfig(PreTrainedConfig):
    """A config.json of a masked-diffusion decoder, with the checkpoint's own field names.

    Class attributes:
        checkpoint_architectures: names in `architectures` that mean this family; the first is written back.
        required_values: for each flag that changes the computation, the values that are supported, the usual first.
            A flag that is absent has its usual value.
        default_mask_id, default_eos_ids: the family's, where neither config.json nor the tokenizer names any.
        required_sizes: fields beside the usual ones that must be positive.
        sparse: some layers are mixtures of experts.
        stop_tokens: tokens that end an answer beside those that the checkpoint lists, if its tokenizer has them.
    """

    checkpoint_architectures: ClassVar[tuple[str, ...]] = ()
    required_values: ClassVar[dict[str, tuple[Any, ...]]] = {}
    default_mask_id: ClassVar[int | None] = None
    default_eos_ids: ClassVar[tuple[int, ...]] = ()
    stop_tokens: ClassVar[tuple[str, ...]] = ()
    required_sizes: ClassVar[tuple[str, ...]] = ("intermediate_size",)
    sparse: ClassVar[bool] = False

    rope_theta: float = 10000.0
    mask_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Read the rotary settings under their old and their transformers 5 names.

        Raises:
            ConfigError: scaled rotary positions, or heads of an odd width.
        """
        rope = {**(kwargs.pop("rope_scaling", None) or {}), **(kwargs.pop("rope_parameters", None) or {})}
        if rope.get("rope_type", rope.get("type", "default")) != "default":
            raise ConfigError(
                f"this {self.model_type} config has rope_scaling={rope!r}, which is not supported; "
                "only rope_scaling=None is."
            )
        self.rope_theta = float(rope.get("rope_theta", self.rope_theta))
        for name in [name for name in kwargs if isinstance(getattr(type(self), name, None), property)]:
            stated = kwargs.pop(name)  # what follows from other fields
            sizes = self.hidden_size, self.num_attention_heads
            if name == "head_dim" and stated and all(sizes) and stated != self.head_dim:
                raise ConfigError(
                    f"this {self.model_type} config has head_dim={stated}, but its width {sizes[0]} over {sizes[1]} "
                    f"heads is {self.head_dim}, which is all that is supported."
                )
        super().__post_init__(**kwargs)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def rotary_dim(self) -> int:
        """How many numbers of a head are rotated: the first ones."""
        return self.head_dim

    @property
    def attention_block(self) -> int | None:
        """Cells of an attention block, which sees itself and the blocks before it; None = everything sees all."""
        return None

    @property
    def mixture_sizes(self) -> tuple[int, int, int]:
        """Layers that are mixtures of experts, an expert's width, and that of the dense MLP beside them."""
        return 0, 0, 0

    @property
    def rope_full_precision(self) -> bool:
        """Whether queries and keys are rotated in fp32, and not in the model's dtype."""
        return False

    @property
    def embedding_rows(self) -> int:
        """Rows of the embedding and of the head, i.e. the width of the logits."""
        return self.vocab_size

    def to_dict(self) -> dict[str, Any]:
        """The config with the architecture's checkpoint name, so that other tools recognise what is saved."""
        output = super().to_dict()
        if self.checkpoint_architectures:
            output["architectures"] = [self.checkpoint_architectures[0]]
        return output

    def check(self) -> None:
        """Refuse a config whose model would be computed wrongly.

        Raises:
            ConfigError: another architecture under this model_type, an unsupported flag, or sizes that do not fit.
        """
        kind = self.model_type
        known = {*self.checkpoint_architectures, type(self).__name__.removesuffix("Config")}
        foreign = [name for name in self.architectures or () if name not in known]
        if not foreign and getattr(self, "num_experts", None) and not self.sparse:
            foreign = ["a mixture of experts"]
        if foreign:
            raise ConfigError(
                f"this checkpoint's model_type is {kind!r} but its architecture is {foreign[0]}, a different model; "
                f"supported under this model_type: {', '.join(self.checkpoint_architectures)}."
            )
        for flag, allowed in self.required_values.items():
            value = getattr(self, flag, allowed[0])
            if value not in allowed:
                raise ConfigError(
                    f"this {kind} config has {flag}={value!r}, which is not supported; "
                    f"only {flag}={' or '.join(map(repr, allowed))} is."
                )
        sizes = {
            name: getattr(self, name)
            for name in (
                "hidden_size",
                "num_hidden_layers",
                "num_attention_heads",
                "num_key_value_heads",
                *self.required_sizes,
                "embedding_rows",
            )
        }
        for name, size in sizes.items():
            if not isinstance(size, int) or isinstance(size, bool) or not 0 < size < 2**31:
                shown = self.attribute_map.get(name, name)
                raise ConfigError(f"this {kind} config has {shown}={size!r}; it must be a positive integer.")
        for name in ("rms_norm_eps", "rope_theta"):
            value = getattr(self, name, 1.0)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 2**63:
                shown = self.attribute_map.get(name, name)
                raise ConfigError(f"this {kind} config has {shown}={value!r:.60}; it must be a positive number.")
        longest = getattr(self, "max_position_embeddings", None)
        if longest is not None and not (isinstance(longest, int) and 0 < longest < 2**31):
            shown = self.attribute_map.get("max_position_embeddings", "max_position_embeddings")
            raise ConfigError(f"this {kind} config has {shown}={longest!r:.60}; it must be a positive integer.")
        width, heads, kv_heads = sizes["hidden_size"], sizes["num_attention_heads"], sizes["num_key_value_heads"]
        uneven = "head_dim" not in self.required_sizes and width % (2 * heads)
        if uneven or self.head_dim % 2 or self.rotary_dim % 2 or heads % kv_heads:
            raise ConfigError(
                f"this {kind} config has width {width}, {heads} attention heads and {kv_heads} KV heads; heads must "
                "divide the width into even parts, and KV heads must divide the heads."
            )
        if self.sparse and not 0 < self.num_experts_per_tok <= self.num_experts:
            raise ConfigError(
                f"this {kind} config sends each token to {self.num_experts_per_tok} of {self.num_experts} experts; "
                "give num_experts_per_tok from 1 to num_experts."
            )


class QwenConfig(DecoderConfig):
    """What the families with Qwen's field names share; as many KV heads as heads, where none are named."""

    hidden_act: str = "silu"
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill what follows from other fields."""
        if self.num_key_value_heads is None:  # type: ignore[has-type]
            self.num_key_value_heads = self.num_attention_heads
        super().__post_init__(**kwargs)
