"""Contract 1: one typed tree; a wrong key or value ends the program with one message that helps."""

import pytest
import yaml

from genxai.backend_rules import backend_of
from genxai.config import Config
from genxai.configfile import dotted_keys, dump_config, find_field, load_config, preset_names, validate
from genxai.errors import UsageError
from genxai.runs import run_signature


def message(*overrides: str, source: str = "tiny") -> str:
    with pytest.raises(UsageError) as caught:
        load_config(source, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_the_presets_ship_with_the_package_and_are_valid():
    assert preset_names() == ["cpu", "paper", "paper-like", "tables", "tiny", "toxicity"]
    for name in preset_names():
        assert load_config(name).name == name


def test_overrides_are_read_as_yaml_on_top_of_the_preset():
    config = load_config("tiny", ["train.epochs=7", "model.fusion=early", "train.lr=1e-3", "train.clip_norm=null"])
    assert (config.train.epochs, config.model.fusion, config.train.lr, config.train.clip_norm) == (
        7,
        "early",
        1e-3,
        None,
    )


def test_a_yaml_file_is_a_source_and_names_the_run(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("train: {epochs: 2}\n")
    config = load_config(path)
    assert config.name == "mine" and config.train.epochs == 2


def test_the_dumped_configuration_is_complete_and_gives_the_same_one():
    config = load_config("tiny", ["objective.lambda_gp=3"])
    tree = yaml.safe_load(dump_config(config))
    assert validate(Config, tree, "dump") == config
    for key in dotted_keys(Config):
        value = tree
        for part in key.split("."):
            if value is None:
                break
            assert part in value, key
            value = value[part]


def test_an_unknown_key_is_named_with_the_nearest_valid_one():
    text = message("objective.lamda_gp=1")
    assert "command line" in text and "'objective.lamda_gp'" in text and "'objective.lambda_gp'" in text


def test_a_wrong_value_says_where_what_was_given_and_what_is_allowed(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("objective: {lambda_bias: -1}\n")
    text = message(source=str(path))
    assert str(path) in text and "objective.lambda_bias" in text and "-1" in text and ">= 0" in text


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("objective.lambda_gp=-1", ">= 0"),
        ("objective.lambda_gp=.nan", "finite"),
        ("model.fusion=late", "'early'"),
        ("train.epochs=zero", "int >= 1"),
        ("data.image_size=30", "multiple of 4"),
        ("model.heads=7", "multiple of heads"),
        ("run.device=gpu", "'cpu'"),
        ("train=3", "section of options"),
        ("objective.lambda_gp=yes", "number"),
        ("train.epochs=true", "integer"),
        ("run.pictures=1", "boolean"),
        ("model.image.name=resnet18", "at least 33"),
        ("model.image.cam_layer=layer3", "ResNet"),
        ("data.amplitude=1.0", "revise.enabled=false"),
        ("name=../up", "pattern"),
        ("model.fusion=text", "no image map"),
        ("data.captions.exact=0.9", "exceed 1"),
    ],
)
def test_every_kind_of_wrong_value_is_one_plain_message(override, told):
    text = message(override)
    assert told in text and "Traceback" not in text and "\n" not in text


@pytest.mark.parametrize("override", ["train.epochs", "=3", "train..epochs=3", "train.epochs=[1", "seed=2026-99-99"])
def test_a_malformed_override_shows_the_form(override):
    assert override in message(override)


@pytest.mark.parametrize("value", ["1" * 5000, "[" * 5000, "[" * 90 + "]" * 90])
def test_a_monstrous_value_is_one_short_message(value):
    assert len(message(f"seed={value}")) < 400


def test_a_yaml_bomb_is_one_short_message(tmp_path):
    path = tmp_path / "bomb.yaml"
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{n}: &{n} [{', '.join([f'*{p}'] * 9)}]" for p, n in zip("abcdefgh", "bcdefghi", strict=True)]
    path.write_text("\n".join(lines))
    assert all(len(line) < 300 for line in message(source=str(path)).splitlines())


def test_code_in_a_yaml_file_is_not_executed(tmp_path):
    path = tmp_path / "evil.yaml"
    path.write_text(f"seed: !!python/object/apply:os.mkdir [{tmp_path / 'made'}]\n")
    assert "not valid YAML" in message(source=str(path)) and not (tmp_path / "made").exists()


def test_an_override_of_a_section_is_blamed_on_the_command_line_with_its_own_nearest_key():
    text = message("trian.epochs=3")
    assert text.startswith("command line") and "'trian.epochs'" in text and "'train.epochs'" in text
    assert message("data.captions.exact=0.9").startswith("command line")


def test_a_file_name_that_cannot_name_a_folder_is_made_to(tmp_path):
    path = tmp_path / "mÿ conf.yaml"
    path.write_text("{}")
    assert load_config(path).name == "m-conf"


def test_a_source_that_does_not_exist_lists_the_presets_and_the_nearest():
    text = message(source="tinny")
    assert "tiny" in text and "paper" in text and "did you mean" in text


def test_invalid_yaml_and_a_list_are_refused_with_the_file_name(tmp_path):
    for content in ("a: [1", "- 1"):
        path = tmp_path / "broken.yaml"
        path.write_text(content)
        assert str(path) in message(source=str(path))


def test_every_option_is_described():
    sections = {"data", "model", "objective", "revise", "train", "run", "origin"}
    for key in dotted_keys(Config):
        field = find_field(Config, key)
        assert field is not None
        if key.split(".")[-1] not in sections and not hasattr(field.annotation, "model_fields"):
            assert field.description or "Literal" in str(field.annotation) or key == "train.gan_betas", key


NOTHING_EXPLAINED = ("revise.enabled=false", "objective.lambda_attribution=0.0")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("train.backend=zero2", "train.precision=fp16"), "halves the weights"),
        (("train.backend=zero3",), "cannot be differentiated twice"),
        (("train.backend=zero3", "revise.enabled=false"), "cannot be differentiated twice"),
        (("train.backend=fsdp2", "model.fusion=image"), "only the text encoder is sharded"),
        (("train.backend=fsdp2", "train.precision=fp16"), "loss scaling"),
        (("run.processes=3",), "cannot be shared equally by 3 processes"),
    ],
)
def test_what_a_backend_would_get_wrong_is_refused_with_its_reason(options, reason):
    with pytest.raises(UsageError, match=reason):
        load_config("tiny", options)


@pytest.mark.parametrize(
    "options",
    [
        ("train.backend=zero3", *NOTHING_EXPLAINED),
        ("train.backend=zero1", "train.precision=bf16"),
        ("train.backend=fsdp2", "train.precision=bf16"),
        ("train.backend=ddp", "train.precision=fp16"),
        ("run.processes=4",),
    ],
)
def test_what_a_backend_can_do_is_allowed_and_changes_no_signature(options):
    plain = [option for option in options if not option.startswith(("train.backend", "run."))]
    one, other = load_config("tiny", options), load_config("tiny", plain)
    assert run_signature(one, "data") == run_signature(other, "data")


@pytest.mark.parametrize(
    ("environment", "backend"),
    [
        ({}, None),
        ({"ACCELERATE_USE_FSDP": "true"}, "fsdp2"),
        ({"ACCELERATE_USE_FSDP": "false"}, None),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, "zero3"),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "0"}, "ddp"),
    ],
)
def test_accelerates_variables_name_a_backend(environment, backend):
    assert backend_of(environment) == backend
