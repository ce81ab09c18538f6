"""Score AI-generated pictures for quality, correspondence with their prompt, and authenticity."""

__version__ = "0.1.0"
