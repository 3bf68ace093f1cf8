"""Pictures of a training log."""

import json
from pathlib import Path

from ..errors import UserValueError
from .picture import Picture, panels, short


def draw_log(path: Path) -> Picture:
    """How fast positions moved, by stage, beside the learning rate.

    Args:
        path: ``vis_data/scalars.json`` of a run that had ``LearnableConvStatsHook``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no speed of positions, or is no such log.
    """
    speeds: dict[str, list[tuple[int, float]]] = {}
    rates: list[tuple[int, float]] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            record = json.loads(line)
            for key, value in record.items():
                stage = key.removeprefix("train/").removeprefix("position_step/")
                if stage != key and "position_step/" in key:
                    speeds.setdefault(stage, []).append((record["step"], value))
            if "lr" in record:
                rates.append((record["step"], record["lr"]))
        except (json.JSONDecodeError, AttributeError, KeyError) as error:
            raise UserValueError(
                f"{path}: line {number} is no record of a run: {error!r}"
            ) from error
    if not speeds:
        raise UserValueError(
            f"{path}: has no position_step; train with "
            "custom_hooks=[dict(type='LearnableConvStatsHook')]"
        )
    figure, axes = panels(1, 1, 6.4, 3.2)
    axis = axes[0, 0]
    for stage, found in speeds.items():
        axis.plot(*zip(*found, strict=True), label=short(stage))
    axis.set(xlabel="iteration", ylabel="cells per iteration", yscale="log")
    schedule = axis.twinx()
    if rates:
        schedule.plot(*zip(*rates, strict=True), "k:", label="learning rate")
    schedule.set(ylabel="learning rate")
    axis.legend(fontsize="small", loc="upper right")
    caption = (
        "How far positions move per iteration in each stage, and, dotted, the learning rate. "
        "Positions that still move fast when the rate falls would have liked to train longer."
    )
    return Picture("position_speed", "Speed of the positions", caption, figure)
