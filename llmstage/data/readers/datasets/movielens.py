"""MovieLens as GroupLens publishes it: a folder with `ratings.csv` and, beside it, `movies.csv` as the item table."""

from __future__ import annotations

from llmstage.data.files import DataFile
from llmstage.data.readers import csv
from llmstage.data.records import ReadOptions, Records

ENDINGS = (".csv",)
SKIP = ("movies.csv", "tags.csv", "links.csv", "genome-scores.csv", "genome-tags.csv")
TABLES = {"items": "movies.csv"}
"""The file of a side table that is not named."""


def read(file: DataFile, options: ReadOptions) -> Records:
    """Ratings, one a record: userId, movieId, rating, timestamp."""
    return csv.read(file, options)
