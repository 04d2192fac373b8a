"""Sizes that a model's config states: of its heads, of the keys and values of a text, of what a training step keeps."""

from longthread.language_model import ModelConfig

# Hidden vectors that autograd keeps of a token in a layer. EAGER: transformers' own layers in fp32, counted on SmolLM2-135M.
# FUSED: norms and rotary positions in one kernel each leave their inputs and outputs, q, k, v, the attention's output and
# the residuals; within a quarter of the memory measured with Qwen2-1.5B on an H200.
EAGER, FUSED = 18, 8


def head_size(config: ModelConfig) -> int:
    """Return the dimension of an attention head."""
    text = config.get_text_config()
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def kv_bytes(config: ModelConfig, tokens: int, itemsize: int = 2) -> int:
    """Return the bytes of the keys and values of `tokens` tokens in all layers, `itemsize` bytes a number (2: bf16)."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * head_size(config) * tokens * itemsize


def activation_bytes(config: ModelConfig) -> int:
    """Return the bytes that autograd keeps of a token in an fp32 training step, in all layers: 2.0 MB for SmolLM2-135M."""
    text = config.get_text_config()
    inner = getattr(text, "intermediate_size", 4 * text.hidden_size)
    return 4 * text.num_hidden_layers * kept_numbers(text.hidden_size, inner)


def kept_numbers(hidden: int, inner: int, hidden_vectors: int = EAGER) -> int:
    """Return how many numbers autograd keeps of one token in one layer: `hidden_vectors` vectors of size `hidden`, and
    4 of the MLP's inner size `inner`."""
    return hidden_vectors * hidden + 4 * inner


def window_of(config: ModelConfig) -> int | None:
    """Return how many tokens a config says that its model reads; None where it says nothing, as Bloom's.

    MPT's ALiBi is built for `max_seq_len` tokens, and that may be raised without training.
    """
    text = config.get_text_config()
    for name in ("max_position_embeddings", "max_seq_len"):
        if isinstance(value := getattr(text, name, None), int):
            return value
    return None
