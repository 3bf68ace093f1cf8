import pytest

from mmlearnconv.analysis import stage_of


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("backbone.stages.2.1.depthwise_conv", "backbone.stages.2"),
        ("backbone.layer3.4.conv2", "backbone.layer3"),
        ("neck.fpn_convs.0.conv", "neck.fpn_convs"),
        ("decode_head.bottleneck.conv", "decode_head.bottleneck"),
        ("head", "head"),
    ],
)
def test_stages(name, stage):
    assert stage_of(name) == stage
