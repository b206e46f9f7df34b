"""Dropout whose masks belong to places in the global batch."""

import torch
from torch import nn

from genxai.models.dropout import SampleDropout, replace_dropout, share_rows

BATCH = 6


def dropped(rows: torch.Tensor | None, features: torch.Tensor) -> torch.Tensor:
    network = nn.Sequential(SampleDropout(0.4)).train()
    if rows is not None:
        share_rows(network, rows, BATCH)
    torch.manual_seed(3)
    return network(features)


def test_processes_drop_what_one_process_drops():
    features = torch.rand(BATCH, 5, 7) + 1
    whole = dropped(None, features)
    for rows in (torch.arange(0, BATCH, 2), torch.arange(1, BATCH, 2)):
        assert torch.equal(dropped(rows, features[rows]), whole[rows])
    assert 0 < (whole == 0).float().mean() < 1


def test_what_is_kept_is_scaled_so_that_the_mean_stays():
    kept = dropped(None, torch.ones(BATCH, 20_000))
    assert set(kept.unique().tolist()) == {0.0, torch.tensor(1 / 0.6).item()}
    assert abs(kept.mean() - 1) < 0.02


def test_evaluation_and_a_rate_of_zero_change_nothing():
    features = torch.rand(4, 3)
    assert torch.equal(SampleDropout(0.5).eval()(features), features)
    assert torch.equal(SampleDropout(0.0).train()(features), features)


def test_every_dropout_inside_a_network_is_replaced_and_keeps_its_rate():
    network = nn.Sequential(nn.Dropout(0.1), nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.2)))
    replace_dropout(network)
    found = [module for module in network.modules() if isinstance(module, nn.Dropout)]
    assert [type(module) for module in found] == [SampleDropout, SampleDropout]
    assert [module.p for module in found] == [0.1, 0.2]
