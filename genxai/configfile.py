"""Configurations as files: a preset or YAML, then dotted overrides, in; complete YAML out.

A wrong key or value ends in one `UsageError` with the file, the dotted key, what was given and what is allowed.
"""

from __future__ import annotations

import difflib
import re
import reprlib
import types
import typing
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from genxai.config import Config
from genxai.errors import UsageError

Tree = dict[str, Any]
#: what PyYAML raises for text it cannot take: bad syntax, impossible dates and numbers, endless nesting
_NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)
#: through libyaml where it is installed: a sweep plans a thousand configurations at once
_SAFE_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def preset_names() -> list[str]:
    """Names of the presets inside the package."""
    folder = resources.files("genxai") / "presets"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_config(source: str | Path, overrides: typing.Sequence[str] = ()) -> Config:
    """The configuration of a preset (by name) or YAML file (by path), with `key.sub=value` overrides on top.

    Raises UsageError with one line per problem.
    """
    tree, where = read_tree(source)
    # a run is called after its file, as far as a folder can be
    tree.setdefault("name", re.sub(r"[^A-Za-z0-9._-]+", "-", Path(str(source)).stem).lstrip("._-") or "run")
    for text in overrides:
        apply_override(tree, text)
    return validate(Config, tree, where, overrides)


class _EachKeyOnce(yaml.SafeLoader):
    """safe_load, but a key that is there twice is an error: the first one would be dropped without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)  # `<<` is not resolved yet: what it brings may be overridden
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} is there twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return node


def read_tree(source: str | Path) -> tuple[Tree, str]:
    """The raw mapping of a preset or YAML file, and how to call it in messages."""
    text, where = _read_source(str(source))
    try:
        tree = yaml.load(text, Loader=_EachKeyOnce)
    except _NOT_YAML as error:
        raise UsageError(f"{where}: not valid YAML: {shortened(' '.join(str(error).split()), 300)}") from None
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise UsageError(f"{where}: expected a mapping of options, got {type(tree).__name__}")
    return tree, where


def _read_source(source: str) -> tuple[str, str]:
    if source in preset_names():
        return (resources.files("genxai") / "presets" / f"{source}.yaml").read_text(), f"preset {source}"
    path = Path(source)
    if path.is_dir() and (path / "config.yaml").is_file():
        path = path / "config.yaml"
    try:
        return path.read_text(), str(path)
    except (OSError, UnicodeDecodeError) as error:
        near = difflib.get_close_matches(source, preset_names(), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        reason = getattr(error, "strerror", None) or "not a text file"
        named = str(path) if path.exists() else repr(shortened(source))  # a file is found by its whole path
        raise UsageError(
            f"{named} is neither a preset ({', '.join(preset_names())}) nor a readable YAML file: {reason}{hint}"
        ) from None


def apply_override(tree: Tree, text: str) -> None:
    """Set one `a.b.c=value` in the raw tree; the value is read as YAML."""
    key, separator, value = text.partition("=")
    if not separator or not key or any(not part for part in key.split(".")):
        raise UsageError(f"override {shortened(text)!r}: expected key.sub=value, for example train.epochs=3")
    try:
        parsed = yaml.safe_load(value)
    except _NOT_YAML:
        raise UsageError(f"override {shortened(text)}: the value is not a YAML value") from None
    set_dotted(tree, key, _number(parsed))


def shortened(text: str, length: int = 80) -> str:
    """The text, cut to a length that fits a message."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def set_dotted(tree: Tree, key: str, value: Any) -> None:
    """tree['a']['b'] = value for key 'a.b', making sections on the way."""
    *sections, leaf = key.split(".")
    for section in sections:
        if not isinstance(tree.get(section), dict):
            tree[section] = {}
        tree = tree[section]
    tree[leaf] = value


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as text; a person means a number."""
    if isinstance(value, str):
        try:
            return float(value) if any(digit.isdigit() for digit in value) else value
        except ValueError:
            return value
    return value


ModelT = typing.TypeVar("ModelT", bound=BaseModel)


def validate(model: type[ModelT], tree: Tree, where: str, overrides: typing.Sequence[str] = ()) -> ModelT:
    """The validated model, or a UsageError that lists every problem."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        given = {text.partition("=")[0] for text in overrides}
        lines = [_explain(model, problem, where, given) for problem in error.errors()]
        raise UsageError("\n".join(lines)) from None


def _explain(model: type[BaseModel], problem: Any, where: str, overridden: set[str]) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    # a rule about a section is about the overrides inside it, an unknown section about the override that made it
    touched = [
        given for given in overridden if given == key or given.startswith(f"{key}.") or key.startswith(f"{given}.")
    ]
    place = "command line" if touched or (not key and overridden) else where
    value = shortened(reprlib.repr(problem["input"]))
    if problem["type"] == "extra_forbidden":
        unknown = next((given for given in touched if given.startswith(key)), key)
        near = difflib.get_close_matches(unknown, dotted_keys(model), 1, cutoff=0.0)
        return f"{place}: unknown key {unknown!r} (given {value}); the nearest key is {near[0]!r}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":  # a rule about several keys says itself what it got
        return f"{place}: {key + ': ' if key else ''}{message}"
    if problem["type"] in ("model_type", "model_attributes_type"):
        return f"{place}: {key or 'the file'}: expected a section of options, got {value}"
    field = find_field(model, key)
    allowed = f"; allowed: {_allowed(field)}" if field else ""
    return f"{place}: {key}: {message[:1].lower()}{message[1:]}, got {value}{allowed}"


def _allowed(field: FieldInfo) -> str:
    choices = typing.get_args(field.annotation) if typing.get_origin(field.annotation) is typing.Literal else ()
    if choices:
        text = ", ".join(repr(choice) for choice in choices)
    else:
        limits = [f"{sign} {getattr(m, name)}" for m in field.metadata for name, sign in _SIGNS if hasattr(m, name)]
        text = " ".join([_type_name(field.annotation), *limits])
    return f"{text} ({field.description})" if field.description else text


_SIGNS = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"), ("multiple_of", "multiple of"))


def _type_name(annotation: Any) -> str:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return " or ".join(_type_name(part) for part in typing.get_args(annotation))
    if typing.get_origin(annotation) is typing.Annotated:
        base, *metadata = typing.get_args(annotation)
        limits = [
            f"{sign} {getattr(part, name)}"
            for extra in metadata
            for part in getattr(extra, "metadata", [extra])
            for name, sign in _SIGNS
            if hasattr(part, name)
        ]
        return " ".join([_type_name(base), *limits])
    if typing.get_origin(annotation) is tuple:
        return "[" + ", ".join("..." if part is ... else _type_name(part) for part in typing.get_args(annotation)) + "]"
    return "null" if annotation is type(None) else getattr(annotation, "__name__", str(annotation))


def dotted_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every key of the tree in dotted form, sections included."""
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += dotted_keys(field.annotation, f"{prefix}{name}.")
    return keys


def find_field(model: type[BaseModel], key: str) -> FieldInfo | None:
    """The field a dotted key names, or None."""
    head, _, rest = key.partition(".")
    field = model.model_fields.get(head)
    if field is None or not rest:
        return field
    inner = field.annotation
    if isinstance(inner, type) and issubclass(inner, BaseModel):
        return find_field(inner, rest)
    return field


def get_dotted(config: BaseModel, key: str) -> Any:
    """The value at a dotted key; UsageError names the nearest key if there is none."""
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, BaseModel) or part not in type(value).model_fields:
            near = difflib.get_close_matches(key, dotted_keys(type(config)), 1, cutoff=0.0)
            raise UsageError(f"unknown key {key!r}; the nearest key is {near[0]!r}")
        value = getattr(value, part)
    return value


def dump_config(config: Config) -> str:
    """The complete configuration as YAML; loading it gives an equal configuration."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_SAFE_DUMPER, sort_keys=False, allow_unicode=True)
