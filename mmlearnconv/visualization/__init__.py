"""Pictures of what layers learned, and a page that holds them."""

from .images import size_for
from .log import draw_log
from .page import write_page
from .picture import Picture
from .pictures import draw_layers, draw_objects, draw_positions
from .sampled import draw_point, layers_to_show

__all__ = [
    "Picture",
    "draw_layers",
    "draw_log",
    "draw_objects",
    "draw_point",
    "draw_positions",
    "layers_to_show",
    "size_for",
    "write_page",
]
