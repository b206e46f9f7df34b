"""The benchmark compares like with like: each contender computes what ours computes."""

from __future__ import annotations

import pytest
import torch

from analysis.benchmarks import cam, sweep
from analysis.benchmarks.bare_loop import BareLoop, NativeDraws, twin
from analysis.benchmarks.loader import TexturedImages, batches
from analysis.benchmarks.setting import Setting
from genxai.configfile import load_config
from genxai.data import TexMM
from genxai.fairness import Ledger
from genxai.models import Critic
from genxai.runs import State
from genxai.training.experiment import build
from genxai.training.loop import joint_step

TINY = ("data.train_limit=160", "data.test_limit=80", "data.balanced_val_size=20", "train.threads=1")

LOOPS = {
    "default": (),
    "without explanation": ("revise.enabled=false", "objective.lambda_attribution=0"),
    "attribution loss only": ("revise.enabled=false",),
    "generator left alone": ("revise.generator_weight=0",),
    "classifier left alone": ("revise.weight=0",),
    "every other step": ("explain.every=2",),
    "texture score, more samples": ("revise.score=texture_evidence", "revise.tau=0.1", "explain.fraction=0.5"),
    "patch": ("data.mode=patch", "train.clip_norm=0.5", "train.scheduler=constant"),
    "momentum, no penalty": ("train.optimizer=sgd", "objective.lambda_gp=0"),
}


@pytest.mark.parametrize("options", LOOPS.values(), ids=LOOPS.keys())
def test_the_bare_loop_has_the_joint_loops_losses(options: tuple[str, ...]) -> None:
    experiment = build(load_config("tiny", [*TINY, "objective.n_critic=2", *options]))
    bare, ledger = BareLoop(experiment), Ledger(experiment.config.revise.tau)
    before = {name: value.clone() for name, value in experiment.average.state_dict().items()}
    for step in range(3):  # a wrong update shows in the losses of the next step
        ours, theirs = joint_step(experiment, step, ledger), bare.step(step)
        assert ours.keys() == theirs.keys()
        for name, term in ours.items():
            torch.testing.assert_close(
                theirs[name], term, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
            )
    after, averages = experiment.average.state_dict(), bare.average.state_dict()
    for name, value in after.items():
        torch.testing.assert_close(averages[name], value, rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(before[name], value) for name, value in after.items())


def test_the_default_step_that_is_compared_flags_and_corrects_samples() -> None:
    experiment = build(load_config("tiny", [*TINY, "objective.n_critic=1"]))
    terms = BareLoop(experiment).step(0)
    assert all(terms[name] > 0 for name in ("critic/penalty", "classifier/attribution", "classifier/revise"))
    assert terms["generator/revise"] != 0


def test_native_draws_have_the_shapes_of_the_reproducible_ones() -> None:
    experiment = build(load_config("tiny", [*TINY]))
    ours, native = experiment.draws, NativeDraws(len(experiment.train), 32, experiment.device)
    for name, arguments in {
        "critic_indices": (0, 2),
        "classifier_indices": (0,),
        "paired_indices": (0,),
        "latents": ("generator", 5, 0),
        "epsilon": (0, 2),
    }.items():
        one, other = getattr(ours, name)(*arguments), getattr(native, name)(*arguments)
        assert (one.shape, one.dtype) == (other.shape, other.dtype), name
    pairs = native.paired_indices(0)
    assert torch.equal(pairs[0::2], pairs[1::2])


def test_a_twin_shares_values_and_layout_but_no_memory() -> None:
    gan = load_config("tiny", []).model.gan
    critic = Critic(gan, 10, 28).to(memory_format=torch.channels_last)
    copy = twin(critic, lambda: Critic(gan, 10, 28))
    for one, other in zip(critic.parameters(), copy.parameters(), strict=True):
        assert torch.equal(one, other)
        assert one.stride() == other.stride()
        assert one.data_ptr() != other.data_ptr()


@pytest.mark.parametrize("mode", ["background", "overlay", "patch", "none"])
@pytest.mark.parametrize("size", [28, 56])
def test_the_dataset_gives_the_samples_of_texmm(mode: str, size: int) -> None:
    split = TexMM(load_config("tiny", [*TINY, f"data.mode={mode}", f"data.image_size={size}"]), "train")
    dataset, whole = TexturedImages(split), split.batch(range(24))
    assert len(dataset) == len(split)
    for place in range(24):
        image, label, texture, mask, tokens, token_mask = dataset[place]
        torch.testing.assert_close(image, whole.images[place], rtol=0, atol=1e-5)
        assert torch.equal(mask, whole.masks[place])
        assert (label, texture) == (whole.labels[place], whole.textures[place])
        assert torch.equal(tokens, whole.tokens[place])
        assert torch.equal(token_mask, whole.token_mask[place])


def test_the_loader_goes_through_as_many_batches_as_it_says() -> None:
    dataset = TexturedImages(TexMM(load_config("tiny", TINY), "train"))
    seen: list[int] = []
    get = TexturedImages.__getitem__

    class Counting(TexturedImages):
        def __getitem__(self, index: int):
            seen.append(index)
            return get(self, index)

    dataset.__class__ = Counting
    once = batches(dataset, 8, 5, workers=0, device=torch.device("cpu"))
    assert [len(column) for column in once()] == [8] * 6
    assert len(seen) == 40
    once()
    assert len(seen) == 80


def small_maps() -> cam.Maps:
    setting = Setting("tiny", ("train.threads=1",))
    return cam.contenders(setting, cam.cases("cpu", short=True)[0]._replace(batch=8), torch.device("cpu"))


def test_pytorch_grad_cam_finds_the_maps_that_ours_finds() -> None:
    pytest.importorskip("pytorch_grad_cam")
    maps = small_maps()
    assert maps.peer is not None
    ours, theirs = maps.resized().flatten(1), torch.as_tensor(maps.peer()).flatten(1)
    assert ours.shape == theirs.shape
    assert bool((ours.amax(dim=1) > 0).all())
    for one, other in zip(ours, theirs, strict=True):
        # theirs is normalised, adds 1e-6 to the denominator of alpha and resizes with OpenCV
        assert torch.corrcoef(torch.stack([one, other]))[0, 1] > 0.95


def test_the_floor_computes_the_gradient_at_the_explained_layer_and_no_other() -> None:
    setting, case = Setting("tiny", ("train.threads=1",)), cam.cases("cpu", short=True)[0]._replace(batch=4)
    torch.manual_seed(0)
    config = setting.config("model.fusion=image")
    from genxai.models import FusionClassifier

    model = FusionClassifier(config.model, 10, 1).eval()
    frozen = cam.graph_from_layer(model)
    images, unused = torch.rand(case.batch, 1, 28, 28), torch.zeros(case.batch, 1, dtype=torch.int64)
    whole, cut = (network(images, unused, unused.bool()) for network in (model, frozen))
    (expected,) = torch.autograd.grad(whole.logits[:, 0].sum(), whole.activations)
    (found,) = torch.autograd.grad(cut.logits[:, 0].sum(), cut.activations)
    torch.testing.assert_close(found, expected)
    assert cut.activations.is_leaf
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert small_maps().floor().shape == (8, *expected.shape[1:])


def test_the_sweep_that_is_timed_is_finished_and_has_both_stages(tmp_path) -> None:
    from launch.executors import LocalRuns
    from launch.reconciler import Reconciler

    planner, ticks = sweep.make_planner(tmp_path, 20), []
    for trial in sweep.trials(planner):
        sweep.write_finished(trial, lambda: ticks.append(1))
    survey, submitted = Reconciler(planner, LocalRuns(planner.folder, 1), note=lambda line: None).run_pass()
    assert survey.complete
    assert submitted == 0
    assert len(ticks) == survey.total == 60
    assert {trial.stage for trial in survey.trials.values()} == {"grid", "bayes"}
    assert all(planned.run.state is State.DONE for planned in survey.runs.values())
