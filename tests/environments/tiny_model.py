"""A random Llama of 0.1 M parameters with a byte-level ChatML tokenizer, as a folder: all a server test needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from trainer_configs.atropos_rl.toy_model import byte_tokenizer

EOS = 257
CONTEXT = 512


def tiny_tokenizer() -> Any:
    """One token a byte (ids 0-255), then <|im_start|> and <|im_end|>."""
    return byte_tokenizer()


def tiny_config(**changes: Any) -> LlamaConfig:
    shape: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 260}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT}
    # Weights larger than usual: logits far apart, so that no test hangs on a tie.
    ids = {"bos_token_id": 256, "eos_token_id": EOS, "pad_token_id": EOS, "initializer_range": 0.3}
    return LlamaConfig(**shape | heads | ids | changes)


def tiny_model(**changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(7)
    attention = changes.pop("attn_implementation", "sdpa")
    model = LlamaForCausalLM._from_config(tiny_config(**changes), dtype=torch.float32, attn_implementation=attention)
    return model.eval()


def save_tiny(folder: Path, **changes: Any) -> Path:
    tiny_model(**changes).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(config))
    return folder
