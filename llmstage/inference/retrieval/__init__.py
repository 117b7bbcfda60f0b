"""Answers and articles: read (passages.py), cut into words (words.py), indexed and searched (index.py, encoder.py), kept and
renewed (library.py), put before a model or in its place (grounding.py)."""
