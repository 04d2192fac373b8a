"""Chat tokenizers read from `tokenizer.json` by the bare `tokenizers` library: 0.2 s instead of 15 s of imports.

transformers does more than read that file: depending on the class it builds the tokenizer anew, adds tokens or exchanges the
post-processor. `load` therefore reads only folders that transformers reads to the same tokenizer, by an allow-list of
classes, model types and settings that `tests/environments/haystack/test_light_tokenizer.py` compares with `AutoTokenizer`.
It returns None for every other folder.
"""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from longthread.errors import ConfigError
from longthread.files import JsonObject

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
LISTED = ("additional_special_tokens", "extra_special_tokens")
# Settings that change no token and no rendering, beside the special tokens.
HARMLESS = {
    *(
        "tokenizer_class",
        "chat_template",
        "added_tokens_decoder",
        "model_max_length",
        "max_length",
        "backend",
        "is_local",
    ),
    *(
        "padding_side",
        "truncation_side",
        "truncation_strategy",
        "stride",
        "errors",
        "model_input_names",
        "name_or_path",
    ),
    *("local_files_only", "legacy", "use_fast", "pad_token_type_id"),
}
FALSE_ONLY = {
    *("add_prefix_space", "split_special_tokens", "add_bos_token", "add_eos_token", "clean_up_tokenization_spaces")
}
PLAIN_CLASSES = {"PreTrainedTokenizer", "TokenizersBackend"}  # read as the file has it
MODEL_TYPES = {None, "llama", "gpt2", "qwen2", "qwen3"}  # of config.json, which transformers 5 lets decide on the class
SPECIAL = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class LightTokenizer:
    """What haystacks, scoring and training rows need of a tokenizer, under transformers' names.

    For anything else load the folder with `transformers.AutoTokenizer`.
    """

    is_fast = True
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None

    def __init__(self, backend: Tokenizer, name: str, chat_template: str | None, special_tokens: Mapping[str, str]):
        self.backend_tokenizer, self.name_or_path, self.chat_template = backend, name, chat_template
        self.special_tokens_map = dict(special_tokens)
        for role in NAMED:
            token = special_tokens.get(role)
            setattr(self, role, token)
            setattr(self, f"{role}_id", None if token is None else backend.token_to_id(token))

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size()

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of the text."""
        return self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, token_ids: Any, skip_special_tokens: bool = False, **_: Any) -> str:
        """Return the text of the token ids."""
        return self.backend_tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens)

    def apply_chat_template(
        self,
        conversation: Any,
        *,
        tokenize: bool = True,
        add_generation_prompt: bool = False,
        **variables: Any,
    ) -> str:
        """Return the conversation, rendered by the chat template, as text; only `tokenize=False` is supported.

        `variables` are the template's own, like `enable_thinking`.
        """
        if tokenize:
            raise NotImplementedError("ask for tokenize=False, or use load_full_tokenizer")
        if self.chat_template is None:
            raise ConfigError(f"tokenizer {self.name_or_path!r} has no chat template", setting="tokenizer_name")
        defaults = {"tools": None, "documents": None, **self.special_tokens_map}
        return _template(self.chat_template).render(
            messages=conversation, add_generation_prompt=add_generation_prompt, **{**defaults, **variables}
        )


@lru_cache(maxsize=8)
def _template(source: str) -> Any:
    """The compiled template, in the environment in which transformers renders it."""
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:  # jinja's own escapes HTML
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(source)


def load(name: str) -> LightTokenizer | None:
    """Return the tokenizer of a local folder, or of a hub name in the local cache; None where transformers is needed."""
    folder = Path(name) if Path(name).is_dir() else _cached_folder(name)
    if folder is None or not (folder / "tokenizer.json").is_file() or not (folder / "tokenizer_config.json").is_file():
        return None
    try:
        return _read(folder, name)
    except (KeyError, TypeError, ValueError, AttributeError, OSError):  # a file unlike any that was compared
        return None


def _read(folder: Path, name: str) -> LightTokenizer | None:
    config, state = _json(folder / "tokenizer_config.json"), _json(folder / "tokenizer.json")
    listed = _json(folder / "special_tokens_map.json")
    template = folder / "chat_template.jinja"
    chat_template = template.read_text(encoding="utf-8") if template.is_file() else config.get("chat_template")
    shapes = _shapes(config["tokenizer_class"].removesuffix("Fast"), _json(folder / "config.json").get("model_type"))
    special = {role: _content(config[role]) for role in NAMED if config.get(role) is not None}
    added = {token["content"]: token for token in state["added_tokens"]}
    needed = {
        *special.values(),
        *(_content(token) for key in LISTED for token in config.get(key) or listed.get(key) or ()),
    }
    same = (
        shapes is not None
        and _known_settings(config)
        and isinstance(chat_template, str | None)
        and not re.search(r"{%-?\s*generation", chat_template or "")
        and not (folder / "additional_chat_templates").exists()
        and all(special.get(role) == _content(listed[role]) for role in NAMED if role in listed)
        and all(added[token].items() >= SPECIAL.items() for token in needed)
        and all(added[token["content"]] == {"id": int(i), **token} for i, token in _decoder(config))
        and all(added[token]["id"] == i for token, i in _json(folder / "added_tokens.json").items())
        and not state["padding"]
        and '"add_prefix_space": true' not in json.dumps(state["pre_tokenizer"])
    )
    if not same:
        return None
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if shapes and not (set(NAMED[:3]) | {"pad_token"} <= config.keys() and _follows_on(state)):
        return None
    if any(_shape(backend) != _shape(shape) for shape in shapes or ()):
        return None
    if backend.post_processor is None and _transformers() >= 5:
        backend.post_processor = processors.TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])
    return LightTokenizer(backend, name, chat_template, special)


def _json(path: Path) -> JsonObject:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _content(token: str | JsonObject) -> str:
    return token if isinstance(token, str) else token["content"]


def _decoder(config: JsonObject) -> Iterator[tuple[str, JsonObject]]:
    yield from config.get("added_tokens_decoder", {}).items()


def _known_settings(config: JsonObject) -> bool:
    """Whether every setting is one that was compared; of those in `FALSE_ONLY`, that it is off."""
    known = HARMLESS | FALSE_ONLY | {*NAMED, *LISTED}
    return config.keys() <= known and not any(config.get(name) for name in FALSE_ONLY)


def _shapes(name: str, model_type: str | None) -> list[Tokenizer] | None:
    """The tokenizers, without vocabulary, that transformers may build anew for this class and model type; None if unknown.

    A folder whose tokenizer has such a shape already is built to the same again.
    """
    if model_type not in MODEL_TYPES or name not in {*PLAIN_CLASSES, *_rebuilt()}:
        return None
    names = {name, "Qwen2Tokenizer" if model_type == "qwen2" else name} - PLAIN_CLASSES
    return [_rebuilt()[name] for name in names]


@cache
def _rebuilt() -> dict[str, Tokenizer]:
    """Classes of transformers 5 that take vocabulary and merges alone from the file."""
    flags = {"continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": False}
    gpt2, qwen2 = Tokenizer(BPE(**flags)), Tokenizer(BPE(**flags))
    gpt2.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    gpt2.decoder = qwen2.decoder = decoders.ByteLevel()
    qwen2.normalizer = normalizers.NFC()
    qwen2.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return {"GPT2Tokenizer": gpt2, "Qwen2Tokenizer": qwen2}


def _shape(backend: Tokenizer) -> JsonObject:
    """All that makes a tokenizer beside its vocabulary, added tokens and post-processor."""
    state = json.loads(backend.to_str())
    model = {name: value for name, value in state["model"].items() if name not in ("vocab", "merges")}
    return {"model": model, **{part: state[part] for part in ("normalizer", "pre_tokenizer", "decoder")}}


def _follows_on(state: JsonObject) -> bool:
    """Whether added tokens have the ids that they get when they are added anew, in the order of their ids."""
    vocabulary = state["model"]["vocab"]
    new = sorted(token["id"] for token in state["added_tokens"] if token["content"] not in vocabulary)
    return new == list(range(len(vocabulary), len(vocabulary) + len(new)))


@cache
def _transformers() -> int:
    """The major version of transformers: from 5 on, it gives every tokenizer a post-processor."""
    return int(version("transformers").split(".")[0])


def _cached_folder(name: str) -> Path | None:
    """The snapshot of a hub name in the local cache, if that cache knows of every file that matters here."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    optional = ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "config.json")
    try:
        found = {
            file: try_to_load_from_cache(name, file) for file in ("tokenizer.json", "tokenizer_config.json", *optional)
        }
    except HFValidationError:
        return None
    tokenizer = found["tokenizer.json"]
    if not isinstance(tokenizer, str) or any(path is None for path in found.values()):
        return None
    return Path(tokenizer).parent
