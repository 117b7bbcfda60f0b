"""Number and category columns: parsed, standardised from the training split, gaps and unseen values told apart."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from llmstage.data.table_columns import MAX_DEVIATIONS, FeatureTable, is_bare_number, parse_number

ROWS = [
    {"a": "1", "b": 5.0, "same": 0.1, "c": "x"},
    {"a": "2.5", "b": None, "same": 0.1, "c": "y"},
    {"a": -3, "b": "NA", "same": 0.1, "c": "x"},
    {"a": "1e2", "b": 7, "same": 0.1, "c": ""},
]


def table(rows=ROWS, numbers=("a", "b", "same"), categories=("c",)):
    made = FeatureTable(numbers, categories)
    for row in rows:
        made.add(row)
    made.finish_fit()
    return made


@pytest.mark.parametrize("value", ["", " NA ", "nan", None, float("nan"), "NULL"])
def test_missing_values_are_none(value):
    assert parse_number(value) is None


@pytest.mark.parametrize("value", ["abc", "1,5", "inf", float("inf"), [1]])
def test_text_in_a_number_column_is_told(value):
    with pytest.raises(ValueError, match="not a"):
        parse_number(value)
    assert "a: " in table().complaint({"a": value})


def test_numbers_are_standardised_as_scikit_learn_does_it():
    made = table()
    values = np.array([made.encode(row)[0][0] for row in ROWS])
    theirs = StandardScaler().fit_transform([[1], [2.5], [-3], [100]])[:, 0]
    np.testing.assert_allclose(values, theirs)
    assert made.mean["b"] == 6 and made.std["same"] == 1  # over what is there; a constant column divides by 1


def test_missing_is_the_mean_and_a_flag_and_outliers_are_held():
    made = table()
    numbers, categories = made.encode({"a": None, "b": "1e9", "same": 0.1, "c": "new"})
    assert numbers == [0.0, MAX_DEVIATIONS, 0.0, 1.0, 0.0, 0.0]
    assert categories == [0]  # other
    assert made.encode(ROWS[3])[1] == [1] and made.encode(ROWS[0])[1] == [2] and made.sizes() == [4]


def test_the_matrix_of_linear_models_has_flags_only_where_training_had_gaps():
    made = table()
    matrix = made.matrix(ROWS)
    assert matrix.shape == (4, 3 + 1 + 3)
    assert matrix[:, 3].tolist() == [0, 1, 1, 0]
    theirs = OneHotEncoder(categories=[["", "x", "y"]]).fit_transform([[row["c"]] for row in ROWS]).toarray()
    np.testing.assert_array_equal(matrix[:, 4:], theirs)


def test_it_comes_back_from_a_models_config():
    made = table()
    again = FeatureTable.from_dict(made.as_dict())
    assert [again.encode(row) for row in ROWS] == [made.encode(row) for row in ROWS]
    assert again.raw_values(ROWS[1]) == {"a": "2.5", "b": None, "same": 0.1, "c": "y"}


def test_a_bare_number_is_told_from_text():
    assert is_bare_number("12") and is_bare_number(" -3.5 ")
    assert not any(map(is_bare_number, ("12 apples", "", "nan", "１二")))
