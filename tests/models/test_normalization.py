import pytest
import torch
from torch import nn

from genxai.models import evaluating
from genxai.models.normalization import ClassConditionalNorm, group_count


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (4, 1), (8, 1), (32, 4), (64, 8), (20, 2), (28, 1)])
def test_groups_hold_about_eight_channels_and_divide_them(channels, groups):
    assert group_count(channels) == groups


def test_conditional_normalisation_is_group_normalisation_with_the_scale_and_shift_of_the_class():
    norm = ClassConditionalNorm(16, num_classes=3)
    nn.init.normal_(norm.scale.weight)
    nn.init.normal_(norm.shift.weight)
    features, labels = torch.randn(4, 16, 5, 5), torch.tensor([0, 2, 2, 1])
    expected = [
        nn.functional.group_norm(features[i : i + 1], 2, norm.scale.weight[y], norm.shift.weight[y])
        for i, y in enumerate(labels)
    ]
    torch.testing.assert_close(norm(features, labels), torch.cat(expected))


def network():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.BatchNorm2d(2))


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_evaluating_leaves_buffers_untouched_where_training_would_change_them():
    module, images = network().train(), torch.randn(4, 1, 8, 8)
    before = state(module)
    with evaluating(module):
        module(images)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    module(images)
    assert not torch.equal(before["1.running_mean"], module[1].running_mean)


def test_evaluating_switches_every_mode_off_and_restores_all_of_them_exactly():
    module = network().train()
    module[3].eval()  # fine-tuning often freezes some of them
    before = [layer.training for layer in module.modules()]
    with pytest.raises(KeyError), evaluating(module):
        assert not any(layer.training for layer in module.modules())
        raise KeyError
    assert [layer.training for layer in module.modules()] == before
