"""What layers and models cost, what they learned and what they see."""

from .complexity import Complexity, count_complexity
from .inputs import input_channels
from .receptive_field import areas, centred, contribution
from .sampling import Sampling, SamplingPoints
from .search_path import search_path
from .stages import stage_of

__all__ = [
    "Complexity",
    "Sampling",
    "SamplingPoints",
    "areas",
    "centred",
    "contribution",
    "count_complexity",
    "input_channels",
    "search_path",
    "stage_of",
]
