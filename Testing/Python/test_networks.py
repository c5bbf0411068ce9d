"""The networks against the numbers of the paper and of the authors' code."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from SIFATrainingLib.networks import (
    BatchNorm,
    Classifier,
    Decoder,
    Discriminator,
    Encoder,
    Generator,
    InstanceNorm,
    Networks,
    ResidualBlock,
    reestimate_batch_norm,
)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def networks() -> Networks:
    """Networks of full width without values, to count parameters."""
    with torch.device("meta"):
        return Networks(classes=5)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("generator", 2_849_537),
        ("encoder", 27_517_424),
        ("decoder", 1_902_848),
        ("classifier", 2_560),
        ("lower_classifier", 2_560),
        ("target_discriminator", 2_763_520),
        ("source_discriminator", 2_771_712),
        ("prediction_discriminator", 2_767_616),
        ("lower_prediction_discriminator", 2_767_616),
    ],
)
def test_parameters_at_full_width(networks: Networks, name: str, parameters: int) -> None:
    assert count(networks.get_submodule(name)) == parameters


def test_parameters_in_all_and_at_test_time(networks: Networks) -> None:
    assert count(networks) == 43_345_393
    assert count(networks.encoder) + count(networks.classifier) == 27_519_984


def test_features_are_an_eighth_of_the_slice_and_images_its_size() -> None:
    networks = Networks(classes=5, width=0.125).eval()
    x = torch.rand(2, 1, 64, 48) * 2 - 1
    features, lower = networks.encoder(x)
    assert features.shape == lower.shape == (2, 64, 64 // 8, 48 // 8)
    assert networks.classifier(features).shape == (2, 5, 64, 48)
    for image in (networks.generator(x), networks.decoder(features, x)):
        assert image.shape == x.shape
        assert image.abs().max() <= 1


def test_generator_and_decoder_add_to_their_input() -> None:
    x = torch.rand(1, 1, 32, 32) * 2 - 1
    generator, decoder = Generator(0.125), Decoder(16, 0.125)
    for network in (generator, decoder):
        for parameter in network.body[-1].parameters():
            nn.init.zeros_(parameter)
    assert torch.equal(generator(x), torch.tanh(x))
    assert torch.equal(decoder(torch.rand(1, 16, 4, 4), x), torch.tanh(x))


def test_a_score_of_the_discriminator_sees_70_by_70_pixels() -> None:
    discriminator = Discriminator(1, 1, width=0.0625)
    # Through instance norm, every score depends on every pixel; without it, the receptive field shows.
    for name, module in list(discriminator.body.named_children()):
        if isinstance(module, nn.InstanceNorm2d):
            discriminator.body[int(name)] = nn.Identity()
    x = torch.rand(1, 1, 256, 256, requires_grad=True)
    scores = discriminator(x)
    assert scores.shape == (1, 1, 35, 35)
    (gradient,) = torch.autograd.grad(scores[0, 0, 17, 17], x)
    rows, columns = torch.nonzero(gradient[0, 0], as_tuple=True)
    assert (int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1) == (70, 70)


def test_a_wider_block_pads_its_shortcut_with_zeros_on_both_sides() -> None:
    block = ResidualBlock(4, 8).eval()
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    x = torch.rand(1, 4, 5, 5)
    y = block(x)
    assert torch.equal(y[:, 2:6], x)
    assert not y[:, :2].any()
    assert not y[:, 6:].any()


def test_a_mirrored_slice_gives_the_mirrored_upsampling() -> None:
    classifier = Classifier(4, 3)
    features = torch.rand(1, 4, 6, 6)
    assert torch.allclose(classifier(features.flip(3)), classifier(features).flip(3), atol=1e-6)


def test_running_statistics_move_only_when_told() -> None:
    encoder = Encoder(0.0625).train()
    norm = next(m for m in encoder.modules() if isinstance(m, BatchNorm))
    assert norm.running_mean is not None
    before = norm.running_mean.clone()
    encoder(torch.rand(2, 1, 32, 32))
    assert torch.equal(norm.running_mean, before)
    encoder(torch.rand(2, 1, 32, 32), tracking=True)
    assert not torch.equal(norm.running_mean, before)


def test_batch_norm_is_that_of_torch() -> None:
    ours, theirs = BatchNorm(3).train(), nn.BatchNorm2d(3, eps=1e-3, momentum=0.1).train()
    ours.tracking = True
    x = torch.randn(4, 3, 5, 5) * 2 + 1
    assert torch.allclose(ours(x), theirs(x))
    assert ours.running_var is not None
    assert theirs.running_var is not None
    assert torch.allclose(ours.running_var, theirs.running_var)
    assert torch.allclose(ours.eval()(x), theirs.eval()(x))


def test_reestimation_averages_the_statistics_of_all_batches() -> None:
    encoder = Encoder(0.0625)
    first = encoder.lower[0]
    norm = encoder.lower[1]
    batches = [torch.rand(3, 1, 32, 32) + k for k in range(3)]
    reestimate_batch_norm(encoder, batches)
    expected = torch.stack([first(batch).mean((0, 2, 3)) for batch in batches]).mean(0)
    assert isinstance(norm, BatchNorm)
    assert norm.running_mean is not None
    assert torch.allclose(norm.running_mean, expected, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_decoder_drops_features_in_training_alone(training: bool) -> None:
    decoder = Decoder(16, 0.125, dropout=0.5).train(training)
    features, skip = torch.rand(1, 16, 4, 4), torch.zeros(1, 1, 32, 32)
    assert torch.equal(decoder(features, skip), decoder(features, skip)) != training


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_instance_norm_is_torchs_and_keeps_the_layout(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    ours, theirs = InstanceNorm(6).double(), nn.InstanceNorm2d(6, eps=1e-6, affine=True).double()
    for norm in (ours, theirs):
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(0.5, 2, 6))
            norm.bias.copy_(torch.linspace(-1, 1, 6))
    x = torch.randn(3, 6, 9, 7, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    weights = torch.randn(3, 6, 9, 7, dtype=torch.float64)
    found, expected = ours(x), theirs(x)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous(memory_format=layout)
    gradients = [
        torch.autograd.grad((y * weights).sum(), [x, norm.weight, norm.bias])
        for y, norm in ((found, ours), (expected, theirs))
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_dilations_slopes_and_initial_weights_are_the_authors() -> None:
    networks = Networks(5)
    assert {block.first.dilation for block in networks.encoder.upper[:2]} == {(2, 2)}
    assert {layer.negative_slope for layer in networks.modules() if isinstance(layer, nn.LeakyReLU)} == {0.2}
    sigmas = {
        "generator": 0.02, "encoder": 0.01, "decoder.body.0": 0.02, "decoder.body.3": 0.01, "classifier": 0.01,
        "target_discriminator": 0.02,
    }  # fmt: skip
    for name, sigma in sigmas.items():
        drawn = torch.cat([p.flatten() for p in networks.get_submodule(name).parameters() if p.ndim > 1])
        # Drawn from a normal distribution truncated at two standard deviations.
        assert drawn.abs().max() <= 2 * sigma, name
        assert drawn.std().item() == pytest.approx(0.88 * sigma, rel=0.05), name


def test_the_upsampling_has_half_pixel_centres() -> None:
    classifier = Classifier(1, 1)
    nn.init.ones_(classifier.convolution.weight)
    ramp = classifier(torch.arange(6.0).expand(1, 1, 6, 6))[0, 0, 0]
    assert torch.allclose(ramp, ((torch.arange(48) + 0.5) / 8 - 0.5).clamp(0, 5), atol=1e-5)


def test_multiplications_are_those_of_the_paper() -> None:
    """Billions of multiplications of each network for one slice of 256 x 256 (method, section 2)."""
    with torch.device("meta"):
        n = Networks(5)
        x, features = torch.empty(1, 1, 256, 256), torch.empty(1, 512, 32, 32)
    counted: list[int] = []

    def count(layer: nn.Module, given: tuple[torch.Tensor], made: torch.Tensor) -> None:
        places = given[0] if isinstance(layer, nn.ConvTranspose2d) else made
        counted.append(places[0, 0].numel() * layer.weight.numel())

    for layer in n.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_hook(count)
    for network, given, expected in (
        (n.generator, (x,), 12.285), (n.encoder, (x,), 29.118), (n.decoder, (features, x), 2.443),
        (n.target_discriminator, (x,), 3.576),
    ):  # fmt: skip
        counted.clear()
        network(*given)
        assert sum(counted) / 1e9 == pytest.approx(expected, abs=6e-4)
