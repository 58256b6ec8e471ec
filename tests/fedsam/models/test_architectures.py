"""Models: sizes of the published networks, reproducible weights, and factories from elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fedsam import registry
from fedsam.config import Component, ConfigError
from fedsam.models import architectures
from fedsam.models.flat import NORMALIZATIONS, Layout

NORMED = ["resnet18", "resnet20", "wide_resnet"]


def part(name: str, **settings: object) -> Component:
    return Component.model_validate({"name": name, **settings})


def create(piece: Component, image: tuple[int, int, int] = (3, 32, 32), classes: int = 10, seed: int = 0) -> nn.Module:
    return architectures.create(piece, image, classes, torch.Generator().manual_seed(seed))


def count(module: nn.Module) -> int:
    return Layout.of_module(module).size


def wide(image: tuple[int, int, int], classes: int, width: int = 3) -> nn.Module:
    """A factory from elsewhere."""
    return nn.Sequential(nn.Flatten(), nn.Linear(image[0] * image[1] * image[2], width), nn.Linear(width, classes))


def no_module(image: tuple[int, int, int], classes: int) -> int:
    """A factory that makes no module."""
    return classes


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> str:
    """The importable name of this file."""
    monkeypatch.setitem(sys.modules, "elsewhere", sys.modules[__name__])
    return "elsewhere"


@pytest.mark.parametrize(
    ("name", "image", "parameters"),
    [
        ("cnn", (1, 28, 28), 1_663_370),  # stated by McMahan et al.
        ("cnn", (3, 32, 32), 2_156_490),
        ("lenet5", (1, 28, 28), 61_706),
        ("lenet5", (3, 32, 32), 62_006),
        ("mlp", (1, 28, 28), 199_210),  # "199,210" in McMahan et al.
        ("resnet18", (3, 32, 32), 11_173_962),
        ("resnet20", (3, 32, 32), 269_722),  # "0.27M" in He et al., table 6
        ("wide_resnet", (3, 32, 32), 2_748_890),  # "2.7M" in Zagoruyko and Komodakis, table 4
    ],
)
def test_numbers_of_parameters(name: str, image: tuple[int, int, int], parameters: int) -> None:
    assert count(create(part(name), image)) == parameters
    assert f"{parameters:,}" in str(architectures.MODELS[name].__doc__)


def test_a_wide_resnet_of_another_size() -> None:
    assert count(create(part("wide_resnet", depth=28, width=10))) == 36_479_194  # "36.5M" in Zagoruyko and Komodakis, table 4


@pytest.mark.parametrize("name", architectures.MODELS)
def test_no_state_by_default(name: str) -> None:
    module = create(part(name))
    assert not list(module.buffers())
    assert not any(isinstance(layer, nn.modules.dropout._DropoutNd) for layer in module.modules())
    x = torch.rand(3, 3, 32, 32)
    assert torch.equal(module.train()(x), module.eval()(x))


@pytest.mark.parametrize(
    "name", [name for name in architectures.MODELS if name != "resnet18"]
)  # made of the layers of resnet20, takes 20 s
def test_per_client_gradients_can_be_vmapped(name: str) -> None:
    module = create(part(name)).double()
    layout = Layout.of_module(module)
    w = torch.stack([layout.vector(dict(create(part(name), seed=seed).double().named_parameters())) for seed in (0, 1)])
    x = torch.rand(2, 2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def loss(w: Tensor, x: Tensor) -> Tensor:
        logits: Tensor = functional_call(module, layout.views(w), (x,))
        return logits.square().mean()

    together = vmap(grad(loss))(w, x)
    alone = torch.stack([grad(loss)(w[i], x[i]) for i in range(2)])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", NORMED)
def test_normalization(name: str) -> None:
    group, batch = create(part(name)), create(part(name, norm="batch"))
    layers = [layer for layer in group.modules() if isinstance(layer, NORMALIZATIONS)]
    assert {type(layer) for layer in layers} == {nn.GroupNorm}
    assert {layer.num_groups for layer in layers if isinstance(layer, nn.GroupNorm)} == {2}
    replaced = [layer for layer in batch.modules() if isinstance(layer, NORMALIZATIONS)]
    assert {type(layer) for layer in replaced} == {nn.BatchNorm2d}
    assert len(replaced) == len(layers)
    assert count(group) == count(batch)
    assert any(isinstance(m, nn.GroupNorm) and m.num_groups == 8 for m in create(part(name, groups=8)).modules())


def test_resnet18_keeps_the_resolution_of_small_images() -> None:
    module = create(part("resnet18"))
    features = module.get_submodule("layer1")
    shapes: list[torch.Size] = []
    features.register_forward_hook(lambda _, inputs, output: shapes.append(output.shape))
    module(torch.rand(1, 3, 32, 32))
    assert shapes == [(1, 64, 32, 32)]


def test_shortcut() -> None:
    x = torch.arange(32.0).reshape(1, 2, 4, 4)
    y = architectures.Shortcut(3, 2)(x)
    assert y.shape == (1, 5, 2, 2)
    assert torch.equal(y[:, :2], x[:, :, ::2, ::2])
    assert not y[:, 2:].any()


@pytest.mark.parametrize(
    ("piece", "message"),
    [
        (part("resnet81"), r"model: 'resnet81' is not known, did you mean 'resnet18'\?; allowed: cnn, lenet5, mlp, resnet18, resnet20, w"),
        (part("cnn", norm="group"), r"model\.norm: unknown key"),
        (part("resnet20", norm="layer"), r"model\.norm: 'layer' is not allowed"),
        (part("resnet20", groups=3), r"model\.groups: 3 is not allowed"),
        (part("no_such_module:net"), r"model: 'no_such_module:net' is not allowed: there is no module no_such_module; searched "),
        (part("torch.nn:NoSuchNet"), r"model: 'torch.nn:NoSuchNet' is not allowed: .*torch/nn/__init__\.py has no NoSuchNet"),
        (part(":net"), "is written module:attribute"),
        (part(".relative:net"), "is written module:attribute"),
    ],
)
def test_wrong_models(piece: Component, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create(piece)


def test_factory_from_elsewhere(elsewhere: str) -> None:
    assert count(create(part(f"{elsewhere}:wide"), (1, 2, 2), 5)) == 3 * 4 + 3 + 5 * 3 + 5
    assert count(create(part(f"{elsewhere}:wide", width=1), (1, 2, 2), 5)) == 4 + 1 + 5 + 5
    with pytest.raises(ConfigError, match=r"model\.widht: unknown key, did you mean 'width'"):
        create(part(f"{elsewhere}:wide", widht=1))
    with pytest.raises(ConfigError, match=r"makes a int, not a torch\.nn\.Module"):
        create(part(f"{elsewhere}:no_module"))


def test_broken_module_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_model.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="no_such_dependency"):
        create(part("broken_model:net"))


def test_settings_of_the_table_are_validated() -> None:
    assert registry.resolve(architectures.MODELS, part("resnet20"), "model") == {"norm": "group", "groups": 2}
