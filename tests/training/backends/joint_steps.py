"""Started as real processes: takes joint steps of tiny networks under a backend and writes what they became.

    RANK=r WORLD_SIZE=n python joint_steps.py JOB.json

JOB.json: {"folder": where results go, "cases": [{"name", "backend", "optimizer", ...}]}. All processes together see the
same global batch at a step, process r of n its positions r, r + n, ... The backend `plain` is the oracle: torch's own
optimiser on the whole batch, none of our code between them.
"""

import contextlib
import json
import os
import sys
from pathlib import Path

import torch
from torch import distributed as dist
from torch import nn
from torch.nn import functional as F

from genxai.config import ModelConfig
from genxai.errors import NonFiniteError
from genxai.explain import grad_cam_plus_plus, out_of_mask
from genxai.models import Critic, FusionClassifier, Generator, gan
from genxai.training.objectives import gradient_penalty

BATCH, CLASSES, WORDS, TOKENS, LATENT, SIDE = 4, 3, 12, 8, 4, 16
#: so that every network moves visibly in a few steps: generator, critic, classifier
RATES = {"sgd": (0.3, 0.01, 0.03), "momentum": (0.3, 0.01, 0.03), "adamw": (1e-2, 3e-3, 1e-2)}


def smooth(network):
    """Softplus for ReLU: where rounding decides the side of a kink, a gradient differs by far more than rounding."""
    gan.relu = F.softplus
    gan.leaky_relu = lambda features, slope: slope * features + (1 - slope) * F.softplus(features)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Softplus())
    return network


def networks(case, dtype):
    model = ModelConfig.model_validate(
        {
            "fusion": case.get("fusion", "cross"),
            "dim": 8,
            "heads": 2,
            "layers": 1,
            "hidden": 8,
            "dropout": 0.0,
            "image": {"width": 4},
            "text": {"width": 8, "layers": 2, "heads": 2, "max_tokens": TOKENS, **case.get("text", {})},
            "gan": {"latent_dim": LATENT, "width": 4},
        }
    )
    make = {
        "generator": lambda: Generator(model.gan, CLASSES, SIDE),
        "critic": lambda: Critic(model.gan, CLASSES, SIDE),
        "classifier": lambda: FusionClassifier(model, CLASSES, WORDS),
    }
    built = {}
    for name in case.get("networks", make):
        torch.manual_seed(3)
        built[name] = smooth(make[name]()).to(dtype)
    return built


def optimizer(case, name, parameters):
    rate = dict(zip(("generator", "critic", "classifier"), RATES[case["optimizer"]], strict=True))[name]
    if case["optimizer"] == "adamw":
        # with the usual eps the first steps are +-lr whatever the size of a gradient, and rounding becomes movement
        return torch.optim.AdamW(parameters, lr=rate, eps=1e-2, weight_decay=1e-2, fused=True)
    momentum = 0.9 if case["optimizer"] == "momentum" else 0.0
    return torch.optim.SGD(parameters, lr=rate, momentum=momentum, weight_decay=1e-2)


class Plain:
    """The oracle."""

    def __init__(self, module, optimizer, autocast):
        self.module, self.optimizer, self.autocast = module, optimizer, autocast

    def __call__(self, *inputs):
        with self.autocast():
            return self.module(*inputs)

    def update(self, loss, clip_norm):
        self.optimizer.zero_grad()
        loss.backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), clip_norm)
        self.optimizer.step()

    def network_state(self):
        return self.module.state_dict()

    def optimizer_state(self):
        return self.optimizer.state_dict()

    def load(self, network, optimizer, scaler):
        self.module.load_state_dict(network)
        self.optimizer.load_state_dict(optimizer)


def train(case, modules):
    backend, device = case["backend"], torch.device("cpu")

    def autocast():
        return torch.autocast("cpu", torch.bfloat16) if case.get("bf16") else contextlib.nullcontext()

    trained = {}
    for name, module in modules.items():
        if backend == "plain":
            trained[name] = Plain(module, optimizer(case, name, module.parameters()), autocast)
        elif backend == "fsdp2":
            from genxai.training.backends import fsdp

            trained[name] = fsdp.prepare(
                module, lambda parameters: optimizer(case, "classifier", parameters), device=device, autocast=autocast
            )
        else:
            from genxai.training.backends import zero

            stage = int(backend[-1]) if name == "classifier" else min(int(backend[-1]), 2)
            trained[name] = zero.prepare(
                name, module, optimizer(case, name, module.parameters()), stage=stage, device=device, autocast=autocast
            )
    return trained


def global_batch(step, dtype):
    chance = torch.Generator().manual_seed(1000 + step)
    batch = {
        "images": torch.rand(BATCH, 1, SIDE, SIDE, generator=chance, dtype=torch.float64).to(dtype),
        "labels": torch.randint(CLASSES, (BATCH,), generator=chance),
        "latents": torch.randn(BATCH, LATENT, generator=chance, dtype=torch.float64).to(dtype),
        "epsilon": torch.rand(BATCH, generator=chance, dtype=torch.float64).to(dtype),
        "tokens": torch.randint(WORDS, (BATCH, TOKENS), generator=chance),
        "token_mask": torch.rand(BATCH, TOKENS, generator=chance) < 0.7,
        "masks": torch.rand(BATCH, 1, SIDE, SIDE, generator=chance) < 0.4,
    }
    batch["token_mask"][0] = False  # an image without a caption
    return batch


def outside(classifier, images, batch, *, create_graph):
    """The share of Grad-CAM++ map mass outside the masks, [b]; through the plain module, in float32 or more."""
    prediction = classifier.module(images, batch["tokens"], batch["token_mask"])
    score = prediction.logits.gather(1, batch["labels"][:, None]).squeeze(1)
    return out_of_mask(grad_cam_plus_plus(score, prediction.activations, create_graph=create_graph), batch["masks"])


def critic_step(trained, batch, clip):
    generator, critic = trained["generator"], trained["critic"]
    with torch.no_grad():
        fake = generator.module(batch["latents"], batch["labels"])
    scores = critic(torch.cat([fake, batch["images"]]), batch["labels"].repeat(2)).float()
    fake_scores, real_scores = scores.chunk(2)
    penalty = gradient_penalty(critic.module, batch["images"], fake, batch["labels"], epsilon=batch["epsilon"])
    critic.update(fake_scores.mean() - real_scores.mean() + 10 * penalty, clip)


def generator_step(trained, batch, clip, explain, freeze=True):
    generator, critic, classifier = trained["generator"], trained["critic"], trained["classifier"]
    critic.module.requires_grad_(not freeze)
    classifier.module.requires_grad_(False)
    fake = generator(batch["latents"], batch["labels"]).float()
    loss = -critic.module(fake, batch["labels"]).mean()
    if explain:
        loss = loss + outside(classifier, fake, batch, create_graph=True).mean()
    generator.update(loss, clip)
    critic.module.requires_grad_(True)
    classifier.module.requires_grad_(True)


def classifier_step(trained, batch, clip, explain):
    classifier = trained["classifier"]
    logits = classifier(batch["images"], batch["tokens"], batch["token_mask"]).logits
    loss = F.cross_entropy(logits.to(batch["images"].dtype), batch["labels"])
    if explain:
        loss = loss + 5 * outside(classifier, batch["images"], batch, create_graph=True).mean()
    classifier.update(loss, clip)
    if explain:  # what was flagged is explained once more, and this graph is thrown away
        outside(classifier, batch["images"], batch, create_graph=False)


def frozen_pass(trained, batch):
    """What the generator asks of the classifier, where there is no generator: a gradient of the images."""
    classifier = trained["classifier"]
    classifier.module.requires_grad_(False)
    images = batch["images"].clone().requires_grad_(True)
    torch.autograd.grad(outside(classifier, images, batch, create_graph=True).mean(), images)
    classifier.module.requires_grad_(True)


def joint_step(trained, batch, case, step):
    clip, explain = case.get("clip"), case.get("explain", True) and step % case.get("every", 1) == 0
    if "generator" in trained:
        for _ in range(2):
            critic_step(trained, batch, clip)
        generator_step(trained, batch, clip, explain, freeze=case.get("freeze", True))
    elif explain:
        frozen_pass(trained, batch)
    classifier_step(trained, batch, clip, explain)


def run(case, folder, rank, count):
    dtype = torch.float64 if case.get("double") else torch.float32
    modules = networks(case, dtype)
    before = {
        name: {key: value.clone() for key, value in module.state_dict().items()} for name, module in modules.items()
    }
    trained = train(case, modules)
    if case.get("start"):
        saved = torch.load(folder / f"{case['start']}.0.pt", weights_only=True)
        for name, part in trained.items():
            part.load(saved["networks"][name], saved["optimizers"][name], None)
    first, last = case.get("steps", [0, 3])
    error = ""
    try:
        for step in range(first, last):
            batch = {key: value[rank::count] for key, value in global_batch(step, dtype).items()}
            joint_step(trained, batch, case, step)
    except RuntimeError as problem:
        if not case.get("fails"):
            raise
        error = str(problem)
    if case.get("gradient_is_nan"):
        error = skipped_update(trained["classifier"])
    result = {
        "processes": count,
        "error": error,
        "before": before,
        "networks": {name: part.network_state() for name, part in trained.items()},
        "optimizers": {name: part.optimizer_state() for name, part in trained.items()},
        "elements": {
            name: sum(own(value).numel() for value in part.module.parameters()) for name, part in trained.items()
        },
    }
    torch.save(result, folder / f"{case['name']}.{rank}.pt")


def skipped_update(classifier):
    """What is said of an update whose gradient is not a number."""
    images, tokens = torch.rand(1, 1, SIDE, SIDE), torch.zeros(1, TOKENS, dtype=torch.int64)
    loss = classifier(images, tokens, tokens == 0).logits.sum()
    try:
        classifier.update(loss * float("nan"), None)
    except NonFiniteError as problem:
        return str(problem)
    return ""


def own(parameter):
    """What of a parameter this process holds."""
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


def main():
    job = json.loads(Path(sys.argv[1]).read_text())
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    if count > 1:
        dist.init_process_group("gloo", init_method=f"file://{job['rendezvous']}", rank=rank, world_size=count)
        assert dist.get_world_size() == count
    for case in job["cases"]:
        run(case, Path(job["folder"]), rank, count)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
