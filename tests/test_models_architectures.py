"""Every model has the sizes it is known by, takes the options it declares, and trains deterministically."""

import hashlib

import pytest
import torch
from law_cases import each
from safetensors.torch import save_file

from lossbench.errors import UserError
from lossbench.models.base import MODELS, build, check
from lossbench.recipe import Compute, Network
from lossbench.training.determinism import deterministic

GREY, COLOUR = (1, 28, 28), (3, 32, 32)
SMALL = [
    ({"name": "simple_cnn"}, (1, 8, 8)),
    ({"name": "simple_cnn", "dropout": 0.5, "hidden": 0}, COLOUR),
    ({"name": "mnist_cnn"}, GREY),
    ({"name": "lenet", "dropout": 0.2}, GREY),
    ({"name": "resnet", "depth": 9, "width": 4}, COLOUR),
    ({"name": "resnet", "depth": 18, "width": 4}, COLOUR),
    ({"name": "airbench", "width": 4}, COLOUR),
    ({"name": "airbench", "width": 4, "test_time_flip": False}, (1, 9, 9)),
    ({"name": "torchvision", "architecture": "squeezenet1_1"}, (1, 32, 32)),
    ({"name": "autoencoder", "width": 4}, COLOUR),
    ({"name": "unet", "width": 4}, COLOUR),
    ({"name": "unet", "width": 2, "depth": 3, "up": "nearest", "norm": False, "convolutions": 1}, COLOUR),
]


def make(network, shape, outputs=5, seed=0):
    torch.manual_seed(seed)
    return build(Network(**network), shape, outputs)


def parameters(model) -> int:
    return sum(one.numel() for one in model.parameters())


@each(("network", "shape"), SMALL)
def test_outputs_have_the_promised_shape_and_training_repeats_to_the_bit(network, shape):
    def step():
        model = make(network, shape).train()
        torch.manual_seed(1)
        outputs = model(torch.randn(4, *shape, generator=torch.Generator().manual_seed(2)))
        outputs.square().mean().backward()
        return outputs, [one.grad for one in model.parameters()]

    with deterministic(Compute()):
        (first, gradients), (again, others) = step(), step()
    spatial = shape[1:] if network["name"] in ("unet", "autoencoder") else ()
    assert first.shape == (4, 5, *spatial)
    assert torch.equal(first, again)
    assert all(map(torch.equal, gradients, others))


def test_every_registered_model_is_tested_here():
    elsewhere = {"lstm", "grid_detector"}  # in test_language_model.py and test_detection_model.py
    assert {network["name"] for network, _ in SMALL} | elsewhere == set(MODELS)


def test_the_heads_see_the_sizes_that_follow_from_the_layers():
    cifar = make({"name": "simple_cnn", "width": 64, "layers": 1, "padding": 0, "hidden": 0}, COLOUR, 10)
    assert cifar[-1].in_features == 64 * 15 * 15
    assert parameters(cifar) == (3 * 9 * 64 + 64) + (64 * 15 * 15 * 10 + 10)
    assert make({"name": "lenet"}, GREY)[7].in_features == 64 * 5 * 5
    assert make({"name": "mnist_cnn"}, GREY)[4].in_features == 32 * 13 * 13


def test_no_model_ends_in_a_softmax():
    for network, shape in SMALL:
        outputs = make(network, shape).eval()(torch.randn(2, *shape))
        assert not torch.allclose(outputs.sum(1), torch.ones(()), atol=1e-3)


def test_the_residual_network_of_18_layers_has_the_known_size():
    assert parameters(make({"name": "resnet"}, COLOUR, 10)) == 11_173_962


def test_a_u_net_sees_the_whole_image_and_keeps_its_resolution():
    model = make({"name": "unet", "width": 4, "depth": 2}, COLOUR).eval()
    image = torch.zeros(1, 3, 32, 32)
    other = image.clone()
    other[0, :, 5, 7] = 10.0
    change = (model(image) - model(other)).abs().sum((0, 1))
    assert change[5, 7] > 0
    assert change[31, 31] == 0 or change[31, 31] < change[5, 7]


@each(
    ("network", "words"),
    [
        ({"name": "unett"}, "unett.*did you mean 'unet'"),
        ({"name": "unet", "widht": 4}, "model.widht.*did you mean 'width'"),
        ({"name": "unet", "width": 0}, "model.width"),
        ({"name": "unet", "up": "bilinear"}, "model.up"),
        ({"name": "lenet", "dropout": 1.5}, "model.dropout"),
        ({"name": "resnet", "depth": 34}, "model.depth"),
    ],
)
def test_a_wrong_name_or_option_is_refused_with_its_key(network, words):
    with pytest.raises(UserError, match=words):
        check(Network(**network), "model")


@each(
    ("network", "shape", "words"),
    [
        ({"name": "unet", "depth": 3}, (1, 28, 28), r"divisible by 8; found 28×28"),
        ({"name": "simple_cnn", "layers": 4}, (1, 8, 8), r"'model\.layers' is 4"),
        ({"name": "torchvision", "architecture": "resnet1"}, COLOUR, "did you mean 'resnet1"),
        ({"name": "airbench"}, (3, 8, 32), r"images of 8×32; allowed: images of 9×9"),
        ({"name": "torchvision"}, (4, 32, 32), "1 or 3 channels, found 4"),
        ({"name": "torchvision", "weights": "x.pt"}, COLOUR, "without 'model.sha256'"),
        ({"name": "torchvision", "weights": "x.pt", "sha256": "0"}, COLOUR, "x.pt, which cannot be read"),
    ],
)
def test_a_model_that_does_not_fit_the_data_is_refused(network, shape, words):
    with pytest.raises(UserError, match=words):
        make(network, shape)


@pytest.fixture
def pretrained(tmp_path):
    """A squeezenet for 9 classes, as a file of either kind."""
    state = make({"name": "torchvision", "architecture": "squeezenet1_1"}, COLOUR, 9, seed=7).state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    torch.save(state, tmp_path / "weights.pt")
    return tmp_path, state


def named(file) -> dict[str, str]:
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    return {"name": "torchvision", "architecture": "squeezenet1_1", "weights": str(file), "sha256": sha256}


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_pretrained_weights_come_from_a_local_file_and_the_head_is_new(pretrained, kind):
    folder, state = pretrained
    network = named(folder / f"weights.{kind}")
    model = make(network, COLOUR, 5)
    assert torch.equal(model.state_dict()["features.0.weight"], state["features.0.weight"])
    assert model.state_dict()["classifier.1.weight"].shape[0] == 5
    same = make(network, COLOUR, 9)
    assert torch.equal(same.state_dict()["classifier.1.weight"], state["classifier.1.weight"])


def test_a_changed_file_of_weights_is_refused(pretrained):
    file = pretrained[0] / "weights.pt"
    network = named(file)
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(UserError, match=r"'model\.sha256' is"):
        make(network, COLOUR)


def test_weights_of_another_architecture_are_refused(pretrained):
    network = {**named(pretrained[0] / "weights.pt"), "architecture": "resnet18"}
    with pytest.raises(UserError, match="weight '"):
        make(network, COLOUR)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    file = tmp_path / "weights.pt"
    torch.save({"head": make}, file)
    with pytest.raises(UserError, match="holds no state dict"):
        make(named(file), COLOUR)
