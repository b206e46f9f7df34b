"""Eq. 12, the paper's complexity, with a constant for every term, evaluated for our networks.

O(B (C(d_v) + L_t^2 d_t + L_t d_t^2 + L_v L_t d_f + (L_v + L_t) d_f^2 + K_ch h' w')) + O(rho N c_bwd) per epoch, memory
O(B (h L_v L_t + H W)). An order of growth has no constants; those here are counted off the layers and written down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from analysis.costs.step import FLOAT32
from genxai.config import Config
from genxai.data.factors import NUM_CLASSES

#: a backward pass costs two forward passes: one gradient for the inputs, one for the weights
FORWARD_BACKWARD = 3
BACKWARD = 2
#: multiply-adds of one forward pass at 224 px in units of 10^9, with the final linear layer (torchvision's model table)
RESNET_GMAC = {"resnet18": 1.81, "resnet50": 4.09}
RESNET_PIXELS = 224
#: per activation: ReLU of the gradient, S_k, S g, + 2, 1 / x, alpha g, the sum w_k, and w_k A_k with its sum
MAP_OPERATIONS = 9


@dataclass(frozen=True)
class Term:
    """One term: the component it stands for, its formula with constants, and its value per joint step."""

    component: str
    formula: str
    flops: float


@dataclass(frozen=True)
class Complexity:
    """Eq. 12 for one configuration. `symbols`: what each symbol is here, `memory_bytes` its second half in float32."""

    symbols: dict[str, float]
    terms: tuple[Term, ...]
    memory_formula: str
    memory_bytes: float

    @property
    def total(self) -> float:
        return sum(term.flops for term in self.terms)

    @property
    def share(self) -> float:
        """Fusion, map and revision over everything: what the paper says is under 12 %."""
        return sum(t.flops for t in self.terms if t.component in ("fusion", "explanation", "revision")) / self.total


def eq12(config: Config, shapes: Mapping[str, int], monitored: int) -> Complexity:
    """The terms of Eq. 12 that this configuration has, in operations per joint step.

    shapes: those of `StepCost`. monitored: samples of a batch that are explained. Encoders, fusion and head count
    `FORWARD_BACKWARD` times their forward pass, as the paper's sentence speaks of a forward-backward pass.
    """
    model, batch = config.model, config.train.batch_size
    symbols: dict[str, float] = {
        "B": batch,
        "d_v": model.image.input_size,
        **shapes,
        "d_f": model.dim,
        "h": model.heads,
        "N_f": model.layers,
        "rho": monitored / batch,
    }
    forward: dict[str, tuple[str, float]] = {}
    if model.fusion != "text":
        forward["image_encoder"] = _image(config)
    if model.fusion != "image":
        length, width = shapes["L_t"], shapes["d_t"]
        per_layer = 24 * length * width**2 + 4 * length**2 * width
        forward["text_encoder"] = "N_t (24 L_t d_t^2 + 4 L_t^2 d_t)", shapes["N_t"] * per_layer
    if model.fusion == "cross":
        forward["fusion"] = _fusion(config, shapes)
    hidden = 2 * model.hidden * (shapes["F"] + NUM_CLASSES)
    forward["head"] = "2 d_h (F + K)", hidden
    terms = [
        Term(name, f"{FORWARD_BACKWARD} B [{formula}]", FORWARD_BACKWARD * batch * flops)
        for name, (formula, flops) in forward.items()
    ]
    backward = BACKWARD * sum(flops for _, flops in forward.values())
    if "K_ch" in shapes:
        area = shapes["K_ch"] * shapes["h'"] * shapes["w'"]
        terms.append(Term("explanation", f"{MAP_OPERATIONS} rho B K_ch h' w'", MAP_OPERATIONS * monitored * area))
        terms.append(Term("revision", f"rho B c_bwd, c_bwd = {BACKWARD} c_fwd", monitored * backward))
    pixels = config.data.image_size**2
    tensors = model.heads * shapes.get("L_v", 0) * shapes.get("L_t", 0) + pixels
    return Complexity(symbols, tuple(terms), "4 bytes x B (h L_v L_t + H W)", float(FLOAT32 * batch * tensors))


def _image(config: Config) -> tuple[str, float]:
    """C(d_v): grows with the number of pixels; small_cnn's is summed over its five convolutions."""
    image, side = config.model.image, config.model.image.input_size
    if image.name in RESNET_GMAC:
        multiply_adds = RESNET_GMAC[image.name] * 1e9
        formula = f"2 x {RESNET_GMAC[image.name]} 10^9 (d_v / {RESNET_PIXELS})^2"
        return formula, 2 * multiply_adds * (side / RESNET_PIXELS) ** 2
    width, half, quarter = image.width, (side + 1) // 2, (side + 3) // 4
    products = width * side**2 + (2 + 4) * width**2 * half**2 + (8 + 16) * width**2 * quarter**2
    return "2 x 9 (w d_v^2 + 6 w^2 (d_v/2)^2 + 24 w^2 (d_v/4)^2)", 2.0 * 9 * products


def _fusion(config: Config, shapes: Mapping[str, int]) -> tuple[str, float]:
    """Both directions of attention in every layer; the input projections, which Eq. 12 leaves out, are added."""
    width, layers = config.model.dim, config.model.layers
    image, text = shapes["L_v"], shapes["L_t"] + 1  # with the null token
    attention = 8 * image * text * width + 8 * (image + text) * width**2
    projections = 2 * width * (image * shapes["C_v"] + shapes["L_t"] * shapes["d_t"])
    formula = "N_f (8 L_v L_t' d_f + 8 (L_v + L_t') d_f^2) + 2 d_f (L_v C_v + L_t d_t), L_t' = L_t + 1"
    return formula, layers * attention + projections
