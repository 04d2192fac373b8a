"""The name by which models of transformers take, and return, the keys and values of tokens that they have read."""

from transformers.modeling_outputs import CausalLMOutputWithPast

# transformers 5.24 renamed `past_key_values`; models take the old name until 5.40, `generate` until 6.
CACHE = "cache" if hasattr(CausalLMOutputWithPast, "cache") else "past_key_values"
