"""The networks of SIFA (Chen et al., IEEE TMI 2020, section III-D and Fig. 2).

| role                                  | symbol     | maps                                                     |
|---------------------------------------|------------|----------------------------------------------------------|
| `Generator`                           | G_t        | source slice -> target-like slice                        |
| `Encoder`                             | E          | slice -> features, and lower features for the second tap |
| `Decoder`                             | U          | features -> source-like slice                            |
| `Classifier`                          | C1, C2     | features -> class logits at the slice's size             |
| `Discriminator`                       | D_t ... D_p | slice or logits -> map of real/fake scores               |

Shapes are given for a batch of B slices of H x W pixels (multiples of 8), one channel, values in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from .batch_norm import BatchNorm

ENCODER_STRIDE = 8


def scaled(channels: int, width: float) -> int:
    """Scale a number of channels by `width`, to a multiple of 4 so that the zero-padding of shortcuts splits evenly."""
    return max(4, 4 * round(channels * width / 4))


class InstanceNorm(nn.InstanceNorm2d):
    """Instance normalisation (eps 1e-6) with scale and shift.

    On a CPU it runs as batch norm on one slice at a time, which is equivalent. Torch's instance norm gives up the
    channels-last layout in which the surrounding convolutions are fastest, and takes several times as long; so does
    its group norm, most of all in bfloat16.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cpu:
            return torch.cat([self._of_one(one) for one in x.split(1)])
        return super().forward(x)

    def _of_one(self, x: Tensor) -> Tensor:
        return functional.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)


def _initialise(module: nn.Module, sigma: float) -> None:
    """Initialise all convolutions: weights from a normal distribution truncated at two sigma, biases at zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.trunc_normal_(layer.weight, std=sigma, a=-2 * sigma, b=2 * sigma)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each followed by normalisation, with ReLU between them and after the sum.

    Where the number of channels grows, the shortcut is padded with zero channels, half of them on either side.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        norm: type[nn.Module] | None = None,
        *,
        dilation: int = 1,
        bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        make_norm = norm or InstanceNorm

        def convolution(channels: int) -> nn.Conv2d:
            return nn.Conv2d(channels, outputs, 3, padding=dilation, dilation=dilation, bias=bias)

        self.first, self.first_norm = convolution(inputs), make_norm(outputs)
        self.second, self.second_norm = convolution(outputs), make_norm(outputs)
        self.dropout = nn.Dropout(dropout)
        self.padding = (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.first_norm(self.dropout(self.first(x))))
        y = self.second_norm(self.dropout(self.second(y)))
        shortcut = functional.pad(x, (0, 0, 0, 0, self.padding, self.padding)) if self.padding else x
        return functional.relu(y + shortcut)


class Generator(nn.Module):
    """G_t: translates a source slice to the target's appearance; the CycleGAN generator with 9 residual blocks.

    (B, 1, H, W) -> (B, 1, H, W), both in [-1, 1]. Its output is added to its input, so it starts near the identity.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        c1, c2, c3 = (scaled(c, width) for c in (32, 64, 128))
        self.body = nn.Sequential(
            nn.Conv2d(1, c1, 7, padding=3), InstanceNorm(c1), nn.ReLU(),
            nn.Conv2d(c1, c2, 3, stride=2, padding=1), InstanceNorm(c2), nn.ReLU(),
            nn.Conv2d(c2, c3, 3, stride=2, padding=1), InstanceNorm(c3), nn.ReLU(),
            *(ResidualBlock(c3, c3, bias=True) for _ in range(9)),
            nn.ConvTranspose2d(c3, c2, 3, stride=2, padding=1, output_padding=1), InstanceNorm(c2), nn.ReLU(),
            nn.ConvTranspose2d(c2, c1, 3, stride=2, padding=1, output_padding=1), InstanceNorm(c1), nn.ReLU(),
            nn.Conv2d(c1, 1, 7, padding=3),
        )  # fmt: skip
        _initialise(self, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x + self.body(x))


class Encoder(nn.Module):
    """E: computes the features shared by image alignment, feature alignment and segmentation.

    (B, 1, H, W) -> features (B, 512 w, H/8, W/8) for C1 and U, and lower features of the same shape for C2; w: width.
    C16, R16, M, R32, M, 2 R64, M, 2 R128, 4 R256, 2 R512 (lower tap), 2 D512 (dilation 2), 2 C512 (section III-D).
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        c16, c32, c64, c128, c256, c512 = (scaled(c, width) for c in (16, 32, 64, 128, 256, 512))
        self.channels = c512
        pool = nn.MaxPool2d(2)
        self.lower = nn.Sequential(
            nn.Conv2d(1, c16, 7, padding=3, bias=False), BatchNorm(c16), nn.ReLU(),
            ResidualBlock(c16, c16, BatchNorm), pool,
            ResidualBlock(c16, c32, BatchNorm), pool,
            ResidualBlock(c32, c64, BatchNorm), ResidualBlock(c64, c64, BatchNorm), pool,
            ResidualBlock(c64, c128, BatchNorm), ResidualBlock(c128, c128, BatchNorm),
            ResidualBlock(c128, c256, BatchNorm), *(ResidualBlock(c256, c256, BatchNorm) for _ in range(3)),
            ResidualBlock(c256, c512, BatchNorm), ResidualBlock(c512, c512, BatchNorm),
        )  # fmt: skip
        self.upper = nn.Sequential(
            *(ResidualBlock(c512, c512, BatchNorm, dilation=2) for _ in range(2)),
            nn.Conv2d(c512, c512, 3, padding=1, bias=False), BatchNorm(c512), nn.ReLU(),
            nn.Conv2d(c512, c512, 3, padding=1, bias=False), BatchNorm(c512), nn.ReLU(),
        )  # fmt: skip
        _initialise(self, 0.01)
        self._norms = [layer for layer in self.modules() if isinstance(layer, BatchNorm)]

    def forward(self, x: Tensor, tracking: bool = False) -> tuple[Tensor, Tensor]:
        """Return features and lower features; with `tracking`, this batch updates batch norm's running statistics."""
        for norm in self._norms:
            norm.tracking = tracking
        lower = self.lower(x)
        return self.upper(lower), lower


class Decoder(nn.Module):
    """U: turns features into a source-like slice; E and U together are the generator from target to source.

    Features (B, 512 w, H/8, W/8) and the slice (B, 1, H, W) they were encoded from -> (B, 1, H, W) in [-1, 1].
    """

    def __init__(self, features: int, width: float = 1.0, dropout: float = 0.25) -> None:
        super().__init__()
        c32, c64, c128 = (scaled(c, width) for c in (32, 64, 128))
        residual = nn.Sequential(*(ResidualBlock(c128, c128, dropout=dropout) for _ in range(4)))
        self.body = nn.Sequential(
            nn.Conv2d(features, c128, 3, padding=1, bias=False), InstanceNorm(c128), nn.ReLU(),
            residual,
            nn.ConvTranspose2d(c128, c64, 3, stride=2, padding=1, output_padding=1), InstanceNorm(c64), nn.ReLU(),
            nn.ConvTranspose2d(c64, c64, 3, stride=2, padding=1, output_padding=1), InstanceNorm(c64), nn.ReLU(),
            nn.ConvTranspose2d(c64, c32, 3, stride=2, padding=1, output_padding=1), InstanceNorm(c32), nn.ReLU(),
            nn.Conv2d(c32, 1, 7, padding=3, bias=False),
        )  # fmt: skip
        _initialise(self, 0.02)
        _initialise(residual, 0.01)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        return torch.tanh(skip + self.body(features))


class Classifier(nn.Module):
    """C1 and C2: map features (B, C, H/8, W/8) to class logits (B, K, H, W), where K includes the background.

    Upsampling uses half-pixel centres, so mirrored features give mirrored logits.
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(features, classes, 1, bias=False)
        _initialise(self, 0.01)

    def forward(self, features: Tensor) -> Tensor:
        logits = self.convolution(features)
        return functional.interpolate(logits, scale_factor=ENCODER_STRIDE, mode="bilinear", align_corners=False)


class Discriminator(nn.Module):
    """D: a PatchGAN that scores overlapping patches of 70 x 70 pixels.

    (B, inputs, H, W) -> (B, outputs, h, w); 35 x 35 scores for 256 x 256 pixels. The first layer is not normalised.
    """

    def __init__(self, inputs: int, outputs: int = 1, width: float = 1.0) -> None:
        super().__init__()
        c64, c128, c256, c512 = (scaled(c, width) for c in (64, 128, 256, 512))

        def convolution(before: int, after: int, stride: int) -> nn.Conv2d:
            return nn.Conv2d(before, after, 4, stride=stride, padding=2, bias=False)

        self.body = nn.Sequential(
            convolution(inputs, c64, 2), nn.LeakyReLU(0.2),
            convolution(c64, c128, 2), InstanceNorm(c128), nn.LeakyReLU(0.2),
            convolution(c128, c256, 2), InstanceNorm(c256), nn.LeakyReLU(0.2),
            convolution(c256, c512, 1), InstanceNorm(c512), nn.LeakyReLU(0.2),
            convolution(c512, outputs, 1),
        )  # fmt: skip
        _initialise(self, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.body(x)
        return scores


class Networks(nn.Module):
    """All nine networks of SIFA.

    Args:
        classes: K, the number of structures plus the background.
        width: Number of channels as a fraction of the paper's.
        decoder_dropout: Dropout probability in the residual blocks of U during training.
    """

    def __init__(self, classes: int, width: float = 1.0, decoder_dropout: float = 0.25) -> None:
        super().__init__()
        self.generator = Generator(width)
        self.encoder = Encoder(width)
        self.decoder = Decoder(self.encoder.channels, width, decoder_dropout)
        self.classifier = Classifier(self.encoder.channels, classes)
        self.lower_classifier = Classifier(self.encoder.channels, classes)
        self.target_discriminator = Discriminator(1, 1, width)
        self.source_discriminator = Discriminator(1, 2, width)
        self.prediction_discriminator = Discriminator(classes, 1, width)
        self.lower_prediction_discriminator = Discriminator(classes, 1, width)

    def segmentation_network(self) -> SegmentationNetwork:
        """Return E and C1, not copied, as the network that is averaged and exported."""
        return SegmentationNetwork(self.encoder, self.classifier)

    def segmentor_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of E, C1 and C2, which share one optimiser."""
        return [
            *self.encoder.parameters(),
            *self.classifier.parameters(),
            *self.lower_classifier.parameters(),
        ]


class SegmentationNetwork(nn.Module):
    """E, C1 and softmax: the part of the networks that segments.

    (B, 1, H, W) -> (B, K, H, W) with sum 1, in at least float32: bfloat16 can't resolve probabilities close to 1.
    """

    def __init__(self, encoder: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        features, _ = self.encoder(x)
        logits = self.classifier(features)
        return torch.softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), 1)


class Ensemble(nn.Module):
    """Mean of the probabilities of several models: (B, 1, H, W) -> (B, K, H, W) with sum 1."""

    def __init__(self, members: Iterable[SegmentationNetwork]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members]).mean(0)


@torch.no_grad()
def reestimate_batch_norm(encoder: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics of `encoder` by the average statistics of `batches` of slices (B, 1, H, W).

    The exported model normalises by these. Unlike the running averages of training, which reflect only its last few
    batches, they use the final weights and as many slices of one domain as are given.
    """
    norms = [layer for layer in encoder.modules() if isinstance(layer, BatchNorm)]
    was_training = encoder.training
    encoder.train()
    for seen, batch in enumerate(batches):
        for norm in norms:
            norm.momentum = 1 / (seen + 1)
        encoder(batch, tracking=True)
    for norm in norms:
        norm.momentum = 0.1
    encoder.train(was_training)
