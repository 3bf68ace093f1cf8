"""Layers by stage of a network."""


def stage_of(name: str) -> str:
    """Name of the stage that a statistic belongs to.

    ``backbone.stages.2.1.depthwise_conv`` is of ``backbone.stages.2``, ``backbone.layer3.4.conv2``
    of ``backbone.layer3``, ``neck.fpn_convs.0.conv`` of ``neck.fpn_convs``.
    """
    parts = name.split(".")
    numbers = [i for i, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[-1]]) if numbers else ".".join(parts[:-1]) or name
