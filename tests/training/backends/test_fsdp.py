"""FSDP2: the sharded classifier computes what one process with the whole batch does, second-order losses included.

In float64, so that nothing but the arithmetic of sharding could differ.
"""

import json

import pytest

pytestmark = pytest.mark.slow

CLASSIFIER = {"networks": ["classifier"], "double": True}
OPTIMIZERS = ("momentum", "adamw")


def case(name, backend, optimizer, **options):
    return {"name": f"{name}-{optimizer}", "backend": backend, "optimizer": optimizer, **CLASSIFIER, **options}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """The architecture of a BERT too small to be any use; without dropout, which would need one stream of masks."""
    folder = tmp_path_factory.mktemp("bert")
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    text = {"vocab_size": 20, "max_position_embeddings": 16, "model_type": "bert", **sizes, **off}
    (folder / "config.json").write_text(json.dumps(text))
    return {"text": {"name": str(folder), "pretrained": False}}


@pytest.fixture(scope="module")
def outcomes(launcher, bert):
    alone, two, after = [], [], []
    for optimizer in OPTIMIZERS:
        alone += [
            case("whole", "plain", optimizer),
            case("whole-clipped", "plain", optimizer, clip=0.05),
            case("whole-early", "plain", optimizer, fusion="early"),
            case("whole-bert", "plain", optimizer, **bert),
            case("whole-sometimes", "plain", optimizer, every=2),
            case("whole-half", "plain", optimizer, steps=[0, 1]),
        ]
        two += [
            case("sharded", "fsdp2", optimizer),
            case("sharded-clipped", "fsdp2", optimizer, clip=0.05),
            case("sharded-early", "fsdp2", optimizer, fusion="early"),
            case("sharded-bert", "fsdp2", optimizer, **bert),
            case("sharded-sometimes", "fsdp2", optimizer, every=2),
            case("sharded-half", "fsdp2", optimizer, steps=[0, 1]),
            case("sharded-from-whole", "fsdp2", optimizer, steps=[1, 3], start=f"whole-half-{optimizer}"),
        ]
        after += [
            case("whole-from-sharded", "plain", optimizer, steps=[1, 3], start=f"sharded-half-{optimizer}"),
            case("one-shard-from-two", "fsdp2", optimizer, steps=[1, 3], start=f"sharded-half-{optimizer}"),
        ]
    bf16 = {"networks": ["classifier"], "bf16": True}
    after += [
        {"name": "bf16-whole", "backend": "plain", "optimizer": "momentum", **bf16},
        {"name": "bf16-sharded", "backend": "fsdp2", "optimizer": "momentum", **bf16},
        {"name": "fp32-sharded", "backend": "fsdp2", "optimizer": "momentum", **bf16, "bf16": False},
    ]
    return launcher.run(1, alone) | launcher.run(2, two) | launcher.run(1, after)


@pytest.mark.parametrize("variant", ["", "-bert"])
def test_the_text_encoder_is_shared_out_between_two_processes(outcomes, variant):
    whole, sharded = outcomes[f"whole{variant}-adamw"], outcomes[f"sharded{variant}-adamw"]
    assert sharded.ranks[0]["processes"] == len(sharded.ranks) == 2
    elements = [rank["elements"]["classifier"] for rank in sharded.ranks]
    text = sum(v.numel() for k, v in whole.ranks[0]["networks"]["classifier"].items() if k.startswith("text_encoder."))
    assert sum(elements) == 2 * whole.ranks[0]["elements"]["classifier"] - text


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("variant", ["", "-clipped", "-early", "-bert", "-sometimes"])
def test_two_processes_make_the_steps_of_one_with_the_whole_batch(outcomes, variant, optimizer):
    whole, sharded = outcomes[f"whole{variant}-{optimizer}"], outcomes[f"sharded{variant}-{optimizer}"]
    assert whole.moved("classifier") > 1e-3
    assert sharded.distance(whole, "classifier") < 1e-12
    assert (sharded.network("classifier", 0) == sharded.network("classifier", 1)).all()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_clipping_counts_shards_and_whole_weights_together(outcomes, optimizer):
    clipped, free = outcomes[f"sharded-clipped-{optimizer}"], outcomes[f"sharded-{optimizer}"]
    assert clipped.moved("classifier") < 0.5 * free.moved("classifier")  # it was active; equality is tested above


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["sharded-from-whole", "whole-from-sharded", "one-shard-from-two"])
def test_a_checkpoint_goes_on_under_another_backend_and_world_size(outcomes, name, optimizer):
    uninterrupted, resumed = outcomes[f"whole-{optimizer}"], outcomes[f"{name}-{optimizer}"]
    assert resumed.distance(uninterrupted, "classifier") < 1e-12
    key = "exp_avg_sq" if optimizer == "adamw" else "momentum_buffer"
    expected, found = uninterrupted.optimizer("classifier", key), resumed.optimizer("classifier", key)
    assert (found - expected).abs().max() < 1e-10 * expected.abs().max() > 0


def test_the_optimizers_counters_are_in_the_checkpoint(outcomes):
    assert (outcomes["sharded-from-whole-adamw"].optimizer("classifier", "step") == 3).all()


def test_autocast_is_in_force_in_the_training_forward(outcomes):
    sharded = outcomes["bf16-sharded"]
    assert sharded.distance(outcomes["bf16-whole"], "classifier") < 1e-6
    assert sharded.distance(outcomes["fp32-sharded"], "classifier") > 1e-5
