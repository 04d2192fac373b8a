"""What can be seen of tokenised rows on the disk before Axolotl reads them: their columns, and whether they are packed."""

from itertools import pairwise
from pathlib import Path

ROWS = "trainer_configs.longlora.rows"  # Axolotl's dataset type for them
TOKENISED = {"input_ids", "labels"}


def parquet_of(path: str) -> Path | None:
    """Return the first parquet file of a dataset's path, which is a file, a folder, or neither (None)."""
    place = Path(path)
    if place.is_file():
        return place if place.suffix == ".parquet" else None
    return next(iter(sorted(place.rglob("*.parquet"))), None) if place.is_dir() else None


def lacks_mask(path: str) -> bool:
    """Return whether the rows are tokenised and have no attention_mask, as `longlora data` writes them."""
    import pyarrow.parquet as pq

    if (file := parquet_of(path)) is None:
        return False
    try:
        names = set(pq.read_schema(file).names)
    except (OSError, ValueError):  # Axolotl reads it next, and says so
        return False
    return names >= TOKENISED and "attention_mask" not in names


def is_packed(path: str) -> bool:
    """Return whether any of the first rows holds several documents: whether positions restart in it."""
    import pyarrow.parquet as pq

    if (file := parquet_of(path)) is None:
        return False
    try:
        rows = pq.ParquetFile(file)
        if "position_ids" not in rows.schema_arrow.names or not rows.num_row_groups:
            return False
        return any(map(restarts, rows.read_row_group(0, ["position_ids"]).column(0).to_pylist()))
    except (OSError, ValueError):
        return False


def restarts(positions: list[int]) -> bool:
    """Return whether a row's positions restart, which is where a document begins."""
    return any(after <= before for before, after in pairwise(positions))
