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
    return any(map(restarts, _first_positions(path)))


def holds_parallel_documents(path: str) -> bool:
    """Return whether any of the first rows holds documents side by side, and a chat that sees all: positions skip in it."""
    return any(after > before + 1 for row in _first_positions(path) for before, after in pairwise(row))


def _first_positions(path: str) -> list[list[int]]:
    """Return the positions of the first rows; none where they cannot be read."""
    import pyarrow.parquet as pq

    if (file := parquet_of(path)) is None:
        return []
    try:
        rows = pq.ParquetFile(file)
        if "position_ids" not in rows.schema_arrow.names or not rows.num_row_groups:
            return []
        positions: list[list[int]] = rows.read_row_group(0, ["position_ids"]).column(0).to_pylist()
        return positions
    except (OSError, ValueError):
        return []


def restarts(positions: list[int]) -> bool:
    """Return whether a row's positions restart, which is where a document begins."""
    return any(after <= before for before, after in pairwise(positions))
