"""Networks of timm and torchvision, swapped, trained, folded, compiled and exported."""

import copy

import pytest

from tests import libraries
from tests.conftest import ROOT, mostly_long
from tests.processes import call

# Model, operator, rule.
CASES = {
    "timm/resnet50": ("CoC", dict(pattern="layer*.conv2")),
    "timm/convnext_atto": ("DCLS", dict(pattern="*.conv_dw", depthwise=True)),
    "timm/efficientnet_b0": ("DK", dict(pattern="blocks.*", depthwise=True)),
    "timm/mobilenetv3_small_100": ("DKE", dict(pattern="blocks.*.conv_dw", stride=1)),
    "timm/swin_tiny_patch4_window7_224": ("DCLS", dict(pattern="patch_embed.proj")),
    "torchvision/resnet18": ("DCLS", dict(pattern="layer[34].*", kernel_size=3)),
    "torchvision/mobilenet_v2": (
        "DRConv",
        dict(pattern="features.*", kernel_size=3, depthwise=True),
    ),
    "torchvision/efficientnet_b0": ("CoC", dict(pattern="features.*", kernel_size=5)),
}

# Not on the page: as the rows of timm, with other operators.
ALIKE = "torchvision/resnet18", "torchvision/efficientnet_b0"
QUICK = "timm/convnext_atto", "timm/efficientnet_b0", "torchvision/mobilenet_v2"


def check(name, backend):
    """To be run in a process that may import what it likes."""
    libraries.find()
    import torch

    from mmlearnconv.catalog import operator_of
    from mmlearnconv.layers import LearnableConv
    from mmlearnconv.surgery import fold_convs, swap_convs

    torch.set_num_threads(1)
    torch.manual_seed(0)
    library, kind = name.split("/")
    if library == "timm":
        import timm

        plain = timm.create_model(kind)
    else:
        import torchvision

        plain = getattr(torchvision.models, kind)(weights=None)
    # Outputs of an untrained network would be too small to compare.
    size = 224 if "swin" in kind else 64
    image = torch.randn(2, 3, size, size)
    plain.train()
    plain(image)
    operator, rule = CASES[name]
    options = dict(attention=False) if operator == "DKE" else {}
    swapped = swap_convs(copy.deepcopy(plain), [rule | dict(conv=dict(type=operator, **options))])
    learned = [m for m in swapped.modules() if isinstance(m, LearnableConv)]
    assert learned
    plain.eval()
    swapped.eval()
    with torch.no_grad():
        expected = plain(image)
        found = swapped(image)
    scale = expected.abs().max()
    exact = operator_of(operator).takeover_error < 1e-6
    assert (found - expected).abs().max() <= (1e-5 if exact else 1e-2) * scale

    swapped.train()
    optimizer = torch.optim.SGD(swapped.parameters(), lr=1e-3)
    torch.nn.functional.cross_entropy(swapped(image), torch.tensor([1, 2])).backward()
    assert all(p.grad is not None for layer in learned for p in layer.parameters())
    optimizer.step()

    swapped.eval()
    with torch.no_grad():
        trained = swapped(image)
    assert (trained - found).abs().max() > 0
    exported = torch.export.export(swapped, (image,)).module()
    compiled = torch.compile(swapped, backend=backend, fullgraph=True)
    with torch.no_grad():
        for other in (exported, compiled):
            torch.testing.assert_close(other(image), trained, rtol=1e-4, atol=1e-4 * float(scale))
    if operator_of(operator).folds == "no":
        return
    folded = fold_convs(copy.deepcopy(swapped))
    assert not any(isinstance(m, LearnableConv) for m in folded.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(image), trained, rtol=1e-4, atol=1e-4 * float(scale))


@pytest.mark.parametrize("name", [name for name in CASES if name not in ALIKE])
def test_the_page_has_the_rule_that_was_tried(name):
    operator, rule = CASES[name]
    options = [f'{k}="{v}"' if isinstance(v, str) else f"{k}={v}" for k, v in rule.items()]
    text = f'dict({", ".join(options)}, conv=dict(type="{operator}"))'
    assert text in (ROOT / "docs" / "any_model.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backend"),
    mostly_long(
        [(name, "aot_eager") for name in CASES] + [(name, "inductor") for name in QUICK],
        *((name, "aot_eager") for name in QUICK),
    ),
)
def test_a_network_of_another_library(name, backend):
    libraries.need()
    call(check, name, backend)
