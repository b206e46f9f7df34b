"""The command line of launch/sweep.py: its options, and which of them go together."""

from __future__ import annotations

import argparse

from genxai.errors import UsageError
from launch.cli import add_runs_option, make_parser

DESCRIPTION = """
Bring a sweep about: compare the sweep file with the run directories, start what is missing, repeat until complete.

Start it again at any time: it continues from the run directories, computes nothing twice, and a second one on the
same sweep refuses. Ctrl-C (or SIGTERM) on a local sweep asks the running runs to save and stop, then ends; on Slurm
the jobs go on without it. After kill -9 local runs go on too, and the next start finds them.
--cancel ends a sweep: its reconciler, its jobs and its local runs, which save first; started again it goes on.
Runs that fail are started again up to `retries` times; --retry-failed gives failed ones another chance.
Exit code: 0 complete (or the pass of --once is done, or cancelled), 1 some trials failed, the budget is used up, or
not all could be cancelled, 2 wrong usage.
"""

EXAMPLES = """
  python launch/sweep.py                                    sweeps/lambda.yaml on this machine
  python launch/sweep.py quickstart --max-parallel 2        sweeps/quickstart.yaml, two runs at a time
  python launch/sweep.py table2                             the rows of a table, chosen on validation data
  python launch/sweep.py --cluster slurm --profile a6000    the same on Slurm with slurm/a6000.yaml
  python launch/sweep.py --cluster slurm --profile time=8:00:00 --runs-per-gpu 4    four runs on each job's GPU
  python launch/sweep.py --cancel                           has its runs save, and ends it
  python launch/sweep.py --dry-run --json                   the plan only, for a program
  python launch/sweep.py lambda bayes.points=4 seeds=[0] train.epochs=3 space.objective.lambda_gp.grid=[1,10]
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line of launch/sweep.py."""
    parser = make_parser("sweep.py", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "words",
        nargs="*",
        metavar="SWEEP.yaml | key=value",
        help="sweep file or its name in sweeps/ (default: lambda), and overrides of the sweep or of its base",
    )
    parser.add_argument(
        "--cluster", choices=("local", "slurm"), default="local", help="where runs run (default: local)"
    )
    add_runs_option(parser)
    parser.add_argument(
        "--profile",
        action="append",
        default=[],
        metavar="NAME | FILE | KEY=VALUE",
        help="Slurm profile (default: gpu), or an override of it like time=8:00:00 or env.NCCL_DEBUG=INFO; repeatable",
    )
    parser.add_argument(
        "--max-parallel",
        type=int,
        default=None,
        metavar="N",
        help="runs alive at once; local default: one per GPU, else cores / train.threads; Slurm: jobs in the queue",
    )
    parser.add_argument(
        "--runs-per-gpu",
        type=int,
        default=None,
        metavar="K",
        help="runs that share a GPU; on Slurm a job holds K, with K times the profile's cores and memory (default: 1)",
    )
    parser.add_argument(
        "--in-sequence",
        action="store_true",
        help="the K runs of a Slurm job come one after the other, with the cores and memory of one",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan, write and submit nothing")
    parser.add_argument("--once", action="store_true", help="a single pass: submit what is missing now, then end")
    parser.add_argument("--detach", action="store_true", help="go on in the background (local) or as a job (Slurm)")
    parser.add_argument("--retry-failed", action="store_true", help="forget earlier failures and try again")
    parser.add_argument("--cancel", action="store_true", help="end the sweep; asks first, its runs save and stop")
    parser.add_argument("--yes", action="store_true", help="with --cancel: do not ask")
    parser.add_argument("--json", action="store_true", help="print the final state (with --dry-run the plan) as JSON")
    return parser


def check_options(arguments: argparse.Namespace) -> None:
    """Raises UsageError for options that are out of range or do not go together."""
    for name in ("max_parallel", "runs_per_gpu"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')}: expected at least 1, got {value}")
    if arguments.in_sequence and (arguments.cluster != "slurm" or arguments.runs_per_gpu is None):
        raise UsageError("--in-sequence is for the runs of a Slurm job: it needs --cluster slurm and --runs-per-gpu")
    if arguments.yes and not arguments.cancel:
        raise UsageError("--yes is for --cancel")
    others = [name for name in ("once", "detach", "retry_failed") if getattr(arguments, name)]
    if arguments.cancel and others:
        raise UsageError(f"--cancel and --{others[0].replace('_', '-')} do not go together")
    if arguments.profile and arguments.cluster != "slurm" and not arguments.cancel:
        raise UsageError("--profile is for --cluster slurm; local runs take their options from the configuration")
