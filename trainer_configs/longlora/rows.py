"""Rows of `longlora data`, as a dataset type of Axolotl, with or without the plugin.

    datasets: [{path: rows, type: trainer_configs.longlora.rows}]

Axolotl takes a dataset for tokenised where it has an attention_mask. These rows have none: beside a mask of ones transformers
lets the documents of a row see each other, silently. Where there is none it finds them by their positions.
"""

from typing import Any

from axolotl.prompt_tokenizers import DatasetWrappingStrategy
from datasets import Dataset

from trainer_configs.longlora.config import LongLoRAError
from trainer_configs.longlora.row_files import TOKENISED

MASK_TAKEN_OFF = ("mamba", "gemma3")  # model types for which Axolotl itself takes the mask's column off, and wants one


class Rows(DatasetWrappingStrategy):
    """Hands tokenised rows on as they are."""

    def __init__(self, path: str, model_type: str | None):
        self.path, self.model_type = path, model_type

    def wrap_dataset(
        self, dataset: Any, process_count: int | None = None, keep_in_memory: bool | None = False, **kwargs: Any
    ) -> Dataset:
        """Return the rows. Raises `LongLoRAError` for rows that are not tokenised."""
        if missing := sorted(TOKENISED - set(dataset.column_names)):
            raise LongLoRAError(f"{self.path} has no column {missing[0]}: give rows of longthread longlora data")
        if self.model_type not in MASK_TAKEN_OFF:
            return dataset
        return dataset.map(lambda row: {"attention_mask": [1] * len(row["input_ids"])}, num_proc=process_count)


def load(tokenizer: Any, cfg: Any, ds_cfg: Any = None) -> Rows:
    """Return the reader of a dataset of rows. Axolotl calls it for `type: trainer_configs.longlora.rows`."""
    return Rows(str((ds_cfg or {}).get("path")), cfg.get("model_config_type"))
