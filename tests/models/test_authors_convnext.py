"""Checkpoints in the layout of ConvNeXt's and DCLS's authors."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmlearnconv.models import ConvNeXt
from mmlearnconv.models.convnext import convert_state_dict

CHANNELS = (8, 16, 24, 32)
DEPTHS = (1, 1, 2, 1)
ARCH = dict(depths=DEPTHS, channels=CHANNELS)
VERSIONS = {
    "v0": dict(interpolation="bilinear"),
    "gauss": dict(interpolation="gauss"),
    "max": dict(interpolation="triangle"),
    "v1": dict(interpolation="triangle", learn_width=False),
}


class ChannelsFirstNorm(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class AuthorsBlock(nn.Module):
    def __init__(self, width, dwconv):
        super().__init__()
        self.dwconv = dwconv
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.pwconv2 = nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.rand(width))

    def forward(self, x):
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))).permute(0, 3, 1, 2)


class AuthorsConvNeXt(nn.Module):
    """The network of the papers' equations under the names of its authors' files."""

    def __init__(self, depthwise, classifier):
        super().__init__()
        before = (3, *CHANNELS[:3])
        self.downsample_layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(3, c, 4, 4), ChannelsFirstNorm(c, eps=1e-6))
            if i == 0
            else nn.Sequential(ChannelsFirstNorm(b, eps=1e-6), nn.Conv2d(b, c, 2, 2))
            for i, (b, c) in enumerate(zip(before, CHANNELS, strict=True))
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(AuthorsBlock(c, depthwise(c)) for _ in range(d)))
            for c, d in zip(CHANNELS, DEPTHS, strict=True)
        )
        self.classifier = classifier
        if classifier:
            self.norm = nn.LayerNorm(CHANNELS[-1], eps=1e-6)
            self.head = nn.Linear(CHANNELS[-1], 10)
        else:
            for i, c in enumerate(CHANNELS):
                self.add_module(f"norm{i}", ChannelsFirstNorm(c, eps=1e-6))
        for parameter in self.parameters():
            parameter.data += 0.1 * torch.rand_like(parameter)

    def forward(self, x):
        outputs = []
        for i, (down, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            x = stage(down(x))
            if not self.classifier:
                outputs.append(getattr(self, f"norm{i}")(x))
        if self.classifier:
            outputs.append(self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return outputs


def plain(channels):
    return nn.Conv2d(channels, channels, 7, padding=3, groups=channels)


def dcls(version):
    modules = pytest.importorskip("DCLS.construct.modules")

    def build(channels):
        conv = modules.Dcls2d(
            channels,
            channels,
            kernel_count=34,
            padding=8,
            dilated_kernel_size=17,
            groups=channels,
            version=version,
        )
        # Of a trained net: further apart than they start, and some at the edge.
        conv.P.data.normal_(std=4).clamp_(-8, 8)
        if conv.SIG is not None:
            nn.init.normal_(conv.SIG)
        return conv

    return build


def network(kind, classifier=False):
    return AuthorsConvNeXt(plain if kind == "plain" else dcls(kind), classifier).eval()


def ours(kind, **options):
    conv_cfg = None
    if kind != "plain":
        conv_cfg = dict(type="DCLS", kernel_count=34, **VERSIONS[kind])
    return ConvNeXt(ARCH, conv_cfg=conv_cfg, share_positions=False, **options).eval()


def assert_equal(model, theirs):
    x = torch.randn(1, 3, 96, 64)
    for a, b in zip(model(x), theirs(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


KINDS = ("plain", *VERSIONS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_detector_s_backbone_loads_as_it_is(kind):
    theirs, model = network(kind), ours(kind)
    model.load_state_dict(theirs.state_dict())
    assert_equal(model, theirs)


@pytest.mark.parametrize("kind", ["plain", "v0", "gauss"])
def test_a_classifier_loads_by_init_cfg(kind, tmp_path):
    from mmlearnconv.engine import enforce_weights_only

    theirs = network(kind, classifier=True)
    torch.save(dict(model=theirs.state_dict()), tmp_path / "theirs.pth")
    init = dict(type="Pretrained", checkpoint=str(tmp_path / "theirs.pth"))
    model = ours(kind, out_indices=(3,), init_cfg=init)
    enforce_weights_only()
    model.init_weights()
    assert_equal(model, theirs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_converted_files_have_the_layout_of_openmmlab(kind, prefix):
    theirs = network(kind, classifier=not prefix)
    state = {prefix + k: v for k, v in theirs.state_dict().items()}
    if prefix:
        state["rpn_head.rpn_conv.weight"] = torch.zeros(1)
    version = kind if kind in ("v1", "max") else None
    converted, notes = convert_state_dict(state, version)
    assert ("plain" in notes) == (kind == "plain")
    heads = {k for k in converted if not k.startswith("backbone.")}
    expected = {"rpn_head.rpn_conv.weight"} if prefix else {"head.fc.weight", "head.fc.bias"}
    assert heads == expected
    model = ours(kind, out_indices=(0, 1, 2, 3) if prefix else (3,))
    model.load_state_dict(
        {k.removeprefix("backbone."): converted[k] for k in converted.keys() - heads}
    )
    assert_equal(model, theirs)


def test_a_file_of_distributed_training_converts_alike():
    state_dict = network("plain", classifier=True).state_dict()
    wrapped = {f"module.{key}": value for key, value in state_dict.items()}
    assert convert_state_dict(wrapped)[0].keys() == convert_state_dict(state_dict)[0].keys()


def test_positions_saved_in_every_layer_load_into_shared_ones():
    theirs = network("v0")
    for stage in theirs.stages:
        for block in stage:
            block.dwconv.P.data.copy_(stage[0].dwconv.P)
    conv_cfg = dict(type="DCLS", kernel_count=34)
    shared = ConvNeXt(ARCH, conv_cfg=conv_cfg).eval()
    shared.load_state_dict(theirs.state_dict())
    assert_equal(shared, theirs)
    theirs.stages[2][1].dwconv.P.data += 0.1
    with pytest.raises(RuntimeError, match="build the model without shared positions"):
        shared.load_state_dict(theirs.state_dict())


def test_another_count_is_an_error_of_shapes():
    with pytest.raises(
        RuntimeError, match=r"size mismatch for stages.0.0.depthwise_conv.positions"
    ):
        ConvNeXt(ARCH, conv_cfg=dict(type="DCLS", kernel_count=20)).load_state_dict(
            network("v0").state_dict()
        )


def test_what_is_no_convnext_is_refused():
    with pytest.raises(ValueError, match=r"no key like stages.0.0.dwconv.weight"):
        convert_state_dict(dict(weight=torch.zeros(1)))
