"""What layers and models cost and what they learned."""

from .complexity import Complexity, count_complexity
from .search_path import search_path

__all__ = ["Complexity", "count_complexity", "search_path"]
