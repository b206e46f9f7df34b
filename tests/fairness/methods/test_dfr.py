"""DFR: the refitted layer against scikit-learn, what chooses the regularisation, and what stays as it was."""

import copy
import functools

import pytest
import torch

from genxai.data import open_split
from genxai.fairness.methods.dfr import CANDIDATES, halves, logistic_regression, penultimate
from genxai.training.batches import over_split
from genxai.training.experiment import build


def blobs(n: int = 90, classes: int = 3, width: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % classes
    centres = torch.randn(classes, width, generator=generator, dtype=torch.float64)
    return centres[labels] + torch.randn(n, width, generator=generator, dtype=torch.float64), labels


@pytest.mark.parametrize("strength", CANDIDATES)
def test_the_fit_is_that_of_scikit_learn(strength):
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, labels = blobs()
    weights, bias = logistic_regression(features, labels, 3, strength)
    oracle = linear_model.LogisticRegression(C=1 / (len(labels) * strength), tol=1e-10, max_iter=10_000)
    oracle.fit(features.numpy(), labels.numpy())
    torch.testing.assert_close(weights, torch.from_numpy(oracle.coef_), rtol=1e-4, atol=1e-6)
    expected = oracle.predict_proba(features.numpy())
    torch.testing.assert_close(
        (features @ weights.T + bias).softmax(1), torch.from_numpy(expected), rtol=1e-4, atol=1e-6
    )


def test_at_the_fit_the_gradient_vanishes():
    features, labels = blobs()
    weights, bias = logistic_regression(features, labels, 3, 0.01)
    residual = (features @ weights.T + bias).softmax(1) - torch.nn.functional.one_hot(labels, 3)
    assert (residual.T @ features / len(labels) + 0.01 * weights).abs().max() < 1e-7
    assert residual.mean(0).abs().max() < 1e-7


def test_the_halves_share_every_group_equally_and_cover_the_split():
    labels, textures = torch.arange(10).repeat_interleave(40), torch.arange(10).repeat(40)
    shuffled = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    labels, textures = labels[shuffled], textures[shuffled]
    first, second = halves(labels, textures)
    assert torch.equal(torch.cat([first, second]).sort().values, torch.arange(400))
    for half in (first, second):
        assert torch.bincount(10 * labels[half] + textures[half]).tolist() == [2] * 100


def finished(config):
    experiment = build(config)
    before = copy.deepcopy(experiment.classifier)
    measure = functools.partial(over_split, processes=experiment.processes)
    experiment.method.finish(experiment.classifier, measure)
    return experiment, before, measure


def test_the_last_layer_alone_is_the_logistic_regression_on_standardised_features(configured):
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    linear_model = pytest.importorskip("sklearn.linear_model")
    experiment, before, measure = finished(configured("method.name=dfr", "method.strength=0.1"))
    changed = {
        name
        for (name, old), new in zip(
            before.state_dict().items(), experiment.classifier.state_dict().values(), strict=True
        )
        if not torch.equal(old, new)
    }
    assert changed == {"head.4.weight", "head.4.bias"}
    data = open_split(experiment.config, "val_balanced")
    features = penultimate(before, before.head[-1], data, measure).double().numpy()
    scaler = preprocessing.StandardScaler().fit(features)
    oracle = linear_model.LogisticRegression(C=1 / (len(data) * 0.1), tol=1e-10, max_iter=10_000)
    oracle.fit(scaler.transform(features), data.labels.numpy())
    sample = data.batch(torch.arange(len(data)))
    experiment.classifier.eval()
    found = experiment.classifier(sample.images, sample.tokens, sample.token_mask).logits.softmax(1).double()
    expected = torch.from_numpy(oracle.predict_proba(scaler.transform(features)))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    record = experiment.method.record()
    assert record == {
        "name": "dfr",
        "strength": 0.1,
        "trained_on": ["train", "val_balanced"],
        "fitted_on": "val_balanced",
    }


def test_without_a_number_the_second_half_chooses_and_result_json_says_so(configured):
    config = configured("method.name=dfr", "data.train_limit=1600", "data.balanced_val_size=100")
    experiment, before, measure = finished(config)
    data = open_split(config, "val_balanced")
    features = penultimate(before, before.head[-1], data, measure).double()
    spread = features.std(0, correction=0)
    features = (features - features.mean(0)) / torch.where(spread > 0, spread, 1)
    first, second = halves(data.labels, data.textures)
    accuracy = {}
    for strength in CANDIDATES:
        weights, bias = logistic_regression(features[first], data.labels[first], 10, strength)
        hits = (features[second] @ weights.T + bias).argmax(1) == data.labels[second]
        accuracy[strength] = float(hits.double().mean())
    record = experiment.method.record()
    assert len(set(accuracy.values())) > 1  # else anything could have chosen
    assert record["accuracy_by_strength"] == {str(strength): value for strength, value in accuracy.items()}
    assert accuracy[record["strength"]] == max(accuracy.values())
    assert record["strength_chosen_on"] == "one half of val_balanced, fitted on the other"
