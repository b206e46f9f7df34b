"""Methods by name: what is known, what is refused and why, and that one file is enough to add one."""

import re
import sys
from pathlib import Path

import pytest
import torch

from genxai.configfile import load_config
from genxai.errors import UsageError
from genxai.fairness import methods
from genxai.fairness.methods import build_method, known_methods
from genxai.fairness.methods import registry as registry_module
from genxai.training.experiment import build

DOCUMENT = Path(__file__).parents[3] / "docs" / "methods.md"


def test_the_baselines_are_known():
    expected = {"erm", "group_resample", "group_dro", "jtt", "dfr", "rrr", "texture_swap"}
    assert expected <= set(known_methods())
    assert all(name == kind.name for name, kind in known_methods().items())


def test_an_unknown_name_is_refused_with_the_known_ones_and_the_nearest(configured):
    with pytest.raises(UsageError, match=r"method\.name: unknown 'group_dor'; allowed: dfr, erm, .*'group_dro'"):
        build(configured("method.name=group_dor"))


def test_a_number_for_a_method_that_has_none_is_refused(configured):
    with pytest.raises(UsageError, match=r"method\.strength=2\.0: group_resample has no such number"):
        build(configured("method.name=group_resample", "method.strength=2.0"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("method.name=rrr", "model.fusion=text"), "rrr needs images, but .*model.fusion=text"),
        (("method.name=texture_swap", "data.mode=none"), "texture_swap needs textures, but data.mode=none"),
        (("method.name=texture_swap", "method.strength=1.5"), "a share, 0 to 1"),
        (("method.name=dfr", "method.strength=0.0"), "above 0"),
        (("method.name=jtt", "method.strength=0.0"), "above 0"),
        (("method.name=jtt", "method.warmup_epochs=2"), "method.warmup_epochs=2 leaves jtt nothing of train.epochs=2"),
    ],
)
def test_what_a_method_cannot_do_is_refused_before_the_first_step(configured, overrides, message):
    with pytest.raises(UsageError, match=message):
        build(configured(*overrides))


def test_comments_have_neither_groups_nor_masks_but_jtt_needs_none(alone, split):
    text = {"data.dataset": "toxicity-surge", "model.fusion": "text", "train.generator": "false"}
    text |= {"revise.enabled": "false", "objective.lambda_attribution": "0.0"}
    overrides = [f"{key}={value}" for key, value in text.items()]
    train = split([0, 1], [True, True], 2)
    for name in ("group_resample", "group_dro", "dfr", "rrr", "texture_swap"):
        config = load_config("tiny", [*overrides, f"method.name={name}"])
        with pytest.raises(UsageError, match=r"toxicity-surge has comments alone; what can be used: erm, jtt$"):
            build_method(config, train, alone)
    for name in ("erm", "jtt"):
        assert build_method(load_config("tiny", [*overrides, f"method.name={name}"]), train, alone).name == name


def test_zero3_refuses_the_method_that_is_differentiated_twice(configured):
    with pytest.raises(UsageError, match=r"method\.name=rrr.*cannot be differentiated twice; use zero2 or ddp"):
        configured("method.name=rrr", "train.backend=zero3")


def test_one_file_in_the_package_is_a_new_method(configured, tmp_path, monkeypatch):
    """The file is the example of docs/methods.md."""
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (tmp_path / "focal.py").write_text(code)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    monkeypatch.setattr(registry_module, "METHODS", dict(registry_module.METHODS))
    try:
        experiment = build(configured("method.name=focal", "method.strength=3.0"))
    finally:
        sys.modules.pop("genxai.fairness.methods.focal", None)
    sample = experiment.classifier_batch(0)
    logits = torch.randn(len(sample.labels), 10)
    p = logits.softmax(1).gather(1, sample.labels[:, None])[:, 0]
    torch.testing.assert_close(experiment.method.loss(logits, sample), ((1 - p) ** 3 * -p.log()).mean())
    assert experiment.method.record() == {"name": "focal", "strength": 3.0, "trained_on": ["train"]}


def test_the_document_has_every_method_with_its_default(configured):
    rows = {cells[1].strip(" `"): cells for line in DOCUMENT.read_text().splitlines() if (cells := line.split("|"))[1:]}
    for name, kind in known_methods().items():
        stated = rows[name][-2].strip()
        assert stated == ("chosen" if name == "dfr" else f"{kind.default_strength:g}" if kind.strength_is else "")


def test_two_methods_cannot_have_one_name():
    known_methods()
    with pytest.raises(ValueError, match="'erm' is registered already"):
        methods.method("erm")(type("Other", (methods.Method,), {}))
