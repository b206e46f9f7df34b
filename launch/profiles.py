"""Cluster profiles: what to ask Slurm for, as a validated YAML file under slurm/.

A profile knows nothing of the runs; it becomes submitit parameters in `slurm_parameters`.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, field_validator, model_validator

from genxai.backend_rules import backend_of, unsupported
from genxai.config import Config, Section
from genxai.configfile import Tree, apply_override, read_tree, validate
from genxai.errors import UsageError
from launch.cli import REPOSITORY, split_overrides

_CLOCK = re.compile(r"^(?:(?P<days>\d+)-)?(?P<hours>\d+):(?P<minutes>[0-5]\d):(?P<seconds>[0-5]\d)$")
_GPUS = re.compile(r"gpu(:[^:,]+)?:(?P<count>\d+)(?=$|[,(])")
_NAME = Annotated[str, Field(pattern=r"^\S+$")] | None


class Profile(Section):
    """What one job asks of a Slurm cluster; null leaves the choice to the cluster."""

    partition: _NAME = Field(None, description="partition, or several separated by commas")
    gres: _NAME = Field(None, description="generic resources of a job, for example gpu:a6000:1")
    constraint: str | None = Field(None, description="node features, for example ampere")
    account: _NAME = Field(None, description="account that is charged")
    qos: _NAME = Field(None, description="quality of service")
    time: Annotated[int, Field(ge=1)] = Field(240, description="time limit [minutes], or [D-]HH:MM:SS")
    nodes: Annotated[int, Field(ge=1)] = Field(1, description="nodes of a job")
    tasks: Annotated[int, Field(ge=1)] = Field(1, description="processes of a run, one per GPU, over all its nodes")
    accelerate: _NAME = Field(
        None, description="how they share the work: a file of slurm/accelerate by name or path (null: ddp)"
    )
    cpus_per_task: Annotated[int, Field(ge=1)] = Field(
        2, description="CPU cores of a run's process; runs side by side in one job get as many each"
    )
    mem: Annotated[str, Field(pattern=r"^\d+[KMGT]?$")] = Field(
        "8G", description="memory of a run, for example 16G; runs side by side in one job get as much each"
    )
    signal_delay_s: Annotated[int, Field(ge=1)] = Field(
        90, description="how long before the time limit a job is told to save [s]"
    )
    array_parallelism: Annotated[int, Field(ge=1)] = Field(256, description="elements of one array running at once")
    setup: tuple[str, ...] = Field((), description="shell commands before the run, for example module load cuda")
    env: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], str] = Field(
        default_factory=dict, description="environment variables of the run"
    )

    @field_validator("time", mode="before")
    @classmethod
    def _minutes(cls, value: Any) -> Any:
        """HH:MM:SS as whole minutes, rounded up."""
        if isinstance(value, str) and (match := _CLOCK.match(value)):
            days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
            return days * 1440 + hours * 60 + minutes + (seconds > 0)
        if isinstance(value, str) and not value.isdigit():
            raise ValueError("expected minutes, HH:MM:SS or D-HH:MM:SS")
        return value

    @field_validator("env", mode="before")
    @classmethod
    def _strings(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: str(v) if isinstance(v, int | float) and not isinstance(v, bool) else v for k, v in value.items()}

    @model_validator(mode="after")
    def _tasks_divide(self) -> Profile:
        if self.tasks % self.nodes:
            raise ValueError(f"tasks must be a multiple of nodes, got tasks={self.tasks}, nodes={self.nodes}")
        if self.accelerate is not None:
            accelerate_environment(self.accelerate)
        return self

    @model_validator(mode="after")
    def _time_to_work(self) -> Profile:
        if self.signal_delay_s >= 60 * self.time:
            raise ValueError(
                f"signal_delay_s must be shorter than the time limit, got {self.signal_delay_s} s and {self.time} min"
            )
        return self


def profile_names() -> list[str]:
    """Profiles that ship in slurm/."""
    return sorted(file.stem for file in (REPOSITORY / "slurm").glob("*.yaml"))


def chosen_profile(words: Sequence[str]) -> Profile:
    """The profile that the words of --profile say: a name or path (default: gpu) and key=value overrides."""
    name, overrides = split_overrides(words, "profile")
    return load_profile(name or "gpu", overrides)


def load_profile(source: str, overrides: Sequence[str] = ()) -> Profile:
    """A profile by path or by the name of a file in slurm/. Raises UsageError naming file, key and what is allowed."""
    path = Path(source)
    if not path.exists() and source in profile_names():
        path = REPOSITORY / "slurm" / f"{source}.yaml"
    if not path.is_file():
        near = difflib.get_close_matches(source, profile_names(), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"profile {source!r}: neither a file nor one of {', '.join(profile_names())}{hint}")
    tree, where = read_tree(path.absolute())
    for text in overrides:
        apply_override(tree, text)
        _keep_text(tree, text)
    _read_time_as_text(tree, path, overrides)
    return validate(Profile, tree, where, overrides)


def _keep_text(tree: Tree, override: str) -> None:
    """An environment variable is text as it was typed: yes stays yes."""
    section, _, rest = override.partition(".")
    name, _, value = rest.partition("=")
    if section == "env" and "." not in name and isinstance(tree.get("env"), dict):
        tree["env"][name] = value


def _read_time_as_text(tree: Tree, path: Path, overrides: Sequence[str]) -> None:
    """YAML 1.1 reads an unquoted 4:00:00 as the number 14400; a person means four hours."""
    if "time" in tree:
        raw = yaml.load(path.read_text(), Loader=yaml.BaseLoader)  # builds nothing but text, lists and mappings
        given = [text.partition("=")[2] for text in overrides if text.startswith("time=")]
        tree["time"] = given[-1] if given else raw["time"]


def accelerate_environment(source: str) -> dict[str, str]:
    """What `accelerate launch --config_file` would put into the environment for the backend of a file.

    srun starts the processes, so only the backend counts. Raises UsageError for a file that is not there or names a
    kind that the suite does not have.
    """
    folder = REPOSITORY / "slurm" / "accelerate"
    path = Path(source) if Path(source).is_file() else folder / f"{source}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise UsageError(f"accelerate={source!r}: neither a file nor one of {names}")
    tree, _ = read_tree(path.absolute())
    kind = str(tree.get("distributed_type", "NO"))
    if kind == "DEEPSPEED":
        stage = (tree.get("deepspeed_config") or {}).get("zero_stage", 2)
        return {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage)}
    if kind == "FSDP":
        return {"ACCELERATE_USE_FSDP": "true"}
    if kind in ("NO", "MULTI_GPU", "MULTI_CPU"):
        return {}
    raise UsageError(f"{path}: distributed_type {kind} is not supported; use NO, MULTI_GPU, FSDP or DEEPSPEED")


def check_profile_fits(profile: Profile, config: Config) -> None:
    """Raises UsageError where a job of the profile would refuse the run, before it has waited in a queue."""
    wanted, batch = config.run.processes, config.train.batch_size
    if wanted not in (None, profile.tasks):
        raise UsageError(f"the profile starts tasks={profile.tasks}, but run.processes={wanted}; leave one of them out")
    if batch % profile.tasks:
        raise UsageError(f"train.batch_size={batch} cannot be shared equally by tasks={profile.tasks}")
    backend = backend_of(accelerate_environment(profile.accelerate)) if profile.accelerate else None
    if backend and config.train.backend not in ("auto", backend):
        raise UsageError(f"accelerate={profile.accelerate}, but train.backend={config.train.backend}: make them agree")
    reason = unsupported(config, backend) if backend else None
    if reason:
        raise UsageError(f"accelerate={profile.accelerate}: {reason}")


def check_packing_fits(profile: Profile) -> None:
    """Raises UsageError where several runs cannot share a job of the profile."""
    if profile.tasks > 1:
        raise UsageError(
            f"--runs-per-gpu: the profile starts tasks={profile.tasks} processes for each run, which has its GPUs for "
            "itself; use tasks=1"
        )
    gpus = _GPUS.search(profile.gres or "")
    if gpus and int(gpus["count"]) > 1:
        raise UsageError(
            f"--runs-per-gpu: gres={profile.gres} gives a job {gpus['count']} GPUs, but its runs share one; ask for one"
        )


def check_shares_gpu(config: Config, runs_per_gpu: int) -> None:
    """Raises UsageError where a run of several processes would have to share its GPUs."""
    if runs_per_gpu > 1 and (config.run.processes or 1) > 1:
        raise UsageError(
            f"--runs-per-gpu: run.processes={config.run.processes}, but a run of several processes has its GPUs for "
            "itself; leave one of them out"
        )


def slurm_parameters(profile: Profile, name: str, threads: int, side_by_side: int = 1) -> dict[str, Any]:
    """Parameters of submitit's SlurmExecutor for jobs of runs that use `threads` CPU threads each.

    side_by_side: runs alive at once in one job; each gets the profile's cores and memory.
    """
    cpus = max(profile.cpus_per_task, threads) * side_by_side
    size, unit = int(profile.mem.rstrip("KMGT")), profile.mem.lstrip("0123456789")
    backend = accelerate_environment(profile.accelerate) if profile.accelerate else {}
    env = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **backend, **profile.env}
    # a task that is left alone would wait for the others until a time-out
    several = ["--kill-on-bad-exit=1"] if profile.tasks > 1 else []
    wanted = {
        "job_name": name,
        "partition": profile.partition,
        "gres": profile.gres,
        "constraint": profile.constraint,
        "account": profile.account,
        "qos": profile.qos,
        "time": profile.time,
        "nodes": profile.nodes,
        "ntasks_per_node": profile.tasks // profile.nodes,
        "cpus_per_task": cpus,
        "srun_args": [f"--cpus-per-task={cpus}", *several],  # since Slurm 22.05 srun does not take it from sbatch
        "mem": f"{size * side_by_side}{unit}",
        "signal_delay_s": profile.signal_delay_s,
        "array_parallelism": profile.array_parallelism,
        "setup": [*profile.setup, *(f"export {key}={shlex.quote(value)}" for key, value in env.items())],
        "additional_parameters": {"requeue": True},  # clusters with JobRequeue=0 must be asked
    }
    return {key: value for key, value in wanted.items() if value is not None}
