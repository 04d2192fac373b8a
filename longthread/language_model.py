"""What this package asks of a causal language model and of its tokenizer; transformers' own classes fulfil it."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # this module is imported where torch is not
    import torch
    from tokenizers import Tokenizer
    from torch import Tensor, nn


class TextConfig(Protocol):
    """The part of a model's config that describes its decoder."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int


class ModelConfig(Protocol):
    """A model's config.json."""

    @property
    def model_type(self) -> str:
        """Name of the architecture."""
        ...

    def get_text_config(self) -> TextConfig:
        """The decoder's part, which is the config itself for a model of text alone."""
        ...


class ModelOutput(Protocol):
    """What a forward pass returns."""

    logits: "Tensor"  # (B, L, V)
    past_key_values: Any


class CausalLM(Protocol):
    """A causal language model, with an adapter or without."""

    config: Any  # a `ModelConfig`, with fields of the model's own
    generation_config: Any
    training: bool

    @property
    def device(self) -> "torch.device":
        """Where the weights are."""
        ...

    @property
    def dtype(self) -> "torch.dtype":
        """Of the weights."""
        ...

    def __call__(self, **inputs: Any) -> ModelOutput:
        """A forward pass."""
        ...

    def generate(self, **inputs: Any) -> "Tensor":
        """The prompts (B, L) and what follows them."""
        ...

    def eval(self) -> "CausalLM":
        """Turn dropout off."""
        ...

    def train(self, mode: bool = True) -> "CausalLM":
        """Turn dropout on."""
        ...

    def to(self, device: "torch.device") -> "CausalLM":
        """Move all weights."""
        ...

    def modules(self) -> "Iterator[nn.Module]":
        """All modules, the model first."""
        ...

    def named_modules(self) -> "Iterable[tuple[str, nn.Module]]":
        """The same with their dotted names."""
        ...

    def parameters(self) -> "Iterator[nn.Parameter]":
        """All weights."""
        ...

    def named_parameters(self) -> "Iterator[tuple[str, nn.Parameter]]":
        """The same with their dotted names."""
        ...

    def state_dict(self) -> "dict[str, Tensor]":
        """All weights and buffers."""
        ...

    def get_input_embeddings(self) -> "nn.Embedding":
        """The embedding of tokens."""
        ...

    def get_output_embeddings(self) -> "nn.Linear":
        """The head."""
        ...

    def set_attn_implementation(self, name: str) -> None:
        """Compute attention by the function that transformers' interface has under this name."""
        ...


class AdaptedLM(CausalLM, Protocol):
    """A causal language model with an adapter of PEFT."""

    def disable_adapter(self) -> AbstractContextManager[None]:
        """The base model, for as long as the context lasts."""
        ...

    def save_pretrained(self, folder: Any) -> None:
        """Write the adapter alone."""
        ...


class PromptTokenizer(Protocol):
    """What haystacks and scoring ask of a tokenizer: transformers' own fulfil it, and `LightTokenizer`."""

    chat_template: str | None
    eos_token_id: int | None

    @property
    def backend_tokenizer(self) -> "Tokenizer":
        """The tokenizer of the Rust library."""
        ...

    def __len__(self) -> int:
        """Size of the vocabulary, added tokens included."""
        ...

    def __hash__(self) -> int:
        """The tokenizer's identity, by which samples made with it are kept."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """The token ids of a text."""
        ...

    def decode(self, token_ids: Any, **options: Any) -> str:
        """The text of token ids."""
        ...

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """A conversation as text, or, with transformers' own, as token ids."""
        ...


class ChatTokenizer(PromptTokenizer, Protocol):
    """A tokenizer of transformers."""

    all_special_ids: list[int]

    def __call__(self, text: str, **options: Any) -> Mapping[str, Any]:
        """Token ids as `input_ids`, and what else was asked for."""
        ...
