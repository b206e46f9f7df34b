"""DeepSpeed ZeRO: two processes compute what one with the whole batch does, for all three networks.

The oracle is torch's own optimiser in one process; float32, so that agreement is to rounding.
"""

import importlib.util
import sys

import pytest
import torch

from genxai.errors import UsageError
from genxai.training.backends import zero

NETWORKS = ("generator", "critic", "classifier")
OPTIMIZERS = ("sgd", "momentum", "adamw")
ROUNDING = 1e-6  # of a network's largest weight
#: ZeRO-3 keeps layers below 1e5 elements whole: these are not
WIDE = {"explain": False, "text": {"width": 192}}

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed: pip install 'genxai[deepspeed]'"
)


def case(name, backend, optimizer, **options):
    return {"name": f"{name}-{optimizer}", "backend": backend, "optimizer": optimizer, **options}


@pytest.fixture(scope="module")
def outcomes(launcher):
    alone, two, after = [], [], []
    for optimizer in OPTIMIZERS:
        alone += [
            case("plain", "plain", optimizer),
            case("plain-clipped", "plain", optimizer, clip=0.05),
            case("plain-half", "plain", optimizer, steps=[0, 1]),
            case("plain-wide", "plain", optimizer, **WIDE),
            case("plain-wide-half", "plain", optimizer, steps=[0, 1], **WIDE),
        ]
        for stage in (1, 2):
            two += [
                case(f"zero{stage}", f"zero{stage}", optimizer),
                case(f"zero{stage}-clipped", f"zero{stage}", optimizer, clip=0.05),
                case(f"zero{stage}-half", f"zero{stage}", optimizer, steps=[0, 1]),
            ]
        two += [
            case("zero3-wide", "zero3", optimizer, **WIDE),
            case("zero3-wide-half", "zero3", optimizer, steps=[0, 1], **WIDE),
            case("zero3-from-plain", "zero3", optimizer, steps=[1, 3], start=f"plain-wide-half-{optimizer}", **WIDE),
            case("zero1-from-zero2", "zero1", optimizer, steps=[1, 3], start=f"zero2-half-{optimizer}"),
            case("zero2-from-zero2", "zero2", optimizer, steps=[1, 3], start=f"zero2-half-{optimizer}"),
            case("zero2-from-plain", "zero2", optimizer, steps=[1, 3], start=f"plain-half-{optimizer}"),
        ]
        after += [
            case("plain-from-zero1", "plain", optimizer, steps=[1, 3], start=f"zero1-half-{optimizer}"),
            case("plain-from-zero2", "plain", optimizer, steps=[1, 3], start=f"zero2-half-{optimizer}"),
            case("plain-from-zero3", "plain", optimizer, steps=[1, 3], start=f"zero3-wide-half-{optimizer}", **WIDE),
            case("zero2-alone", "zero2", optimizer, steps=[1, 3], start=f"zero2-half-{optimizer}"),
        ]
    two += [
        case("zero3-clipped", "zero3", "momentum", clip=0.05, **WIDE),
        case("unfrozen-critic-zero1", "zero1", "sgd", freeze=False, fails=True),
        case("unfrozen-critic-zero2", "zero2", "sgd", freeze=False, fails=True),
        case("not-a-number", "zero3", "sgd", steps=[0, 1], gradient_is_nan=True, **WIDE),
    ]
    alone += [
        case("plain-wide-clipped", "plain", "momentum", clip=0.05, **WIDE),
        case("bf16-plain", "plain", "sgd", bf16=True),
    ]
    after += [case("bf16-zero2", "zero2", "sgd", bf16=True)]
    return launcher.run(1, alone) | launcher.run(2, two) | launcher.run(1, after)


def agree(found, expected):
    for name in NETWORKS:
        assert expected.moved(name) > 1e-3
        assert found.distance(expected, name) < ROUNDING, name


@needs_deepspeed
@pytest.mark.slow
class TestTwoProcesses:
    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    @pytest.mark.parametrize("stage", [1, 2])
    def test_make_the_steps_of_one_with_the_whole_batch(self, outcomes, stage, optimizer):
        found = outcomes[f"zero{stage}-{optimizer}"]
        assert found.ranks[0]["processes"] == len(found.ranks) == 2
        agree(found, outcomes[f"plain-{optimizer}"])
        for name in NETWORKS:
            assert (found.network(name, 0) == found.network(name, 1)).all()

    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    @pytest.mark.parametrize("stage", [1, 2])
    def test_clip_the_norm_of_the_whole_gradient(self, outcomes, stage, optimizer):
        clipped, expected = outcomes[f"zero{stage}-clipped-{optimizer}"], outcomes[f"plain-clipped-{optimizer}"]
        for name in NETWORKS:
            assert clipped.distance(expected, name) < ROUNDING
            assert 0 < clipped.moved(name) < outcomes[f"zero{stage}-{optimizer}"].moved(name)

    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    def test_partition_a_classifier_with_plain_losses_under_zero3(self, outcomes, optimizer):
        found, expected = outcomes[f"zero3-wide-{optimizer}"], outcomes[f"plain-wide-{optimizer}"]
        agree(found, expected)
        assert found.ranks[0]["elements"]["classifier"] < expected.ranks[0]["elements"]["classifier"] / 2
        assert found.ranks[0]["elements"]["critic"] == expected.ranks[0]["elements"]["critic"]  # kept whole

    def test_clip_under_zero3_too(self, outcomes):
        found, expected = outcomes["zero3-clipped-momentum"], outcomes["plain-wide-clipped-momentum"]
        assert found.distance(expected, "classifier") < ROUNDING
        assert found.moved("classifier") < outcomes["zero3-wide-momentum"].moved("classifier")

    @pytest.mark.parametrize("stage", [1, 2])
    def test_refuse_gradients_that_another_networks_update_left_behind(self, outcomes, stage):
        assert "reached the parameters of critic" in outcomes[f"unfrozen-critic-zero{stage}-sgd"].ranks[0]["error"]

    def test_do_not_go_on_silently_where_zero3_skips_an_update(self, outcomes):
        for rank in outcomes["not-a-number-sgd"].ranks:
            assert rank["error"].startswith("gradient of classifier is not finite")


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    ("name", "uninterrupted"),
    [
        ("zero1-from-zero2", "plain"),
        ("zero2-from-plain", "plain"),
        ("plain-from-zero1", "plain"),
        ("plain-from-zero2", "plain"),
        ("zero2-alone", "plain"),
        ("zero3-from-plain", "plain-wide"),
        ("plain-from-zero3", "plain-wide"),
    ],
)
def test_a_checkpoint_goes_on_under_another_backend_and_world_size(outcomes, name, uninterrupted, optimizer):
    resumed, expected = outcomes[f"{name}-{optimizer}"], outcomes[f"{uninterrupted}-{optimizer}"]
    agree(resumed, expected)
    for key in {"sgd": (), "momentum": ("momentum_buffer",), "adamw": ("exp_avg", "exp_avg_sq", "step")}[optimizer]:
        for network in NETWORKS:
            moment, found = expected.optimizer(network, key), resumed.optimizer(network, key)
            assert (found - moment).abs().max() < 1e-5 * moment.abs().max()


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_goes_on_from_its_own_checkpoint_to_the_bit(outcomes, optimizer):
    for name in NETWORKS:
        assert outcomes[f"zero2-from-zero2-{optimizer}"].distance(outcomes[f"zero2-{optimizer}"], name) == 0


@needs_deepspeed
@pytest.mark.slow
def test_autocast_is_in_force_in_the_training_forward(outcomes):
    for name in NETWORKS:
        assert outcomes["bf16-zero2-sgd"].distance(outcomes["bf16-plain-sgd"], name) < ROUNDING
        assert outcomes["bf16-zero2-sgd"].distance(outcomes["plain-sgd"], name) > 1e-5


def test_a_missing_deepspeed_is_one_message_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)  # what import then finds
    for name in ("DS_ACCELERATOR", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")  # so that what prepare sets is undone
    module = torch.nn.Linear(2, 1)
    with pytest.raises(UsageError, match=r"pip install 'genxai\[deepspeed\]'"):
        zero.prepare(
            "critic",
            module,
            torch.optim.SGD(module.parameters(), lr=0.1),
            stage=2,
            device=torch.device("cpu"),
            autocast=lambda: torch.autocast("cpu", enabled=False),
        )
