"""Algorithm 1, one update at a time: each changes its own network and computes the equation it names."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from genxai.configfile import load_config
from genxai.fairness import Ledger, bias_deviation, bias_loss, estimated_mask
from genxai.training.experiment import build
from genxai.training.loop import joint_step
from genxai.training.objectives import gradient_penalty
from genxai.training.progress import LossMeter
from genxai.training.steps import (
    Monitored,
    classifier_step,
    critic_batches,
    critic_step,
    generate,
    generator_step,
    object_masks,
    reveal,
)


@pytest.fixture
def make(small):
    torch.set_num_threads(1)
    return lambda *overrides: build(load_config("tiny", [*small, *overrides]))


def snapshot(experiment) -> dict[str, torch.Tensor]:
    return {
        f"{owner}.{name}": value.clone()
        for owner, module in experiment.modules().items()
        for name, value in module.state_dict().items()
    }


def changed(experiment, before) -> set[str]:
    after = snapshot(experiment)
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def test_the_critic_step_computes_eq_1_and_changes_the_critic_alone(make):
    experiment = make("objective.lambda_gp=7")
    sample = experiment.train.batch(experiment.draws.critic_indices(0, 2)[1])
    latents = experiment.draws.latents("critic", experiment.config.model.gan.latent_dim, 0, 2)[1]
    fake = experiment.generator(latents, sample.labels).detach()
    critic = experiment.critic
    wasserstein = critic(fake, sample.labels).mean() - critic(sample.images, sample.labels).mean()
    epsilon = experiment.draws.epsilon(0, 2)[1]
    penalty = gradient_penalty(critic, sample.images, fake, sample.labels, epsilon=epsilon)
    (wasserstein + 7 * penalty).backward()
    expected = {name: parameter.grad.clone() for name, parameter in critic.named_parameters()}
    before = snapshot(experiment)
    terms = critic_step(experiment, critic_batches(experiment, 0)[1])
    torch.testing.assert_close(terms["critic/wasserstein"], wasserstein.detach())
    torch.testing.assert_close(terms["critic/penalty"], penalty.detach())
    for name, parameter in critic.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)
    assert changed(experiment, before) == {"critic"}


def test_the_generator_step_computes_eq_2_and_changes_generator_and_average_alone(make):
    experiment = make("revise.generator_weight=0", "objective.lambda_bias=3")
    indices = experiment.draws.paired_indices(0)
    labels = experiment.train.labels[indices]
    fake = experiment.generator(experiment.draws.latents("generator", 32, 0)[0], labels)
    adversarial = -experiment.critic(fake, labels).mean()
    bias = bias_loss(experiment.descriptor(fake), labels, experiment.reference)
    (adversarial + 3 * bias).backward()
    expected = {name: parameter.grad.clone() for name, parameter in experiment.generator.named_parameters()}
    before = snapshot(experiment)
    terms = generator_step(experiment, generate(experiment, 0), None)
    torch.testing.assert_close(terms["generator/bias"], bias.detach())
    for name, parameter in experiment.generator.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-7)
    assert changed(experiment, before) == {"generator", "average"}
    assert all(parameter.requires_grad for parameter in experiment.critic.parameters())
    assert all(parameter.requires_grad for parameter in experiment.classifier.parameters())


def test_the_correction_reaches_the_generator_through_the_classifiers_map(make):
    gradients = []
    for weight in (0.0, 5.0):
        experiment = make(f"revise.generator_weight={weight}", "revise.tau=0")
        terms = joint_step(experiment, 0, Ledger(0.0))
        gradients.append(torch.cat([p.grad.flatten() for p in experiment.generator.parameters()]))
        assert (terms["generator/revise"] > 0) == (weight > 0)
    assert (gradients[0] - gradients[1]).abs().max() > 1e-7


@pytest.mark.parametrize("weight", [5.0, 0.0])
def test_one_explanation_gives_generator_and_classifier_the_gradients_of_two(make, weight):
    """The oracle explains the generated samples by themselves, inside the generator's own graph."""
    options = ("revise.tau=0.2", "revise.generator_weight=3", f"revise.weight={weight}", "model.dropout=0")
    oracle = make(*options)
    config, count = oracle.config, oracle.monitored
    generated = generate(oracle, 0)
    adversarial = -oracle.critic(generated.images, generated.labels).mean()
    features = oracle.descriptor(generated.images)
    bias = bias_loss(features, generated.labels, oracle.reference)
    _, scores = reveal(oracle, generated.monitored._replace(images=generated.images[:count]), create_graph=True)
    flagged = scores.detach() > 0.2
    deviation = bias_deviation(features[:count], generated.labels[:count], oracle.reference)
    assert flagged.any()
    revise = scores[flagged].mean() + deviation[flagged].mean()
    (adversarial + config.objective.lambda_bias * bias + 3 * revise).backward()
    experiment = make(*options)
    generated = generate(experiment, 0)
    _, revision = classifier_step(experiment, 0, generated.monitored, Ledger(0.2))
    terms = generator_step(experiment, generated, revision)
    torch.testing.assert_close(terms["generator/revise"], revise.detach())
    for mine, theirs in zip(experiment.generator.parameters(), oracle.generator.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-7)


def test_the_classifier_step_computes_eq_11_plus_the_correction(make):
    experiment = make("revise.tau=0.2", "model.dropout=0")
    config = experiment.config
    generated = generate(experiment, 0).monitored
    sample = experiment.train.batch(experiment.draws.classifier_indices(0))
    logits = experiment.classifier(sample.images, sample.tokens, sample.token_mask).logits
    before = snapshot(experiment)
    ledger = Ledger(config.revise.tau)
    count = experiment.monitored
    terms, _ = classifier_step(experiment, 0, generated, ledger)
    torch.testing.assert_close(terms["classifier/cross_entropy"], F.cross_entropy(logits, sample.labels).detach())
    assert changed(experiment, before) == {"classifier"}
    fresh = make("revise.tau=0.2", "model.dropout=0")
    monitored = Monitored.first(sample, count).join(generated)
    outside, scores = reveal(fresh, monitored, create_graph=False)
    torch.testing.assert_close(terms["classifier/attribution"], outside[:count].mean())
    torch.testing.assert_close(terms["classifier/revise"], scores[scores > 0.2].mean())
    records = ledger.drain()
    assert len(records) == int((scores > 0.2).sum())
    assert {record["origin"] for record in records} <= {"real", "generated"}


def test_revealing_leaves_mode_gradients_buffers_and_random_streams_alone(make):
    experiment = make("model.image.name=resnet18", "model.image.input_size=64", "model.fusion=image")
    generated = generate(experiment, 0).monitored
    experiment.classifier.train()
    experiment.classifier.head.eval()
    before, stream = snapshot(experiment), torch.get_rng_state()
    reveal(experiment, generated, create_graph=False)
    assert not changed(experiment, before)
    assert torch.equal(stream, torch.get_rng_state())
    assert experiment.classifier.image_encoder.training and not experiment.classifier.head.training
    assert all(parameter.grad is None for parameter in experiment.classifier.parameters())


def test_a_generated_swatch_never_counts_as_the_object(make):
    fake = torch.zeros(1, 1, 28, 28)
    fake[..., :4, :4] = fake[..., 10:18, 10:18] = 0.9
    found = object_masks(make("data.mode=patch"), fake)
    assert found[..., 10:18, 10:18].all() and not found[..., :4, :4].any()
    assert torch.equal(object_masks(make(), fake), estimated_mask(fake, 0.5))


def test_the_validation_reference_has_every_texture_even_at_rho_1(make):
    aligned = ("data.rho=1.0", "data.train_limit=1600", "data.balanced_val_size=300")
    assert make(*aligned).reference.missing_groups == 90
    experiment = make(*aligned, "objective.bias_reference=validation")
    literal = make(*aligned, "objective.bias_reference=data")
    assert experiment.reference.missing_groups == 0
    assert not torch.allclose(experiment.reference.means, literal.reference.means, atol=1e-3)


def test_only_the_configured_fraction_is_explained_and_at_least_one(make):
    assert make("explain.fraction=0.25").monitored == 8
    assert make("explain.fraction=0.001").monitored == 1
    experiment = make("explain.every=3")
    assert [experiment.explains(step) for step in range(4)] == [True, False, False, True]


def test_without_revision_and_attribution_nothing_is_explained_and_no_entry_is_made(make):
    experiment = make("revise.enabled=false", "objective.lambda_attribution=0")
    ledger = Ledger(0.3)
    terms = joint_step(experiment, 0, ledger)
    assert not experiment.explains(0) and ledger.drain() == []
    assert terms["classifier/attribution"] == terms["classifier/revise"] == terms["generator/revise"] == 0


@pytest.mark.parametrize("fusion", ["image", "early", "cross", "text"])
def test_every_fusion_takes_part_in_the_joint_step(make, fusion):
    off = ("revise.enabled=false", "objective.lambda_attribution=0") if fusion == "text" else ()
    experiment = make(f"model.fusion={fusion}", *off)
    before = snapshot(experiment)
    terms = joint_step(experiment, 0, Ledger(0.3))
    assert all(term.isfinite() for term in terms.values())
    assert changed(experiment, before) == {"generator", "average", "critic", "classifier"}


def test_a_step_is_a_function_of_the_seed_alone(make):
    one, other = make(), make()
    torch.rand(17)  # whatever else drew random numbers
    first = joint_step(one, 3, Ledger(0.3))
    torch.rand(5)
    second = joint_step(other, 3, Ledger(0.3))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not changed(one, snapshot(other))
    different = joint_step(make("seed=1"), 3, Ledger(0.3))
    assert any(not torch.equal(first[name], different[name]) for name in first)


class NoWaiting(TorchDispatchMode):
    """Raises wherever a value is read off the device, or a shape depends on one: where a GPU would be waited for."""

    OPERATIONS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "_unique", "unique_dim", "equal")
    METHODS = ("tolist", "numpy", "cpu", "item", "__bool__", "__float__", "__int__", "__index__")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in self.OPERATIONS, f"{name} waits for the device"
        return func(*args, **(kwargs or {}))

    def __enter__(self):
        self.patch = pytest.MonkeyPatch()
        for name in self.METHODS:
            self.patch.setattr(torch.Tensor, name, self.refuse(name))
        return super().__enter__()

    def __exit__(self, *exception):
        self.patch.undo()
        return super().__exit__(*exception)

    @staticmethod
    def refuse(name):
        def method(*arguments):
            raise AssertionError(f"{name} waits for the device")

        return method


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("score", ["out_of_mask", "texture_evidence"])
def test_a_joint_step_never_waits_for_the_device(make, precision, score):
    optimizer = "sgd" if score == "texture_evidence" else "adamw"
    options = (f"revise.score={score}", f"train.optimizer={optimizer}", "revise.audit_every=1", "revise.tau=0")
    experiment = make(f"train.precision={precision}", *options)
    meter, ledger = LossMeter(experiment.device, experiment.processes), Ledger(0.0)
    meter.update(0, joint_step(experiment, 0, ledger))  # optimisers make their state, an epoch its permutation
    with NoWaiting():
        meter.update(1, joint_step(experiment, 1, ledger))
    with pytest.raises(AssertionError, match="waits for the device"), NoWaiting():
        meter.drain()


def test_clipping_a_norm_never_waits_for_the_device(make):
    experiment = make("train.clip_norm=0.1")
    joint_step(experiment, 0, Ledger(0.3))
    with NoWaiting():
        joint_step(experiment, 1, Ledger(0.3))
