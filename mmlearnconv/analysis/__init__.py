"""What layers and models cost, what they learned and what they see."""

from .complexity import Complexity, count_complexity
from .receptive_field import areas, centred, contribution
from .sampling import Sampling, sampling_points
from .search_path import search_path

__all__ = [
    "Complexity",
    "Sampling",
    "areas",
    "centred",
    "contribution",
    "count_complexity",
    "sampling_points",
    "search_path",
]
