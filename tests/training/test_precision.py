"""Mixed precision: half where it is harmless, float32 where second derivatives are, and fp16 with loss scaling."""

import pytest
import torch

from genxai.configfile import load_config
from genxai.data import fingerprint
from genxai.fairness import Ledger
from genxai.files import read_json
from genxai.runs import Run, run_signature
from genxai.training import Outcome, loop, train
from genxai.training.backends.ddp import Replicated
from genxai.training.experiment import build
from genxai.training.loop import joint_step
from genxai.training.objectives import attribution_map
from genxai.training.optimizers import make_optimizer
from genxai.training.precision import Precision
from genxai.training.steps import Monitored, critic_batches, critic_step, reveal

HALF = ["bf16", "fp16"]
SMALL_FP16 = ("train.precision=fp16", "train.threads=1", "data.train_limit=160", "data.test_limit=80",
              "data.balanced_val_size=20", "run.trackers=[]", "run.pictures=false", "train.epochs=1")  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture
def make(small):
    torch.set_num_threads(1)
    return lambda *overrides: build(load_config("tiny", [*small, *overrides]))


@pytest.mark.parametrize("precision", HALF)
def test_the_penalty_and_its_gradient_are_those_of_float32_to_the_last_bits(make, precision):
    """Same fakes, same critic: autocast must not reach the penalty. Weighted so, it is all the gradient there is."""
    alone = ("objective.lambda_gp=1000000.0", "train.optimizer=sgd")
    found = []
    for kind in (precision, "fp32"):
        experiment = make(f"train.precision={kind}", *alone)
        experiment.precision = Precision("fp32", CPU)  # the fakes
        terms = critic_step(experiment, critic_batches(experiment, 0)[0])
        found.append((terms["critic/penalty"], torch.cat([p.grad.flatten() for p in experiment.critic.parameters()])))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-6, atol=0)
    assert (found[0][1] - found[1][1]).norm() / found[1][1].norm() < 1e-5


@pytest.mark.parametrize("precision", HALF)
def test_maps_and_scores_of_the_explained_pass_are_float32_and_close_to_those_without_autocast(make, precision):
    """From the map upwards, where second derivatives are, nothing is half; below it a map is as rough as features."""
    experiments = [make(f"train.precision={kind}") for kind in (precision, "fp32")]
    scores = []
    for experiment in experiments:
        sample = experiment.train.batch(range(8))
        with experiment.precision.autocast():  # whatever surrounds it
            scores.append(reveal(experiment, Monitored.first(sample, 8), create_graph=True)[1])
        gradient = torch.autograd.grad(scores[-1].sum(), list(experiment.classifier.parameters()), allow_unused=True)
        assert all(part.isfinite().all() and part.dtype == torch.float32 for part in gradient if part is not None)
    assert scores[0].dtype == torch.float32 and not torch.equal(scores[0], scores[1])
    torch.testing.assert_close(scores[0], scores[1], rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("precision", HALF)
def test_from_one_map_to_its_score_nothing_depends_on_the_precision(make, precision):
    """The same map handed to both: logits and the gradient with respect to the map have the same bits."""
    found = []
    for kind in (precision, "fp32"):
        experiment = make(f"train.precision={kind}", "model.fusion=image")
        classifier, sample = experiment.classifier.eval(), experiment.train.batch(range(8))
        classifier.image_encoder.maps = lambda images: images[:, :, ::2, ::2].repeat(1, 32, 1, 1)  # a float32 stand-in
        with experiment.precision.autocast():
            prediction = classifier(sample.images, sample.tokens, sample.token_mask, float32_above_map=True)
        found.append(attribution_map(prediction, sample.labels, "grad_cam_plus_plus", create_graph=True))
    assert torch.equal(found[0], found[1]) and found[0].any()


@pytest.mark.parametrize("precision", HALF)
def test_whole_steps_are_finite_close_to_float32_and_really_in_half_precision(make, precision):
    experiment, reference = make(f"train.precision={precision}"), make()
    expected_dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    sample = experiment.train.batch(range(4))
    logits = experiment.trained["classifier"](sample.images, sample.tokens, sample.token_mask).logits
    assert logits.dtype == expected_dtype
    found, expected = (joint_step(one, 0, Ledger(0.3)) for one in (experiment, reference))
    for name, term in found.items():
        assert term.isfinite()
        torch.testing.assert_close(term, expected[name], rtol=0.05, atol=0.01, msg=name)
    assert all(p.dtype == torch.float32 for module in experiment.modules().values() for p in module.parameters())


def test_fp16_takes_the_float32_step_up_to_rounding_because_losses_are_scaled(make):
    """The generator's correction comes out of the classifier's scaled backward: its scale must be taken out again."""
    options = ("train.optimizer=sgd", "revise.tau=0", "revise.generator_weight=5", "objective.n_critic=1")
    half, full = make("train.precision=fp16", *options), make(*options)
    before = {name: value.clone() for name, value in full.generator.state_dict().items()}
    for trained in half.trained.values():  # a scale that has settled: at first steps are skipped until it has
        settled = {**trained.scaler_state(), "scale": 256.0}
        trained.load(trained.network_state(), trained.optimizer_state(), settled)
    for experiment in (half, full):
        joint_step(experiment, 0, Ledger(0.0))
    moved = torch.cat([(value - before[name]).flatten() for name, value in full.generator.state_dict().items()])
    apart = torch.cat(
        [(value - full.generator.state_dict()[name]).flatten() for name, value in half.generator.state_dict().items()]
    )
    assert moved.norm() > 0 and apart.norm() / moved.norm() < 0.05


def test_a_classifier_whose_scale_is_too_large_does_not_stop_the_generator(make):
    """The generator's correction is read off the classifier's scaled backward pass, which has overflowed here."""
    options = ("train.optimizer=sgd", "revise.tau=0", "revise.generator_weight=5", "objective.n_critic=1")
    experiment = make("train.precision=fp16", *options)
    for name, scale in (("classifier", 2.0**40), ("generator", 256.0)):
        trained = experiment.trained[name]
        trained.load(trained.network_state(), trained.optimizer_state(), {**trained.scaler_state(), "scale": scale})
    before = {name: module.state_dict()["project.weight" if name == "generator" else "head.1.weight"].clone()
              for name, module in experiment.modules().items() if name in ("generator", "classifier")}  # fmt: skip
    joint_step(experiment, 0, Ledger(0.0))
    assert torch.equal(experiment.classifier.head[1].weight, before["classifier"])
    assert not torch.equal(experiment.generator.project.weight, before["generator"])
    assert experiment.trained["generator"].loss_scale() == 256.0


def test_gradients_that_are_finite_at_no_scale_fail_the_run(make, tmp_path):
    config = load_config("tiny", [*SMALL_FP16])
    run = Run(tmp_path / run_signature(config, fingerprint(config.data)))
    run.plan(config)

    def broken(experiment, step, ledger):
        weight = experiment.critic.from_image.weight
        for _ in range(40):  # a finite loss whose gradient is not a number
            experiment.trained["critic"].update(torch.sqrt(weight.square().sum() * 0.0), None)
        return {"critic/wasserstein": torch.zeros(())}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "joint_step", broken)
        assert train(run) is Outcome.FAILED
    assert read_json(run.failed_file)["term"] == "gradient of critic"


def test_a_step_with_gradients_that_overflow_is_skipped_and_halves_the_scale():
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 1)
    trained = Replicated(
        network,
        torch.optim.SGD(network.parameters(), lr=0.1),
        Precision("fp16", CPU),
        processes=1,
    )
    before, scale = network.weight.clone(), trained.loss_scale()
    trained.update(trained(torch.full((2, 3), 1.0)).float().sum() * float("inf"), None)
    assert torch.equal(network.weight, before) and trained.loss_scale() == scale / 2
    trained.update(trained(torch.full((2, 3), 1.0)).float().mean(), None)
    assert not torch.equal(network.weight, before)


@pytest.mark.parametrize("clip", [None, 0.5])
def test_scaling_changes_neither_a_clipped_nor_an_unclipped_step(clip, small):
    train = load_config("tiny", [*small]).train
    results = []
    for kind in ("fp16", "fp32"):
        torch.manual_seed(0)
        network = torch.nn.Linear(4, 2)
        precision = Precision(kind, CPU)
        trained = Replicated(network, make_optimizer("classifier", network.parameters(), train), precision, 1)
        images = torch.randn(8, 4)
        for _ in range(3):
            trained.update(network(images).square().sum(), clip)  # forward outside autocast: the step alone is asked
        results.append(network.weight.detach().clone())
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


def test_the_scale_is_in_the_checkpoint(make):
    experiment, other = make("train.precision=fp16"), make("train.precision=fp16")
    critic = experiment.trained["critic"]
    loss = next(experiment.critic.parameters()).sum() * float("inf")
    critic.update(loss, None)
    restored = other.trained["critic"]
    assert restored.loss_scale() != critic.loss_scale()
    restored.load(critic.network_state(), critic.optimizer_state(), critic.scaler_state())
    assert restored.loss_scale() == critic.loss_scale()
