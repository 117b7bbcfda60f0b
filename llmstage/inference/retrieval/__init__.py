"""Retrieval of answers and articles for a conversation.

passages.py reads the files, bm25_terms.py splits text into terms, encoder.py computes vectors, index.py searches,
retriever.py caches and reloads the index, and grounding.py puts passages into the prompt.
"""
