"""Which rows are scored."""

from __future__ import annotations

import numpy as np

from llmstage.data.order import spread


def test_rows_are_spread_evenly_over_a_sorted_split():
    rows = np.arange(1000)
    assert spread(rows, 4).tolist() == [0, 250, 500, 750]
    assert spread(rows, 0).tolist() == []
    assert spread(rows, None) is rows and spread(rows, 2000) is rows
    assert len(set(spread(rows, 999).tolist())) == 999
