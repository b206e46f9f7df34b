"""Makes the weights of the grey-image extractor anew: `python -m genxai.metrics.make_extractor mnist [FOLDER]`.

A fixed recipe on the clean images of the data set's own training file; its test file only reports.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from torch.nn.utils.fusion import fuse_conv_bn_weights

from genxai.data.sources import load_arrays
from genxai.errors import UsageError
from genxai.files import write_atomic
from genxai.metrics.extractor import BATCH, SIDE, GreyCnn, extractor_name, network_of

SEED = 0
#: images of the training file that are not trained on; whatever is chosen about the recipe is chosen on them
HELD_OUT = 5000


@dataclass(frozen=True)
class Recipe:
    """How a data set's extractor is trained: AdamW under a one-cycle schedule, cross entropy."""

    epochs: int
    flip: bool  # mirror half of the images: garments have no handedness, digits do
    shift: int  # move by up to this in both directions [px]: garments fill the frame, digits do not
    batch: int = 256
    lr: float = 5e-3  # at the top of the cycle
    weight_decay: float = 0.05


RECIPES = {
    "mnist": Recipe(epochs=6, flip=False, shift=2),
    "fashion-mnist": Recipe(epochs=12, flip=True, shift=0),
}


def main() -> None:
    """Train, print the accuracies, write DATASET-cnn.safetensors and DATASET-cnn.json."""
    dataset = sys.argv[1] if len(sys.argv) > 1 else ""
    if dataset not in RECIPES:
        sys.exit(f"usage: python -m genxai.metrics.make_extractor {{{','.join(RECIPES)}}} [FOLDER]")
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).with_name("weights")
    folder.mkdir(parents=True, exist_ok=True)
    weights, record = make(dataset, RECIPES[dataset])
    write_atomic(folder / f"{dataset}-cnn.safetensors", weights)
    write_atomic(folder / f"{dataset}-cnn.json", json.dumps(record, indent=1) + "\n")


def make(dataset: str, recipe: Recipe) -> tuple[bytes, dict[str, Any]]:
    """The weights as a safetensors file, float16, and the record that lies beside it.

    Deterministic on one kind of CPU and one version of torch: single-threaded, everything drawn from SEED. Elsewhere
    the last bits differ, and with them the hash in the extractor's name.
    """
    torch.set_num_threads(1)
    arrays = load_arrays(dataset, "full")
    images, labels = _tensors(arrays.train_images, arrays.train_labels)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SEED))
    held_out, trained_on = order[:HELD_OUT], order[HELD_OUT:]
    started = time.monotonic()
    network = train(images[trained_on], labels[trained_on], recipe)
    seconds = time.monotonic() - started
    weights = save({name: tensor.half() for name, tensor in folded(network).state_dict().items()})
    shipped = network_of(weights)
    accuracies = {
        "held_out_accuracy": accuracy(shipped, images[held_out], labels[held_out]),
        "test_accuracy": accuracy(shipped, *_tensors(arrays.test_images, arrays.test_labels)),
    }
    record = {
        "name": extractor_name(dataset, weights),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "dataset": dataset,
        **accuracies,
        "recipe": {**asdict(recipe), "optimizer": "adamw", "schedule": "one-cycle", "trained_on": len(trained_on)},
        "seed": SEED,
        "held_out": HELD_OUT,
        "data_sha256": dict(arrays.checksums),
        "torch": torch.__version__.split("+")[0],
        "seconds": round(seconds, 1),
    }
    _say(f"{record['name']}: {len(weights)} bytes, {seconds:.0f} s")
    for name, value in accuracies.items():
        _say(f"{name}: {value:.4f}")
    return weights, record


def _tensors(images: Any, labels: Any) -> tuple[Tensor, Tensor]:
    return torch.tensor(images)[:, None], torch.tensor(labels, dtype=torch.int64)


def train(images: Tensor, labels: Tensor, recipe: Recipe) -> GreyCnn:
    """A network trained on images uint8 [N, 1, 28, 28] and labels int64 [N] in 0..9; deterministic."""
    if not len(images):
        raise UsageError("there are no images to train on")
    torch.manual_seed(SEED)
    network = GreyCnn(batch_norm=True).train()
    random = torch.Generator().manual_seed(SEED + 1)
    steps = -(-len(labels) // recipe.batch)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=steps * recipe.epochs)
    for batch in _progress(recipe.epochs, steps, len(labels), recipe.batch, random):
        inputs = augmented(images[batch], recipe, random).float() / 255.0
        loss = cross_entropy(network(inputs)[1], labels[batch])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def _progress(epochs: int, steps: int, count: int, size: int, random: torch.Generator) -> Iterator[Tensor]:
    """The batches of all epochs, with a bar on stderr."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=epochs * steps)
        for _ in range(epochs):
            for batch in torch.randperm(count, generator=random).split(size):
                yield batch
                bar.advance(task)


def augmented(images: Tensor, recipe: Recipe, random: torch.Generator) -> Tensor:
    """Images [B, 1, 28, 28], each moved by up to `shift` pixels with 0 coming in, and mirrored or not."""
    count = len(images)
    padded = pad(images[:, 0], (recipe.shift,) * 4)
    down, right = torch.randint(0, 2 * recipe.shift + 1, (2, count, 1), generator=random)
    rows, columns = torch.arange(SIDE) + down, torch.arange(SIDE) + right
    if recipe.flip:
        mirrored = torch.rand(count, 1, generator=random) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]][:, None]


@torch.no_grad()
def folded(network: GreyCnn) -> GreyCnn:
    """The same function of images without batch norm: each one's scale and shift become part of its convolution."""
    plain = GreyCnn().eval()
    for conv, norm, target in zip(network.convs, network.norms, plain.convs, strict=True):
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and isinstance(target, nn.Conv2d)
        assert norm.running_mean is not None and norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            conv.weight, None, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        target.load_state_dict({"weight": weight, "bias": bias})
    plain.classify.load_state_dict(network.classify.state_dict())
    return plain


@torch.no_grad()
def accuracy(network: GreyCnn, images: Tensor, labels: Tensor) -> float:
    """Share of images uint8 [N, 1, 28, 28] whose most probable class is the label."""
    right = 0
    for part, truth in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        right += int((network(part.float() / 255.0)[1].argmax(1) == truth).sum())
    return right / len(labels)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
