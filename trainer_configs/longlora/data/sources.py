"""Where documents come from: a folder or file of text, a dataset, or the environments themselves."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from environments.haystack.filler.corpora import SUFFIXES, dataset_rows, documents, text_files, texts_of
from longthread.errors import DataError

GENERATED = ("prose", "needles")


@dataclass(frozen=True)
class Source:
    """Documents by a name: "prose", "needles", a path, or a dataset's name with a column and a split.

    Faults of a corpus are raised as `DataError`.
    """

    name: str
    column: str = "text"
    split: str = "train"

    @property
    def generated(self) -> bool:
        """Return True where workers write the documents themselves."""
        return self.name in GENERATED

    @property
    def is_text(self) -> bool:
        """Return True for a folder, or a file of plain text or Markdown."""
        path = Path(self.name)
        return path.is_dir() or path.suffix.lower() in SUFFIXES

    def items(self, skip: int = 0) -> Iterator[str | int]:
        """Yield the source's texts, or for generated sources endless numbers of documents; without the first `skip`."""
        if self.generated:
            return iter(range(skip, 1 << 62))
        if self.is_text:
            return islice(chain.from_iterable(map(documents, text_files(Path(self.name)))), skip, None)
        rows = dataset_rows(self.name, self.column, self.split)
        return texts_of(rows.skip(skip) if skip else rows, self.name, self.column)

    def check(self) -> None:
        """Raise `DataError` unless the source has at least one document."""
        if not any(self.generated or str(item).strip() for item in self.items()):
            raise DataError(
                f"source {self.name} holds no text: give a folder of .txt or .md files, or a dataset with text"
            )

    def fingerprint(self) -> list[list[str | int]]:
        """Return names and sizes of local files, so that a run is not resumed on another corpus."""
        path = Path(self.name)
        if self.generated or not path.exists():
            return []
        files = text_files(path) if self.is_text else [path]
        return [[file.name, file.stat().st_size] for file in files]
