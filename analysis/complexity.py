"""Command: Table 7 measured - parameters, floating-point operations and memory of every component of a joint step.

Writes RUNS/complexity/NAME.json, which `make_tables.py --tables 7` turns into the table. Needs no data and no weights.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from analysis.commands import COUNTED
from analysis.costs import labels
from genxai.errors import EXIT_OK, UsageError
from launch.cli import add_runs_option, make_parser, run_command, runs_folder, split_overrides

if TYPE_CHECKING:
    from analysis.costs.formulas import Complexity
    from analysis.costs.step import StepCost
    from genxai.config import Config

DESCRIPTION = """
Count what one step of the joint loop executes, component by component, beside the paper's Eq. 12 with its constants:
parameters, floating-point operations (forward, backward, backward through the maps and the penalty) and peak memory.

Operations are counted by torch's FlopCounterMode on the passes of the loop: convolutions, matrix products, attention
and Fourier transforms; elementwise work is not counted. On a GPU the passes are run and the memory is the allocator's
peak; on a CPU they run on tensors without content, and the memory is the largest sum of tensors alive at once.
Neither data nor pretrained weights are needed: random weights cost the same.
"""

EXAMPLES = """
  python analysis/complexity.py                             the paper's scale
  python analysis/complexity.py cpu explain.fraction=0.25 name=cpu-25
  python analysis/complexity.py paper train.precision=bf16 --json | jq .shares
  python analysis/make_tables.py --tables 7                 Table 7 from what has been counted
"""

#: what the paper's sentence is about, and what its forward-backward pass consists of
_CLAIMED = ("fusion", "explanation", "revision")
_CLASSIFIER = ("image_encoder", "text_encoder", "head", *_CLAIMED)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 counted and written, 1 the architecture cannot be had or the file not written, 2 wrong usage."""
    return run_command(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    options = _parser().parse_intermixed_args(argv)
    from genxai.configfile import load_config
    from genxai.files import make_folder, write_json

    source, overrides = split_overrides(options.words, "preset or YAML")
    content = measure(load_config(source or "paper", overrides))
    file = runs_folder(options.runs) / COUNTED / f"{content['name']}.json"
    make_folder(file.parent)
    write_json(file, content)
    print(json.dumps(content, indent=1) if options.json else "\n".join(_lines(content)))
    print(f"written to {file}; the table: python analysis/make_tables.py --tables 7", file=sys.stderr)
    return EXIT_OK


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("complexity.py", DESCRIPTION, EXAMPLES)
    parser.add_argument("words", nargs="*", metavar="SOURCE [key=value ...]", help="preset or YAML (default: paper)")
    add_runs_option(parser)
    parser.add_argument("--json", action="store_true", help="print what is written instead of a table")
    return parser


def measure(config: Config) -> dict[str, Any]:
    """What complexity/NAME.json holds; operations are per joint step, memory in bytes."""
    import torch

    from analysis.costs.formulas import eq12
    from analysis.costs.step import measure_step

    device = torch.device(_device(config))
    cost = measure_step(config, device)
    monitored = max(1, round(config.explain.fraction * config.train.batch_size))
    predicted = eq12(config, cost.shapes, monitored)
    cuda = device.type == "cuda"
    return {
        "name": config.name,
        "configuration": config.model_dump(mode="json", exclude={"origin", "run"}),
        "device": torch.cuda.get_device_name(device) if cuda else "none: tensors without content",
        "memory_is": "peak of the CUDA allocator" if cuda else "largest sum of the bytes of tensors alive at once",
        "torch": torch.__version__,
        "batch_size": config.train.batch_size,
        "explained": monitored,
        "symbols": predicted.symbols,
        "components": _components(cost, predicted),
        "step": {
            "flops": cost.flops(),
            "flops_fp32": sum(part.flops for part in cost.parts if part.precision == "fp32"),
            "flops_double_backward": cost.flops(phases=("double backward",)),
            "kernels": round(sum(part.kernels for part in cost.parts)),
            "update_flops": cost.update_flops,
            "resident_bytes": cost.resident_bytes,
            "peak_bytes": cost.peak_bytes,
            "memory_bytes": cost.memory_bytes,
        },
        "eq12": {
            "flops": predicted.total,
            "memory_bytes": predicted.memory_bytes,
            "memory_formula": predicted.memory_formula,
        },
        "shares": shares(cost, predicted),
        "passes": _passes(cost),
    }


def _device(config: Config) -> str:
    import torch

    if config.run.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("run.device is 'cuda' but torch sees no GPU; use run.device=auto or run.device=cpu")
    return "cuda" if torch.cuda.is_available() and config.run.device != "cpu" else "cpu"


def _components(cost: StepCost, predicted: Complexity) -> list[dict[str, Any]]:
    terms = {term.component: term for term in predicted.terms}
    rows = []
    for component, label in labels.ALL.items():
        parts = [part for part in cost.parts if part.component == component]
        if not parts:
            continue
        flops, term = cost.flops(component), terms.get(component)
        rows.append(
            {
                "id": component,
                "label": label,
                "parameters": cost.parameters.get(component),
                "forward": cost.flops(component, phases=("forward",)),
                "backward": cost.flops(component, phases=("backward", "map")),
                "double_backward": cost.flops(component, phases=("double backward",)),
                "flops": flops,
                "peak_bytes": max(part.work.peak_bytes for part in parts),
                "formula": term.formula if term else None,
                "predicted": term.flops if term else None,
                "predicted_over_measured": term.flops / flops if term and flops else None,
            }
        )
    return rows


def shares(cost: StepCost, predicted: Complexity) -> list[dict[str, Any]]:
    """What can stand beside the paper's 'less than 12 %', each with what it is a share of."""
    claimed, extra = cost.flops(*_CLAIMED), cost.flops("explanation", "revision")
    second = cost.flops("explanation", "revision", phases=("backward", "double backward"))
    ways = (
        ("eq12", "by Eq. 12: fusion, K_ch h' w' per map, rho B backward passes", predicted.share),
        (
            "classifier",
            "as executed: fusion, explanation and revision, of all passes through the classifier",
            claimed / cost.flops(*_CLASSIFIER),
        ),
        ("joint", "as executed: the same, of the joint step with its WGAN-GP", claimed / cost.flops()),
        (
            "backward_of_maps",
            "of which the backward passes of losses on maps, of all passes through the classifier",
            second / cost.flops(*_CLASSIFIER),
        ),
        (
            "overhead",
            "explanation and revision on top of the joint step without them",
            extra / (cost.flops() - extra),
        ),
    )
    return [{"id": name, "definition": words, "share": value} for name, words, value in ways]


def _passes(cost: StepCost) -> list[dict[str, Any]]:
    """Every kind of pass, for whoever wants to add them up in another way."""
    return [
        {
            "component": part.component,
            "phase": part.phase,
            "use": part.use,
            "samples": part.samples,
            "per_step": part.times,
            "precision": part.precision,
            "flops_of_one": part.work.flops,
            "kernels_of_one": part.work.kernels,
        }
        for part in cost.parts
    ]


# --- printing ------------------------------------------------------------------------------------


def _lines(content: dict[str, Any]) -> list[str]:
    head = ("GFLOP per joint step", "param. M", "forward", "backward", "double b.", "all", "Eq. 12", "ratio", "peak MB")
    lines = [f"{head[0]:28s}" + "".join(f"{title:>11s}" for title in head[1:])]
    for row in content["components"]:
        numbers = (
            _scaled(row["parameters"], 1e6),
            *(_scaled(row[key], 1e9) for key in ("forward", "backward", "double_backward", "flops", "predicted")),
            "" if row["predicted_over_measured"] is None else f"{row['predicted_over_measured']:.3g}",
            _scaled(row["peak_bytes"], 1e6),
        )
        lines.append(f"{row['label']:28s}" + "".join(f"{number:>11s}" for number in numbers))
    step, total = content["step"], content["step"]["flops"]
    resident, peak = _scaled(step["resident_bytes"], 1e9), _scaled(max(step["peak_bytes"].values()), 1e9)
    lines.append(f"{'Joint step':28s}{'':44s}{_scaled(total, 1e9):>11s}")
    lines += [
        "",
        f"batch {content['batch_size']}, {content['explained']} of it explained; {step['kernels']} kernels; "
        f"{100 * step['flops_fp32'] / total:.1f} % of the operations stay in float32 at any precision",
        f"memory: {resident} GB resident + {peak} GB at the peak ({content['memory_is']}); by Eq. 12 "
        f"{_scaled(content['eq12']['memory_bytes'], 1e6)} MB",
        f"not in these counts: elementwise operations, among them {_scaled(step['update_flops'], 1e9)} GFLOP of the "
        "optimisers and the averaged generator, by their formulas",
        "",
        "share of fusion and explainability (the paper: less than 12 %)",
    ]
    return [*lines, *(f"  {100 * row['share']:5.1f} %  {row['definition']}" for row in content["shares"])]


def _scaled(value: float | None, unit: float) -> str:
    return "" if value is None else f"{value / unit:.4g}"


if __name__ == "__main__":
    sys.exit(main())
