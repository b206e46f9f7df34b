"""What result.json says beyond the numbers of every epoch, on the sample inside the package."""

from __future__ import annotations

import copy
import importlib.util
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from genxai import metrics
from genxai.config import Config
from genxai.configfile import load_config
from genxai.data import TexMM
from genxai.errors import UsageError
from genxai.explain import iou_xai
from genxai.metrics import METRICS
from genxai.models import FusionClassifier
from genxai.training.evaluation import measure_split
from genxai.training.experiment import build
from genxai.training.final_evaluation import Report, mean_mask, report_split
from genxai.training.parallel import Processes

CPU = torch.device("cpu")


@pytest.fixture
def configure(small):
    return lambda *overrides: load_config("tiny", [*small, *overrides])


def classifier_of(config: Config) -> FusionClassifier:
    torch.manual_seed(0)
    return FusionClassifier(config.model, 10, TexMM(config, "val").vocab_size)


def report(config: Config, split: str, processes: Processes | None = None, network=None) -> Report:
    network = network or classifier_of(config)
    return report_split(network, config, split, CPU, processes or Processes(), mean_mask(config, CPU))


def test_it_has_every_number_of_every_epoch_and_what_to_read_iou_beside(configure) -> None:
    config = configure()
    found, quick = report(config, "val"), measure_split(classifier_of(config), config, "val", CPU)
    assert {name: found.metrics[name] for name in quick} == quick
    extra = {name.removeprefix("val/") for name in found.metrics} - {name.removeprefix("val/") for name in quick}
    parts = ("chance", "mean_mask", "ceiling", "normalised")
    assert extra == {f"iou_{rule}_{part}" for rule in ("half_max", "area_matched") for part in parts}
    assert not found.intervals  # intervals are for test splits


def test_test_splits_have_intervals_around_their_values(configure) -> None:
    config = configure()
    for split, names in {
        "test": {"accuracy", "f1_macro", "worst_group_accuracy", "iou_half_max", "iou_area_matched"},
        "test_conflict": {"accuracy", "f1_macro", "worst_group_accuracy"},
        "test_counterfactual": {"flip_rate"},
    }.items():
        found = report(config, split)
        assert {f"{split}/{name}" for name in names} <= set(found.intervals) <= set(found.metrics)
        for name, (low, high) in found.intervals.items():
            assert low <= found.metrics[name] <= high, name


def test_stability_is_of_the_class_predicted_for_the_clean_image_on_test_alone(configure, monkeypatch) -> None:
    config, asked = configure(), []
    from genxai.training import final_evaluation

    real = final_evaluation.explain
    monkeypatch.setattr(final_evaluation, "explain", lambda *arguments: asked.append(arguments[1:]) or real(*arguments))
    found, network = report(config, "test"), classifier_of(config).eval()
    data = TexMM(config, "test")
    sample = data.batch(torch.arange(16))
    predicted = network(sample.images, sample.tokens, sample.token_mask).logits.argmax(1)
    (noise, shift) = asked
    assert torch.equal(noise[2], predicted) and torch.equal(shift[2], predicted)
    assert 0.02 < (noise[0].images - sample.images).std() < 0.05
    assert torch.equal(shift[0].images[..., 2:], sample.images[..., :-2])
    assert {"test/ssim_stability", "test/nmi_stability", "test/ssim_stability_shift"} <= set(found.metrics)
    assert not any("stability" in name for name in report(config, "test_unbiased").metrics)


def test_the_mean_mask_is_that_of_the_training_split(configure) -> None:
    config = configure()
    data = TexMM(config, "train")
    masks = data.batch(torch.arange(len(data))).masks[:, 0].double()
    torch.testing.assert_close(mean_mask(config, CPU), masks.mean(0))
    shown = TexMM(config, "test").batch(torch.arange(16)).masks
    expected = iou_xai(masks.mean(0).expand(16, -1, -1), shown).mean().item()
    assert report(config, "test").metrics["test/iou_half_max_mean_mask"] == pytest.approx(expected)


def test_a_classifier_of_text_alone_has_no_numbers_of_maps(configure) -> None:
    alone = ("model.fusion=text", "revise.enabled=false", "objective.lambda_attribution=0.0")
    found = report(configure(*alone, "train.second_opinion=true"), "test")
    assert "test/accuracy" in found.intervals
    assert not any(part in name for name in found.metrics for part in ("iou", "stability", "@", "align"))


def test_a_second_opinion_has_its_own_columns_beside_ours(configure) -> None:
    pytest.importorskip("pytorch_grad_cam")
    plain, asked = report(configure(), "test"), report(configure("train.second_opinion=true"), "test")
    others = {name: value for name, value in asked.metrics.items() if "@" in name}
    assert {name: value for name, value in asked.metrics.items() if name not in others} == plain.metrics
    methods = ("pgc_grad_cam_plus_plus", "pgc_grad_cam", "pgc_layer_cam")
    scores = ("iou_half_max", "iou_area_matched", "relevance_mass", "pointing")
    assert set(others) == {f"test/{score}@{method}" for method in methods for score in scores}
    # the same formula up to their epsilon and their stretching to [0, 1]
    assert others["test/pointing@pgc_grad_cam_plus_plus"] == pytest.approx(plain.metrics["test/pointing"], abs=0.07)


def test_a_second_opinion_without_its_package_is_refused_before_the_first_step(configure, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs pytorch_grad_cam"):
        build(configure("train.second_opinion=true", "train.generator=false", "revise.enabled=false"))


def test_the_numbers_do_not_depend_on_how_many_processes_share_the_work(configure, monkeypatch) -> None:
    from genxai.training import batches, evaluation, final_evaluation

    for module in (batches, evaluation, final_evaluation):  # several batches for everybody
        for name in {"EVALUATION_BATCH", "EXPLAINED_BATCH"} & set(vars(module)):
            monkeypatch.setattr(module, name, 5)
    config = configure("train.second_opinion=true")
    alone = report(config, "test")
    meeting, boxes = threading.Barrier(2), [None, None]

    class Together(Processes):
        """Two threads that do what two processes do."""

        def exchange(self, value):
            boxes[self.rank] = value
            meeting.wait()
            both = list(boxes)
            meeting.wait()
            return both

        def share(self, value):
            return self.exchange(value)[0]

        def total(self, values):
            return sum(self.exchange(values))

    networks = [copy.deepcopy(classifier_of(config)) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(report, config, "test", Together(rank, 2), networks[rank]) for rank in range(2)]
        first, second = (job.result(timeout=60) for job in jobs)
    assert first == second
    assert first.metrics == pytest.approx(alone.metrics, rel=1e-6)  # where a tensor lies in memory can round it
    assert {name: pytest.approx(interval, rel=1e-6) for name, interval in alone.intervals.items()} == first.intervals


def test_one_file_in_the_package_is_a_new_metric_of_the_report(configure, tmp_path, monkeypatch) -> None:
    (tmp_path / "size.py").write_text(
        "from genxai.metrics import metric\n\n\n"
        '@metric("object_size", "localisation", reference="a test")\n'
        "def object_size(maps, masks):\n    return masks.double().mean((1, 2, 3))\n"
    )
    monkeypatch.setattr(metrics, "__path__", [*metrics.__path__, str(tmp_path)])
    monkeypatch.setattr("genxai.metrics.registry.METRICS", dict(METRICS))
    try:
        found = report(configure(), "test")
    finally:
        sys.modules.pop("genxai.metrics.size", None)
    assert 0 < found.metrics["test/object_size"] < 1 and "test/object_size" in found.intervals
