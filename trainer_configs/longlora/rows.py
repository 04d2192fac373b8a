"""Rows of `longlora data`, as a dataset type of Axolotl, with or without the plugin; and those of a reader, with it.

    datasets: [{path: rows, type: trainer_configs.longlora.rows}]

Axolotl takes a dataset for tokenised where it has an attention_mask. Rows of `longlora data` have none: beside a mask of ones
transformers lets the documents of a row see each other, silently. Where there is none it finds them by their positions.
"""

from typing import Any

from axolotl.prompt_tokenizers import DatasetWrappingStrategy
from datasets import Dataset, Features, Sequence, Value

from trainer_configs.longlora.axolotl_config import ConfigDict
from trainer_configs.longlora.config import LongLoRAError
from trainer_configs.longlora.row_files import ROWS, TOKENISED, holds_parallel_documents, lacks_mask

MASK_TAKEN_OFF = ("mamba", "gemma3")  # model types for which Axolotl itself takes the mask's column off, and wants one


class Rows(DatasetWrappingStrategy):
    """Hands tokenised rows on as they are, with a mask of ones only where `masked`."""

    def __init__(self, path: str, masked: bool):
        self.path, self.masked = path, masked

    def wrap_dataset(
        self, dataset: Any, process_count: int | None = None, keep_in_memory: bool | None = False, **kwargs: Any
    ) -> Dataset:
        """Return the rows. Raises `LongLoRAError` for rows that are not tokenised."""
        if missing := sorted(TOKENISED - set(dataset.column_names)):
            raise LongLoRAError(f"{self.path} has no column {missing[0]}: give rows of longthread longlora data")
        if not self.masked:
            return dataset
        ones = Features(dataset.features | {"attention_mask": Sequence(Value("int8"))})
        return dataset.map(
            lambda row: {"attention_mask": [1] * len(row["input_ids"])}, num_proc=process_count, features=ones
        )


def load(tokenizer: object, cfg: ConfigDict, ds_cfg: ConfigDict | None = None) -> Rows:
    """Return the reader of a dataset of rows. Axolotl calls it for `type: trainer_configs.longlora.rows`.

    Raises `LongLoRAError` where no plugin keeps documents apart, and rows are a reader's, or rows without a mask stand
    beside rows with one.
    """
    path = str((ds_cfg or {}).get("path"))
    if not cfg.get("longlora") and holds_parallel_documents(path):
        raise LongLoRAError(
            f"{path} holds rows of a reader, whose documents must be kept apart: train them with the plugin "
            "trainer_configs.longlora.LongLoRAPlugin"
        )
    others = [other for other in cfg.get("datasets") or () if str(other.get("path")) != path]
    mixed = any(other.get("type") != ROWS or not lacks_mask(str(other.get("path"))) for other in others)
    if mixed and not cfg.get("longlora"):
        raise LongLoRAError(
            f"{path} has no attention_mask, and {others[0].get('path')} may have one: train them apart, or with the plugin "
            "trainer_configs.longlora.LongLoRAPlugin"
        )
    return Rows(path, mixed or cfg.get("model_config_type") in MASK_TAKEN_OFF)
