"""What the training loop calls must not wait for the device: `meta` tensors hold no values, so that waiting raises."""

import pytest
import torch

from genxai.config import GanConfig, ImageEncoderConfig, TextEncoderConfig
from genxai.models import Critic, FusionClassifier, Generator, evaluating, update_ema

CLASSES, VOCABULARY = 4, 30


def meta_batch():
    with torch.device("meta"):
        mask = torch.ones(3, 6, dtype=torch.bool)
        return torch.rand(3, 1, 28, 28), torch.zeros(3, 6, dtype=torch.long), mask


@pytest.mark.parametrize("fusion", ["image", "text", "early", "cross"])
def test_a_classifier_step_never_asks_the_device_for_a_value(fusion, model_config):
    network = FusionClassifier(model_config(fusion), CLASSES, VOCABULARY).to("meta")
    logits, activations = network(*meta_batch())
    loss = logits.square().sum()
    if activations is not None:
        (gradient,) = torch.autograd.grad(logits.sum(), activations, create_graph=True)
        loss = loss + gradient.square().sum()
    loss.backward()


def test_a_classifier_step_with_resnet_and_bert_never_asks_the_device_for_a_value(tmp_path, model_config):
    pytest.importorskip("torchvision", exc_type=(ImportError, RuntimeError))
    transformers = pytest.importorskip("transformers")
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    transformers.BertConfig(vocab_size=VOCABULARY, **size).save_pretrained(tmp_path)
    parts = {
        "image": ImageEncoderConfig(name="resnet18", input_size=64),
        "text": TextEncoderConfig(name=str(tmp_path), max_tokens=8, pretrained=False),
    }
    network = FusionClassifier(model_config("cross").model_copy(update=parts), CLASSES, VOCABULARY).to("meta")
    with evaluating(network):
        network(*meta_batch()).logits.sum().backward()


def test_a_gan_step_never_asks_the_device_for_a_value():
    gan = GanConfig(latent_dim=8, width=4)
    generator, average = (Generator(gan, CLASSES, 28).to("meta") for _ in range(2))
    critic = Critic(gan, CLASSES, 28).to("meta")
    labels = torch.zeros(3, dtype=torch.long, device="meta")
    images = generator(torch.randn(3, 8, device="meta"), labels)
    (gradient,) = torch.autograd.grad(critic(images, labels).sum(), images, create_graph=True)
    gradient.flatten(1).norm(dim=1).sum().backward()
    update_ema(average, generator, 0.9)


@pytest.mark.parametrize("fusion", ["early", "cross"])
def test_a_twice_differentiated_step_works_in_bfloat16(fusion, model_config, batch):
    network = FusionClassifier(model_config(fusion), CLASSES, VOCABULARY)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, activations = network(*batch)
    (gradient,) = torch.autograd.grad(logits[:, 0].float().sum(), activations, create_graph=True)
    (logits.float().square().sum() + gradient.float().square().sum()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
