"""Read MovieLens as GroupLens publishes it: a folder with `ratings.csv` and the item table `movies.csv`."""

from __future__ import annotations

from llmstage.data.files import DataFile
from llmstage.data.readers import csv
from llmstage.data.rows import ReadOptions, Records

ENDINGS = (".csv",)
SKIP = ("movies.csv", "tags.csv", "links.csv", "genome-scores.csv", "genome-tags.csv")
TABLES = {"items": "movies.csv"}
"""Side table to its usual file, which is used where the config names none."""


def read(file: DataFile, options: ReadOptions) -> Records:
    """Yield one record for each rating: userId, movieId, rating, timestamp."""
    return csv.read(file, options)
