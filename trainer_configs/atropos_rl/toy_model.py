"""A random Llama of 0.1 M parameters that reads bytes: enough to run the whole loop on a CPU in minutes (`model: toy`)."""

import json
from pathlib import Path
from typing import Any

from longthread.files import JsonObject, replacing_folder, write_json

TOY = "toy"  # as `model` in a config
CONTEXT = 4096
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SHAPE: JsonObject = {
    "vocab_size": 258,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": True,
    "initializer_range": 0.2,  # wide, so that its replies differ from letter to letter
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 257,
}


def write_toy_model(folder: Path) -> Path:
    """Write model and tokenizer into the folder, unless they are there; the same weights each time. Returns the folder."""
    if folder.exists():
        return folder
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with replacing_folder(folder) as draft, torch.random.fork_rng():
        torch.manual_seed(7)
        LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(draft)
        byte_tokenizer().save_pretrained(draft)
        path = draft / "tokenizer_config.json"
        # Read by transformers 4 and 5 alike, which name the class differently.
        write_json(path, json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"})
    return folder


def byte_tokenizer() -> Any:
    """Return a tokenizer with one token a byte (ids 0 to 255), then <|im_start|> and <|im_end|>."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True) for name in ("<|im_start|>", "<|im_end|>")])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer
