"""llmstage: a language or image-text model through its whole life on one config surface."""

__version__ = "0.1.0"
