"""What is counted is what is executed, in closed form and against the real joint step; Table 7 only reads files."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, shape_wrapper

from analysis import complexity
from analysis.costs.formulas import eq12
from analysis.costs.meter import FORMULAS, Meter, Work, _Watch, contentless
from analysis.costs.step import StepCost, measure_step
from analysis.table7 import HOW
from genxai.config import Config
from genxai.configfile import load_config
from genxai.models import Critic

CPU = torch.device("cpu")


def count(work: Callable[[], object]) -> Work:
    with Meter(CPU) as meter:
        work()
        return meter.lap()


def penalised(layer: nn.Module, inputs: torch.Tensor) -> Callable[[], None]:
    """A loss on the gradient of a non-linear score of the layer's outputs with respect to its inputs."""

    def work() -> None:
        score = layer(inputs).square().sum()
        (gradient,) = torch.autograd.grad(score, inputs, create_graph=True)
        gradient.square().sum().backward()

    return work


# --- the meter -----------------------------------------------------------------------------------


def test_a_penalty_on_a_convolutions_gradient_costs_six_of_its_forward_passes() -> None:
    """Forward, gradient of the inputs; then of that gradient's inputs and weights, and of the forward pass's."""
    images, channels, filters, side, size = 2, 3, 5, 8, 3
    layer = nn.Conv2d(channels, filters, size, padding=1)
    forward = 2 * images * filters * channels * size**2 * side**2
    inputs = torch.randn(images, channels, side, side, requires_grad=True)
    assert count(lambda: layer(inputs)).flops == forward
    assert count(penalised(layer, inputs)).flops == 6 * forward


def test_a_penalty_on_a_linear_layers_gradient_costs_six_of_its_forward_passes() -> None:
    layer, inputs = nn.Linear(7, 11), torch.randn(4, 7, requires_grad=True)
    assert count(lambda: layer(inputs)).flops == 2 * 4 * 7 * 11
    assert count(penalised(layer, inputs)).flops == 6 * 2 * 4 * 7 * 11


def test_attention_counts_the_same_fused_or_as_matrix_products() -> None:
    from genxai.models.attention import twice_differentiable_attention

    heads, queries, keys, width = 3, 5, 7, 4
    query, key = torch.randn(2, heads, queries, width), torch.randn(2, heads, keys, width)
    products = 2 * (2 * heads * queries * keys * width) * 2
    assert count(lambda: twice_differentiable_attention(query, key, key)).flops == products
    assert count(lambda: scaled_dot_product_attention(query, key, key)).flops == products


def test_an_attention_kernel_without_a_formula_is_refused_instead_of_counted_as_nothing() -> None:
    query = torch.randn(1, 2, 3, 4)
    with pytest.raises(NotImplementedError, match="attention"), _Watch(set()):
        scaled_dot_product_attention(query, query, query)


def test_a_fourier_transform_of_n_points_counts_5_n_log2_n() -> None:
    assert count(lambda: torch.fft.fft2(torch.randn(3, 8, 16))).flops == 3 * 5 * 128 * math.log2(128)


def test_peak_memory_is_that_of_the_tensors_alive_at_once() -> None:
    def work() -> None:
        first = torch.zeros(1000)  # 4,000 bytes
        view = first.view(10, 100)  # none of its own
        second = view + 1  # 8,000
        del first, view  # 4,000
        third = second.double()  # 12,000
        del second, third

    assert count(work).peak_bytes == 12_000


@pytest.mark.parametrize("attention", ["residual", "none"])
def test_tensors_without_content_count_as_real_ones_do(attention: str) -> None:
    config = load_config("tiny", [f"model.gan.attention={attention}"]).model.gan

    def critic() -> Work:
        network, labels = Critic(config, 10, 28), torch.zeros(4, dtype=torch.long)
        images = torch.rand(4, 1, 28, 28, requires_grad=True)

        def work() -> None:
            (gradient,) = torch.autograd.grad(network(images, labels).sum(), images, create_graph=True)
            gradient.square().sum().backward()

        return count(work)

    real = critic()
    with contentless(CPU):
        assert critic() == real


# --- the joint step ------------------------------------------------------------------------------

CONFIGURATIONS = [
    (),
    pytest.param(("revise.enabled=false",), marks=pytest.mark.slow),
    pytest.param(("revise.generator_weight=0.0", "explain.fraction=0.5"), marks=pytest.mark.slow),
    pytest.param(("model.fusion=early", "objective.lambda_gp=0.0"), marks=pytest.mark.slow),
    pytest.param(("model.fusion=image", "revise.score=texture_evidence"), marks=pytest.mark.slow),
    pytest.param(
        ("model.fusion=text", "revise.enabled=false", "objective.lambda_attribution=0.0"), marks=pytest.mark.slow
    ),
    pytest.param(("train.precision=bf16",), marks=pytest.mark.slow),
]


def real_step(config: Config) -> Callable[[], object]:
    """A joint step of the loop, whose optimisers have made their state."""
    from genxai.fairness import Ledger
    from genxai.training.experiment import build
    from genxai.training.loop import joint_step

    experiment, ledger = build(config), Ledger(config.revise.tau)
    joint_step(experiment, 0, ledger)
    return lambda: joint_step(experiment, 1, ledger)


def on_cpu(*overrides: str) -> Config:
    return load_config("tiny", ["train.threads=1", "run.device=cpu", "revise.audit_every=1", *overrides])


@pytest.mark.parametrize("overrides", CONFIGURATIONS)
def test_the_parts_add_up_to_what_a_real_joint_step_executes(overrides: tuple[str, ...]) -> None:
    config = on_cpu(*overrides)
    real = count(real_step(config))
    cost = measure_step(config)
    assert cost.flops() == real.flops
    # the largest update; the loop also holds the data of all critic updates
    assert max(cost.peak_bytes.values()) == pytest.approx(real.peak_bytes, rel=0.1)


class ByPrecision(TorchDispatchMode):
    """Operations by the type of what they compute."""

    def __init__(self) -> None:
        super().__init__()
        self.flops: Counter[torch.dtype] = Counter()
        self._formulas = flop_registry | {kernel: shape_wrapper(formula) for kernel, formula in FORMULAS.items()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if formula := self._formulas.get(func.overloadpacket):
            computed = next(leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor))
            self.flops[computed.dtype] += formula(*args, **(kwargs or {}), out_val=out)
        return out


@contextlib.contextmanager
def half_attention() -> Iterator[None]:
    """On its own, torch computes the products of unfused attention in float32: a percent of everything."""
    allowed = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(allowed)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        pytest.param(("model.fusion=image", "revise.score=texture_evidence"), marks=pytest.mark.slow),
        pytest.param(("revise.generator_weight=0.0", "revise.enabled=false"), marks=pytest.mark.slow),
    ],
)
def test_the_parts_called_half_precision_are_what_a_real_joint_step_executes_in_it(overrides: tuple[str, ...]) -> None:
    config = on_cpu("train.precision=bf16", *overrides)
    step = real_step(config)
    with half_attention(), ByPrecision() as real:
        step()
    cost = measure_step(config, memory=False)
    half = sum(part.flops for part in cost.parts if part.precision == "bf16")
    assert half == real.flops[torch.bfloat16]
    assert cost.flops() - half == real.flops.total() - real.flops[torch.bfloat16]


@pytest.fixture(scope="module")
def tiny() -> StepCost:
    return measure_step(load_config("tiny"))


def test_an_explained_pass_is_taken_apart_at_its_map(tiny: StepCost) -> None:
    """Below are all of the text encoder and the three convolutions of the image encoder that make the map."""
    width, side = 16, 28
    convolutions = 2 * 9 * (width * side**2 + (2 + 4) * width**2 * (side // 2) ** 2)
    batch = 32
    below = {part.phase: part for part in tiny.parts if part.use == "real samples, below the map"}
    samples = below["forward"].samples
    text = tiny.flops("text_encoder", phases=("forward",)) / batch
    assert below["forward"].flops == samples * (convolutions + text)
    above = [part for part in tiny.parts if part.use == "real samples, above the map" and part.phase == "forward"]
    forward = tiny.flops("image_encoder", "text_encoder", "fusion", "head", phases=("forward",)) / batch
    assert below["forward"].flops + sum(part.flops for part in above) == samples * forward
    # an ordinary backward pass; the first convolution needs no gradient of its inputs
    assert below["backward"].flops == samples * (2 * (convolutions + text) - 2 * 9 * width * side**2)


def test_real_and_generated_samples_share_the_kernels_of_their_one_pass(tiny: StepCost) -> None:
    """R(M) alone launches as many on half of the samples: charged in full, one pass would count as nearly two."""
    alone = measure_step(load_config("tiny", ["revise.enabled=false"]), memory=False)

    def kernels(cost: StepCost) -> float:
        return sum(
            part.kernels for part in cost.parts if part.use.split(",")[0] in ("real samples", "generated samples")
        )

    assert kernels(tiny) == pytest.approx(kernels(alone), rel=0.05)
    assert kernels(alone) > 0


def test_explaining_again_is_charged_as_often_as_it_is_done(tiny: StepCost) -> None:
    always = measure_step(load_config("tiny", ["revise.audit_every=1"]), memory=False)

    def again(cost: StepCost) -> float:
        return sum(part.flops for part in cost.parts if part.use.startswith("again"))

    assert again(always) == pytest.approx(load_config("tiny").revise.audit_every * again(tiny))
    assert {part.phase for part in tiny.parts if part.use.startswith("again")} == {"forward", "map"}


def test_explaining_every_second_step_costs_half(tiny: StepCost) -> None:
    half = measure_step(load_config("tiny", ["explain.every=2"]), memory=False)
    parts = ("explanation", "revision")
    assert half.flops(*parts) == 0.5 * tiny.flops(*parts)
    assert half.flops("critic") == tiny.flops("critic")


def test_parameters_are_those_of_the_optimisers(tiny: StepCost) -> None:
    of_classifier = sum(tiny.parameters[name] for name in ("image_encoder", "text_encoder", "fusion", "head"))
    assert tiny.updated["classifier"] == of_classifier
    assert tiny.updated["critic"] == tiny.parameters["critic"]


def test_resident_memory_is_parameters_gradients_two_moments_and_the_average(tiny: StepCost) -> None:
    assert tiny.resident_bytes == 4 * (4 * sum(tiny.updated.values()) + tiny.updated["generator"])


# --- Eq. 12 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["tiny", "cpu"])
def test_the_constants_of_eq_12_are_exact_where_it_has_a_term_for_what_is_executed(preset: str) -> None:
    config = load_config(preset)
    cost = measure_step(config, memory=False)
    terms = {term.component: term.flops for term in eq12(config, cost.shapes, 3).terms}
    for component in ("text_encoder", "fusion", "head"):
        assert terms[component] == cost.flops(component)
    # the first layer needs no gradient of its inputs
    assert terms["image_encoder"] == pytest.approx(cost.flops("image_encoder"), rel=0.02)


def test_eq_12_charges_a_map_with_what_is_nothing_beside_its_gradient(tiny: StepCost) -> None:
    terms = {term.component: term.flops for term in eq12(load_config("tiny"), tiny.shapes, 3).terms}
    assert terms["explanation"] == 9 * 3 * 32 * 14 * 14
    assert terms["explanation"] < 0.01 * tiny.flops("explanation")


@pytest.mark.slow
def test_the_papers_networks_are_built_without_hub_or_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", "/nonexistent")
    cost = measure_step(load_config("paper"))
    width, inner, layers = 768, 3072, 12
    attention, feed_forward = 4 * (width**2 + width), 2 * width * inner + inner + width
    bert = (30522 + 512 + 2) * width + 2 * width + layers * (attention + feed_forward + 4 * width)
    assert cost.parameters["text_encoder"] == bert
    assert cost.parameters["image_encoder"] == 25_557_032 - (2048 * 1000 + 1000)  # torchvision's figure less `fc`
    # torchvision's table: 4.09 GMAC at 224 px, of which `fc` has 0.002
    assert cost.flops("image_encoder", phases=("forward",)) == pytest.approx(32 * 2 * 4.09e9, rel=2e-3)
    assert 0 < sum(part.flops for part in cost.parts if part.precision == "fp32") < cost.flops()


# --- the command and the table -------------------------------------------------------------------


@pytest.fixture
def counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What the command writes for tiny."""
    assert complexity.main(["tiny", "--runs", str(tmp_path / "runs"), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content == json.loads((tmp_path / "runs" / "complexity" / "tiny.json").read_text())
    return content


def test_shares_are_of_the_operations_listed(counted: dict[str, Any]) -> None:
    flops = {row["id"]: row["flops"] for row in counted["components"]}
    claimed = flops["fusion"] + flops["explanation"] + flops["revision"]
    classifier = claimed + flops["image_encoder"] + flops["text_encoder"] + flops["head"]
    found = {row["id"]: row["share"] for row in counted["shares"]}
    assert sum(flops.values()) == pytest.approx(counted["step"]["flops"])
    assert found["classifier"] == pytest.approx(claimed / classifier)
    assert found["joint"] == pytest.approx(claimed / counted["step"]["flops"])
    extra = flops["explanation"] + flops["revision"]
    assert found["overhead"] == pytest.approx(extra / (counted["step"]["flops"] - extra))
    for row in counted["components"]:
        assert row["flops"] == pytest.approx(row["forward"] + row["backward"] + row["double_backward"])


def test_table_7_shows_what_was_counted_and_the_papers_limit(
    counted: dict[str, Any], tables: Any, tmp_path: Path
) -> None:
    code, out, _ = tables("--tables", "7", "--json")
    (table,) = json.loads(out)["documents"][0]["tables"]
    rows = {row["id"]: row["cells"] for row in table["rows"]}
    assert code == 0
    for component in counted["components"]:
        assert rows[component["id"]]["flops"]["mean"] == pytest.approx(component["flops"] / 1e9)
    assert rows["eq12"]["share"]["paper"] == 12
    assert "NOT THE PAPER'S SCALE" in table["caption"]
    assert {file.name for file in (tmp_path / "tables").iterdir()} == {"table7.md", "table7.csv", "table7.tex"}


def test_without_a_count_every_number_is_a_dash_that_says_how_to_get_one(tables: Any) -> None:
    code, out, _ = tables("--tables", "7")
    assert code == 0
    assert "| Text encoder | Self-attn | — [1] |" in out and HOW in out


@pytest.mark.parametrize("content", ["{", "[]", '{"configuration": {}}', '{"configuration": {"model": 1}}'])
def test_a_file_that_is_no_count_is_named_and_left_out(content: str, tables: Any, tmp_path: Path) -> None:
    file = tmp_path / "runs" / "complexity" / "odd.json"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    code, out, err = tables("--tables", "7")
    assert code == 0 and HOW in out
    assert "warning: left out:" in err and "odd.json" in err


def test_a_gpu_that_is_not_there_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert complexity.main(["tiny", "run.device=cuda", "--runs", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: run.device is 'cuda'")


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from analysis.complexity import _parser; _parser().format_help()\n"
        "slow = {'torch', 'pandas', 'pydantic', 'transformers'} & set(sys.modules)\nassert not slow, slow"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_configuration_can_be_counted_without_maps() -> None:
    config = load_config("tiny", ["model.fusion=image", "objective.lambda_attribution=0.0", "revise.enabled=false"])
    assert isinstance(config, Config)
    content = complexity.measure(config)
    assert {row["id"] for row in content["components"]} & {"explanation", "revision", "fusion"} == set()
    assert {row["id"]: row["share"] for row in content["shares"]}["joint"] == 0
