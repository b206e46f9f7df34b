"""Ten procedural textures (gratings: 5 orientations x 2 spatial frequencies) and how they meet an image.

Only additions and multiplications reach a pixel, so a sample has the same bits in any batch and on any device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genxai.data.factors import NUM_TEXTURES as NUM_TEXTURES
from genxai.data.factors import aligned_texture as aligned_texture

#: side of the picture in which the frequencies below are stated [px]
REFERENCE_SIZE = 28
#: texture a has orientation a % 5 and frequency a // 5
ORIENTATIONS = (0.0, 36.0, 72.0, 108.0, 144.0)  # of the frequency vector, from the x axis towards y [degrees]
FREQUENCIES = (0.125, 0.25)  # [cycles / px at REFERENCE_SIZE]
JITTER_DEGREES = 4.0  # a sample's orientation is off by at most this
SWATCH_SIZE = 4  # side of the patch of mode "patch" [px at REFERENCE_SIZE]

# sin(2 pi t) = t (c0 + c1 t^2 + ...), Taylor to t^11; on |t| <= 1/4 the error is below 6e-8
_SINE = tuple((-1) ** k * math.tau ** (2 * k + 1) / math.factorial(2 * k + 1) for k in range(6))


def texture_frequencies(image_size: int = REFERENCE_SIZE) -> Tensor:
    """The frequency vector (f_y, f_x) of each texture without jitter, float32 [10, 2], in cycles per pixel.

    At 28 px the frequencies are FREQUENCIES; at other sizes the picture looks alike, so they scale with 28 / size.
    """
    angles = [math.radians(degrees) for _ in FREQUENCIES for degrees in ORIENTATIONS]
    lengths = [f * REFERENCE_SIZE / image_size for f in FREQUENCIES for _ in ORIENTATIONS]
    vectors = [(f * math.sin(angle), f * math.cos(angle)) for f, angle in zip(lengths, angles, strict=True)]
    return torch.tensor(vectors, dtype=torch.float32)


def cosine_of_turns(turns: Tensor) -> Tensor:
    """cos(2 pi t) to about 1e-7, bit-identical wherever it is computed (a library's cosine is not)."""
    quarter = 0.25 - (turns - turns.round()).abs()
    square = quarter * quarter
    total = torch.full_like(square, _SINE[-1])
    for coefficient in reversed(_SINE[:-1]):
        total = total * square + coefficient
    return total * quarter


def render(textures: Tensor, phase: Tensor, jitter: Tensor, size: int = REFERENCE_SIZE) -> Tensor:
    """Gratings t = (1 + sin(2 pi (f_y v + f_x u + phase))) / 2 in [0, 1], float32 [B, 1, size, size].

    textures: int64 [B] in 0..9. phase: float32 [B] in turns (1 is a whole period). jitter: float32 [B] in [-1, 1],
    in units of JITTER_DEGREES. (v, u): the pixel centre, in pixels of the 28-px picture.
    """
    f_y, f_x = _jittered(textures, jitter)
    centres = (torch.arange(size, device=textures.device) + 0.5) * (REFERENCE_SIZE / size)
    # sin(v + u) = sin v cos u + cos v sin u needs 4 size values per sample instead of size^2
    along_y = f_y[:, None] * centres + phase[:, None]
    along_x = f_x[:, None] * centres
    both = torch.stack([along_y - 0.25, along_y, along_x, along_x - 0.25])
    sine_y, cosine_y, cosine_x, sine_x = cosine_of_turns(both).unbind()
    waves = sine_y[:, :, None] * cosine_x[:, None, :] + cosine_y[:, :, None] * sine_x[:, None, :]
    return waves.mul_(0.5).add_(0.5).clamp_(0.0, 1.0)[:, None]


def _jittered(textures: Tensor, jitter: Tensor) -> tuple[Tensor, Tensor]:
    """(f_y, f_x) in cycles per pixel at 28 px, each [B]."""
    count = len(ORIENTATIONS)
    angle = (textures % count) * (ORIENTATIONS[1] / 360.0) + jitter * (JITTER_DEGREES / 360.0)
    low, high = FREQUENCIES
    length = low + (textures // count) * (high - low)
    return length * cosine_of_turns(angle - 0.25), length * cosine_of_turns(angle)


def swatch(corners: Tensor, size: int = REFERENCE_SIZE) -> Tensor:
    """The patch of mode "patch", bool [B, 1, size, size]: 4x4 px (at 28 px) in corner 0..3 (top left, top right,
    bottom left, bottom right)."""
    side = max(1, round(SWATCH_SIZE * size / REFERENCE_SIZE))
    place = torch.arange(size, device=corners.device)
    near, far = place < side, place >= size - side
    rows = torch.where((corners >= 2)[:, None], far, near)
    columns = torch.where((corners % 2 == 1)[:, None], far, near)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def compose(
    images: Tensor,
    masks: Tensor,
    textures: Tensor,
    phase: Tensor,
    jitter: Tensor,
    corners: Tensor,
    *,
    mode: str,
    amplitude: float,
) -> tuple[Tensor, Tensor]:
    """Textured images, float32 [B, 1, H, W] in [0, 1], and the mask of what still shows the object, bool [B, 1, H, W].

    images: float32 [B, 1, H, H] in [0, 1]. masks: S, bool of the same shape. textures, corners: int64 [B].
    phase, jitter: as in `render`. With t the grating and A the amplitude:

    * background: x outside S becomes x + (1 - x) A t; inside S it is x. The texture is spatially separable.
    * overlay: (1 - A) x + A t everywhere, inside S too: nothing that only knows S can tell it apart.
    * patch: a corner swatch of shade (255 - 25 a) / 255 (Decoy-MNIST, with a for y); S loses what it covers.
    * none: x.

    Raises ValueError for another mode.
    """
    if mode == "none":
        return images, masks
    size = images.shape[-1]
    if mode == "patch":
        patch = swatch(corners, size)
        shade = (255 - 25 * textures) * (1 / 255)
        return torch.where(patch, shade[:, None, None, None], images), masks & ~patch
    grating = render(textures, phase, jitter, size).mul_(amplitude)
    if mode == "background":
        return torch.where(masks, images, images + (1.0 - images) * grating), masks
    if mode == "overlay":
        return images * (1.0 - amplitude) + grating, masks
    raise ValueError(f"unknown mode {mode!r}: background, overlay, patch or none")
