"""Sizes that a model's config states: of its heads, of the keys and values of a text, of what a training step keeps."""

from longthread.language_model import ModelConfig


def head_size(config: ModelConfig) -> int:
    """The dimension of an attention head."""
    text = config.get_text_config()
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def kv_bytes(config: ModelConfig, tokens: int, itemsize: int = 2) -> int:
    """Bytes of the keys and values of so many tokens, `itemsize` bytes a number (2: bf16)."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * head_size(config) * tokens * itemsize


def activation_bytes(config: ModelConfig) -> int:
    """Bytes that autograd keeps of one token in a training step in fp32, in all layers.

    Counted on SmolLM2-135M: 2.0 MB, which is 18 hidden and 4 inner vectors a layer.
    """
    text = config.get_text_config()
    inner = getattr(text, "intermediate_size", 4 * text.hidden_size)
    return 4 * text.num_hidden_layers * (18 * text.hidden_size + 4 * inner)
