"""The picture of RULER by reader: from the figures that stand in the repository."""

import json
from pathlib import Path

from benchmarks.longlora_pictures import columns, run

MEASURED = Path(__file__).parents[2] / "docs" / "measurements" / "longlora"


def test_columns_are_those_that_any_model_was_asked_in_order() -> None:
    cells = {"a": {"ruler_vt 32768": {}, "niah_single_1 131072": {}}, "b": {"niah_multikey_2 32768": {}}}
    assert columns(cells) == [(32768, "niah_multikey_2"), (32768, "ruler_vt"), (131072, "niah_single_1")]


def test_the_picture_is_drawn_from_what_was_measured(tmp_path: Path) -> None:
    run(MEASURED / "ruler.json", tmp_path / "ruler-readers.png")
    assert (tmp_path / "ruler-readers.png").read_bytes().startswith(b"\x89PNG")


def test_what_was_measured_names_no_path_of_a_machine() -> None:
    files = sorted(MEASURED.glob("*.json"))
    assert len(files) > 5
    for file in files:
        assert json.loads(file.read_text())
        assert not any(f'"/{name}' in file.read_text() for name in ("tmp", "dev", "home", "root", "work")), file
