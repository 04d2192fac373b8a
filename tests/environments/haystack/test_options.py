"""Options: one home of each default and description."""

from dataclasses import asdict

import pytest

from environments.haystack.options import CHOICES, LIMITS, RANGES, Options
from longthread.errors import ConfigError


def test_fields_tell_name_type_default_and_description() -> None:
    fields = Options.fields()
    assert {f.name: f.default for f in fields} == asdict(Options())
    assert all(type(f.default) is f.type and f.description and "\n" not in f.description for f in fields)
    assert {*CHOICES, *LIMITS, *RANGES} <= {f.name for f in fields}


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_is_one_of_those_named(name: str) -> None:
    for choice in CHOICES[name]:
        assert getattr(Options(**{"filler_path": "x", name: choice}), name) == choice
    with pytest.raises(
        ConfigError, match=rf"{name} must be one of {', '.join(CHOICES[name])} \(got 'other'\)"
    ) as error:
        Options(**{name: "other"})
    assert error.value.settings == (name,)


def test_bounds() -> None:
    assert Options(hops="3").bounds("hops") == (3, 3) and Options(matches=" 2 - 64 ").bounds("matches") == (2, 64)
    for spec in ("1-3", "9", "4-3"):
        with pytest.raises(ConfigError, match="is outside 2 to 8"):
            Options(hops=spec).bounds("hops")
