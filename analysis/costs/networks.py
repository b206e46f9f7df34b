"""The networks of a configuration, for counting: random or no weights, nothing downloaded, no data read."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from genxai.config import Config, TextEncoderConfig
from genxai.configfile import set_dotted, validate
from genxai.data.factors import NUM_CLASSES
from genxai.data.tokens import load_vocabulary
from genxai.fairness import BiasReference, Descriptor, build_descriptor
from genxai.models import Critic, FusionClassifier, Generator

#: hub names whose architecture is that of transformers' default BertConfig, so that nobody need be asked
BERT_BASE = ("bert-base-uncased", "google-bert/bert-base-uncased")


@dataclass(frozen=True)
class Networks:
    """What a joint step uses, and the shapes of its batches; tensors are on `device`, perhaps without content."""

    config: Config
    device: torch.device
    generator: Generator
    critic: Critic
    classifier: FusionClassifier
    descriptor: Descriptor
    reference: BiasReference

    @property
    def monitored(self) -> int:
        """Samples of a batch that are explained, as the loop counts them."""
        return self.config.explained_samples

    def images(self, count: int) -> Tensor:
        side = self.config.data.image_size
        return torch.rand(count, 1, side, side, device=self.device)

    def labels(self, count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.long, device=self.device)

    def captions(self, count: int) -> tuple[Tensor, Tensor]:
        """Full-length token ids and their mask: the loop pads every batch to `max_tokens`."""
        length = self.config.model.text.max_tokens
        ids = torch.ones(count, length, dtype=torch.long, device=self.device)
        return ids, torch.ones(count, length, dtype=torch.bool, device=self.device)

    def masks(self, count: int) -> Tensor:
        side = self.config.data.image_size
        return torch.ones(count, 1, side, side, dtype=torch.bool, device=self.device)

    def latents(self, count: int) -> Tensor:
        return torch.randn(count, self.config.model.gan.latent_dim, device=self.device)

    def trained(self) -> dict[str, nn.Module]:
        """The networks that have an optimiser."""
        adversaries = {"generator": self.generator, "critic": self.critic} if self.config.train.generator else {}
        return {**adversaries, "classifier": self.classifier}


def build_networks(config: Config, device: torch.device, descriptor: Descriptor) -> Networks:
    """The networks of a configuration. Call inside `contentless`, with a descriptor that was made outside of it.

    Weights are random, since they change no count: neither torchvision nor the Hugging Face hub is asked for any.
    Raises GenxaiError for a text encoder whose architecture cannot be had.
    """
    with tempfile.TemporaryDirectory() as folder, torch.device(device):
        plain = without_weights(config, Path(folder))
        vocabulary = len(load_vocabulary()) if plain.model.text.name == "small" else 1
        classifier = FusionClassifier(plain.model, NUM_CLASSES, vocabulary)
        generator = Generator(config.model.gan, NUM_CLASSES, config.data.image_size)
        critic = Critic(config.model.gan, NUM_CLASSES, config.data.image_size)
        shape = (NUM_CLASSES,) if config.objective.bias_conditional else ()
        means, known = torch.zeros(*shape, descriptor.dimension), torch.ones(shape, dtype=torch.bool)
        reference = BiasReference(means, known, config.objective.bias_conditional, 0)
    return Networks(config, device, generator, critic, classifier, descriptor.to(device), reference)


def make_descriptor(config: Config) -> Descriptor:
    """B(x) with its content, which its constructor computes with."""
    return build_descriptor(config.objective.bias_descriptor, config.data.image_size)


def without_weights(config: Config, folder: Path) -> Config:
    """The same architecture with random weights; BERT-base's is written into `folder` instead of being asked for."""
    tree = config.model_dump()
    set_dotted(tree, "model.image.weights", "none")
    if config.model.text.name != "small":
        set_dotted(tree, "model.text.pretrained", False)
        set_dotted(tree, "model.text.name", str(_architecture(config.model.text, folder)))
    return validate(Config, tree, "the configuration without weights")


def _architecture(text: TextEncoderConfig, folder: Path) -> Path | str:
    if text.name not in BERT_BASE:
        return text.name
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return folder
