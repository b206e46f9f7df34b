"""What a person looks at: a grid of generated samples and attribution maps laid over their images."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from genxai.data import TexMM
from genxai.files import make_folder, write_atomic
from genxai.models import FusionClassifier, evaluating
from genxai.training.draws import Draws
from genxai.training.evaluation import explain, full_size_maps
from genxai.training.experiment import Experiment

ROWS, COLUMNS = 8, 10
#: pictures are enlarged to about this many pixels per image
SIDE = 56
OUTLINE = torch.tensor([0.1, 0.9, 0.3])


def write_pictures(experiment: Experiment, classifier: FusionClassifier, folder: Path, step: int) -> None:
    """samples-<step>.png (one class a column) and attribution-<step>.png (image, map, map outside the mask in red)."""
    make_folder(folder)
    if experiment.generation is not None:
        _save(folder / f"samples-{step:07d}.png", generated_grid(experiment))
    if experiment.config.model.fusion != "text":
        _save(folder / f"attribution-{step:07d}.png", attribution_overlays(experiment, classifier))


@torch.no_grad()
def generated_grid(experiment: Experiment) -> Tensor:
    """RGB [3, H, W]: the averaged generator's samples from fixed latents, one class a column."""
    count, device = ROWS * COLUMNS, experiment.device
    labels = torch.arange(count, device=device) % COLUMNS
    draws = Draws(experiment.config.seed, count, count, torch.arange(count, device=device))
    with evaluating(experiment.average):
        (latents,) = draws.latents("picture", experiment.config.model.gan.latent_dim, 0)
        images = experiment.average(latents, labels)
    return _tile(images.expand(-1, 3, -1, -1), COLUMNS)


def attribution_overlays(experiment: Experiment, classifier: FusionClassifier) -> Tensor:
    """RGB [3, H, W]: validation images above their maps, the true mask outlined in green."""
    data = TexMM(experiment.config, "val", experiment.device)
    sample = data.batch(torch.arange(min(2 * COLUMNS, len(data)), device=experiment.device))
    with evaluating(classifier):
        maps = full_size_maps(explain(classifier, sample, experiment.config.explain.method), sample.images)
    images = sample.images.expand(-1, 3, -1, -1)
    heat = torch.stack([maps, maps.square(), torch.zeros_like(maps)], 1)
    overlay = 0.35 * images + 0.65 * heat
    mask = sample.masks.float()
    edge = torch.nn.functional.max_pool2d(mask, 3, 1, 1) - mask
    overlay = overlay * (1 - edge) + edge * OUTLINE.to(overlay.device).view(1, 3, 1, 1)
    rows = [
        part
        for start in range(0, len(images), COLUMNS)
        for part in (images[start:][:COLUMNS], overlay[start:][:COLUMNS])
    ]
    return torch.cat([_tile(row, COLUMNS) for row in rows], dim=1)


def _tile(images: Tensor, columns: int, gap: int = 2) -> Tensor:
    """[N, 3, h, w] in rows of `columns`, light gaps between them."""
    scale = max(1, round(SIDE / images.shape[-1]))
    images = images.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    images = torch.nn.functional.pad(images, (0, gap, 0, gap), value=0.6)
    missing = -len(images) % columns
    images = torch.cat([images, images.new_full((missing, *images.shape[1:]), 0.6)])
    rows = [torch.cat(list(row), dim=2) for row in images.split(columns)]
    return torch.cat(rows, dim=1)


def _save(path: Path, picture: Tensor) -> None:
    pixels = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    write_atomic(path, buffer.getvalue())
