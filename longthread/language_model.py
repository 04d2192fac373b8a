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
        """Return the decoder's part of the config; for a model of text alone, that is the config itself."""
        ...


class ModelOutput(Protocol):
    """What a forward pass returns."""

    logits: "Tensor"  # (B, L, V)


class CausalLM(Protocol):
    """A causal language model, with an adapter or without."""

    config: Any  # a `ModelConfig`, with fields of the model's own
    generation_config: Any
    training: bool

    @property
    def device(self) -> "torch.device":
        """The device that holds the weights."""
        ...

    @property
    def dtype(self) -> "torch.dtype":
        """The data type of the weights."""
        ...

    def __call__(self, **inputs: Any) -> ModelOutput:
        """Run a forward pass."""
        ...

    def get_decoder(self) -> Any:
        """Return the model without its head, as a module."""
        ...

    def generate(self, **inputs: Any) -> "Tensor":
        """Return token ids of shape (batch, length): each prompt, followed by its completion."""
        ...

    def eval(self) -> "CausalLM":
        """Turn dropout off, and return the model."""
        ...

    def train(self, mode: bool = True) -> "CausalLM":
        """Turn dropout on, or off where `mode` is false, and return the model."""
        ...

    def to(self, device: "torch.device") -> "CausalLM":
        """Move all weights to the device, and return the model."""
        ...

    def modules(self) -> "Iterator[nn.Module]":
        """Iterate over all modules, the model itself first."""
        ...

    def named_modules(self) -> "Iterable[tuple[str, nn.Module]]":
        """Iterate over all modules as (dotted name, module)."""
        ...

    def parameters(self) -> "Iterator[nn.Parameter]":
        """Iterate over all weight tensors."""
        ...

    def named_parameters(self) -> "Iterator[tuple[str, nn.Parameter]]":
        """Iterate over all weight tensors as (dotted name, tensor)."""
        ...

    def state_dict(self) -> "dict[str, Tensor]":
        """Return all weights and buffers by their dotted names."""
        ...

    def get_input_embeddings(self) -> "nn.Embedding":
        """Return the layer that turns token ids into vectors."""
        ...

    def get_output_embeddings(self) -> "nn.Linear":
        """Return the head: the linear layer that turns hidden vectors into logits."""
        ...

    def set_attn_implementation(self, name: str) -> None:
        """Compute attention by the function registered under this name in transformers' `AttentionInterface`."""
        ...


class AdaptedLM(CausalLM, Protocol):
    """A causal language model with an adapter of PEFT."""

    def disable_adapter(self) -> AbstractContextManager[None]:
        """Return a context within which the model computes without its adapter, as the base model does."""
        ...

    def save_pretrained(self, folder: Any) -> None:
        """Write the adapter to the folder, without the base model."""
        ...


class PromptTokenizer(Protocol):
    """What haystacks and scoring ask of a tokenizer: transformers' own fulfil it, and `LightTokenizer`."""

    chat_template: str | None
    eos_token_id: int | None

    @property
    def backend_tokenizer(self) -> "Tokenizer":
        """The same tokenizer as an object of the Rust library `tokenizers`."""
        ...

    def __len__(self) -> int:
        """Size of the vocabulary, added tokens included."""
        ...

    def __hash__(self) -> int:
        """The tokenizer's identity, by which samples made with it are kept."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the token ids of a text."""
        ...

    def decode(self, token_ids: Any, **options: Any) -> str:
        """Return the text of token ids."""
        ...

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """Return a conversation in the chat template, as text or, with transformers' own tokenizers, as token ids.

        `options` reach the template too: its own variables, like `enable_thinking`, are among them.
        """
        ...


class ChatTokenizer(PromptTokenizer, Protocol):
    """A tokenizer of transformers."""

    all_special_ids: list[int]

    def __call__(self, text: str, **options: Any) -> Mapping[str, Any]:
        """Return a mapping with the token ids of the text as `input_ids`, and whatever else `options` ask for."""
        ...
