"""What layers and models cost and what they learned."""

from .search_path import search_path

__all__ = ["search_path"]
