"""Messages about columns name the file, the columns it has, and the key to type."""

from __future__ import annotations

import pytest

from llmstage.data.columns import map_columns
from llmstage.data.rows import Columns
from llmstage.errors import DataError

SAMPLES = {"review": "a film", "stars": 4}


def message(named: dict[str, str], columns: Columns, file: str = "a.csv") -> str:
    with pytest.raises(DataError) as error:
        map_columns(SAMPLES, named, columns, file)
    return str(error.value)


def test_a_named_column_that_is_missing_is_told_with_the_key():
    text = message({"text": "reveiw"}, Columns(("text",)))
    assert text.startswith(
        "a.csv: there is no column 'reveiw' (data.columns.text=reveiw). Did you mean 'review'? "
        "Name another: data.columns.text=<one of: review, stars>\n"
    )


def test_a_column_that_nothing_fits_is_told_with_the_key():
    assert "Name it: data.columns.tokens=<one of: review, stars>\n" in message({}, Columns(("tokens",)))


def test_standard_input_is_told_by_its_name():
    assert message({}, Columns(("tokens",)), "-").startswith("standard input: no column fits 'tokens'.")
    assert message({"text": "x"}, Columns(("text",)), "-").startswith("standard input: there is no column 'x'")
