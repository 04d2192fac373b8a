"""Settings of MemoryEnv beside those of every haystack environment, and what is wrong with them."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field

from environments.config import COMMANDS, HaystackEnvConfig, ServerSettings
from environments.inference.token_servers import TOKEN_SERVERS
from environments.retrieval.ordering import ORDERS
from longthread.errors import ConfigError

CONTEXT, RETRIEVAL, WEIGHTS, HYBRID = MODES = ("context", "retrieval", "weights", "hybrid")
REMEMBERED = (WEIGHTS, HYBRID)  # modes that need a memory of the document
LOOKED_UP = (RETRIEVAL, HYBRID)  # modes that need its passages
CHUNKINGS = ("fixed", "semantic")
RANKINGS = ("bm25", "dense", "fused")
LIMITS = {"passages": (1, 10_000), "chunk_tokens": (8, 10**6), "search_hops": (0, 64), "document_questions": (1, 10**6)}


class MemoryEnvConfig(HaystackEnvConfig):
    """Settings of MemoryEnv."""

    commands: ClassVar[Mapping[str, str]] = {
        **COMMANDS,
        "evaluate": "The same questions in every mode: samples, a report for each mode, and one of all modes.",
        "documents": "The documents of an evaluation to a folder of text files, for lift fit.",
    }

    # The frame in which a memory is asked wants the answer alone, and so all modes do.
    answer_format: str = Field("plain", description="plain, or tags (<answer>) without the modes weights and hybrid")
    modes: str = Field("context,retrieval", description=f"ways of asking: {', '.join(MODES)}")
    questions: str = Field("", description="JSONL of document, question, answers; or a dataset with these columns")
    questions_split: str = Field("test", description="questions: split of a dataset")
    document: str = Field(
        "", description="text file, or folder of them, to be asked about itself: tasks cloze and entity"
    )
    document_questions: int = Field(100, description="document: questions of each task")
    window: int = Field(0, description="tokens of the model's window; 0: as the server states")
    passages: int = Field(10, description="retrieval: passages in the prompt")
    chunk_tokens: int = Field(256, description="retrieval: tokens of a passage, at most")
    overlap: int = Field(32, description="retrieval: tokens that two fixed passages share")
    chunking: str = Field("fixed", description="retrieval: fixed (windows of tokens) or semantic (whole paragraphs)")
    order: str = Field("rank", description=f"retrieval: order of passages: {', '.join(ORDERS)}")
    ranking: str = Field("bm25", description="retrieval: bm25 (words), dense (embeddings) or fused (both)")
    search_hops: int = Field(0, description="retrieval: further searches for the names that a search found")
    embedding_model: str = Field("", description="dense, fused: sentence-transformers model, a folder or a hub name")
    chunk_store: str = Field("", description="dense: folder to keep passages and vectors in (LanceDB)")
    memory_url: str = Field("", description="weights: address of lift serve, with /v1; that of the model if unset")
    documents_path: str = Field("data/documents", description="documents: folder for the text files")


def check_memory(config: MemoryEnvConfig, servers: Sequence[ServerSettings]) -> list[str]:
    """Return the modes to ask in. Raises `ConfigError`, one line, for settings that cannot work."""
    modes = list(dict.fromkeys(part.strip() for part in config.modes.split(",") if part.strip()))
    if not modes:
        raise ConfigError(f"modes is empty; it takes {', '.join(MODES)}", setting="modes")
    for mode in modes:
        _check_choice("modes", mode, MODES)
    _check_choice("chunking", config.chunking, CHUNKINGS)
    _check_choice("ranking", config.ranking, RANKINGS)
    _check_choice("order", config.order, tuple(ORDERS))
    for name, (low, high) in LIMITS.items():
        if not low <= (value := getattr(config, name)) <= high:
            raise ConfigError(f"{name} must be from {low} to {high:,} (got {value:,})", setting=name)
    if config.window < 0:
        raise ConfigError(f"window must be 0 or a number of tokens (got {config.window})", setting="window")
    _check_retrieval(config)
    _check_source(config)
    _check_memories(config, modes, servers)
    return modes


def _check_retrieval(config: MemoryEnvConfig) -> None:
    if config.chunking == "fixed" and not 0 <= config.overlap < config.chunk_tokens:
        raise ConfigError(
            f"overlap {config.overlap} must be from 0 to {config.chunk_tokens - 1}: smaller than a passage",
            setting=("overlap", "chunk_tokens"),
        )
    if config.ranking != "bm25" and not config.embedding_model:
        raise ConfigError(
            f"ranking {config.ranking} needs an embedding model: give the folder or hub name of one of "
            "sentence-transformers, or rank by bm25",
            setting=("embedding_model", "ranking"),
        )
    if config.chunk_store and config.ranking != "dense":
        raise ConfigError(
            f"a chunk store keeps vectors, and ranking {config.ranking} is not by vectors alone: use dense",
            setting=("chunk_store", "ranking"),
        )


def _check_source(config: MemoryEnvConfig) -> None:
    if config.questions and config.document:
        raise ConfigError(
            "questions and document are two sources of questions: give one of them", setting=("questions", "document")
        )
    for name, off, why in (
        ("numbered", False, "retrieved passages have no numbers to cite"),
        ("no_context", False, "it leaves out the text that the modes give in their ways"),
        ("reading", "off", "it is a way of its own to ask about a text; needle-env has it"),
    ):
        if getattr(config, name) != off:
            raise ConfigError(f"{name} does not go with modes: {why}", setting=name)
    if config.curriculum and (config.questions or config.document):
        raise ConfigError("the curriculum climbs over generated haystacks alone", setting="curriculum")


def _check_memories(config: MemoryEnvConfig, modes: Sequence[str], servers: Sequence[ServerSettings]) -> None:
    remembered = [mode for mode in modes if mode in REMEMBERED]
    if not remembered:
        return
    if config.answer_format != "plain":
        raise ConfigError(
            f"mode {remembered[0]} asks for the answer alone, as memories are taught: use answer_format plain",
            setting=("answer_format", "modes"),
        )
    tokens = next((server.server_type for server in servers if server.server_type in TOKEN_SERVERS), "")
    if tokens and not config.memory_url:
        raise ConfigError(
            f"mode {remembered[0]} names a memory in each request, and a server of type {tokens} is asked without a name: "
            "give the address of lift serve",
            setting="memory_url",
        )


def _check_choice(setting: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigError(f"{setting} must be one of {', '.join(choices)} (got {value!r})", setting=setting)
