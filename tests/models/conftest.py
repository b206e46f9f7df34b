import pytest
import torch

from genxai.config import ImageEncoderConfig, ModelConfig, TextEncoderConfig

CLASSES, VOCABULARY = 4, 30


@pytest.fixture(autouse=True)
def _reproducible():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def model_config():
    """A function of the fusion mode: the smallest model of that mode."""

    def make(fusion: str) -> ModelConfig:
        return ModelConfig(
            fusion=fusion,
            dim=8,
            heads=2,
            layers=2,
            hidden=16,
            image=ImageEncoderConfig(width=4),
            text=TextEncoderConfig(width=8, layers=1, heads=2, max_tokens=8),
        )

    return make


@pytest.fixture
def batch():
    """images [3, 1, 28, 28], tokens [3, 6], token_mask: a full caption, a short one, none."""
    images = torch.rand(3, 1, 28, 28)
    tokens = torch.randint(VOCABULARY, (3, 6))
    mask = torch.arange(6) < torch.tensor([[6], [3], [0]])
    return images, tokens, mask
