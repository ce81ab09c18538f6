"""A patch embedding that begins as a tower would otherwise have to learn it: with the spectrum of each patch."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.functional import conv2d

#: Luma and the two differences of colour, of RGB (ITU-R BT.601).
_COLOURS = ((0.299, 0.587, 0.114), (-0.169, -0.331, 0.5), (0.5, -0.419, -0.081))
#: Share of the embedding's channels for luma, the others for colour; and of luma's for its lowest frequencies, the
#: others being spread over the higher ones.
_LUMA, _LOWEST = 2 / 3, 3 / 4
#: Deviation of the embedded images in each channel.
_DEVIATION = 0.5
_LEAST = 1e-3


@torch.no_grad()
def embed_spectrum(embedding: nn.Conv2d, images: torch.Tensor) -> None:
    """Set a patch embedding to the discrete cosine transform, each coefficient standardised over `images`.

    Blur, noise and compression show in a patch's spectrum first of all.

    Args:
        embedding: of square patches, three channels in.
        images: in [-1, 1], float32 [n, 3, height, width].
    """
    patch, channels = embedding.kernel_size[0], embedding.out_channels
    luma = round(_LUMA * channels)
    counts = (luma, (channels - luma + 1) // 2, (channels - luma) // 2)
    basis = _cosines(patch)
    filters = []
    for colour, count in zip(torch.tensor(_COLOURS), counts, strict=True):
        for row, column in _frequencies(patch, count):
            waves = torch.outer(basis[row], basis[column])
            filters.append((colour / colour.norm())[:, None, None] * waves)
    weight = torch.stack(filters).to(images)
    found = conv2d(images, weight, stride=patch)
    scale = _DEVIATION / found.std((0, 2, 3)).clamp_min(_LEAST)
    embedding.weight.copy_(weight * scale[:, None, None, None])
    assert embedding.bias is not None
    embedding.bias.copy_(-found.mean((0, 2, 3)) * scale)


def _cosines(size: int) -> torch.Tensor:
    """The orthonormal DCT-II, [frequency, place]."""
    frequency, place = torch.arange(size)[:, None], torch.arange(size)[None]
    basis = torch.cos(math.pi * (2 * place + 1) * frequency / (2 * size)) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis


def _frequencies(patch: int, count: int) -> list[tuple[int, int]]:
    """Rows and columns of so many coefficients; from the beginning again where a patch has fewer."""
    ordered = sorted(
        ((row, column) for row in range(patch) for column in range(patch)), key=lambda each: (sum(each), each)
    )
    lowest = min(round(_LOWEST * count), len(ordered))
    higher = ordered[lowest:]
    spread = [higher[number * len(higher) // (count - lowest)] for number in range(count - lowest)] if higher else []
    chosen = ordered[:lowest] + spread
    return [chosen[number % len(chosen)] for number in range(count)]
