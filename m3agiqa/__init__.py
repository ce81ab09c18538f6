"""Score AI-generated images for quality, correspondence with their prompt, and authenticity."""

__version__ = "0.1.0"
