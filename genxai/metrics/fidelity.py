"""FID, IS, KID, precision and recall of generated images, computed by torch-fidelity with one extractor for all.

Two extractors: the shipped one for grey images (`extractor`), or Inception v3 on the grey channel repeated three times.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from genxai.config import Config
from genxai.errors import GenxaiError, UsageError
from genxai.metrics.extractor import Extractor, as_bytes, load_extractor, register, require_torch_fidelity
from genxai.metrics.registry import metric

INCEPTION = "inception-v3-compat"
#: the file that torch-fidelity downloads
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
#: of torch-fidelity's own draws (subsets of KID, order of IS)
RNG_SEED = 2020
#: images in a subset of KID: the usual 1000, or half of what there is, since subsets of all would not spread
KID_SUBSET = 1000
#: rows of a distance matrix held at a time by precision and recall
PRC_ROWS = 1000
BATCH = 250


class Inputs(Dataset[Tensor]):
    """What `Fidelity.inputs` gives, one by one; of images [N, 1, H, W] the grey channel `channels` times."""

    def __init__(self, inputs: Tensor, channels: int = 1) -> None:
        self.inputs, self.channels = inputs, channels

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Tensor:
        one = self.inputs[index]
        return one if self.channels == 1 else one.expand(self.channels, -1, -1)


class Fidelity:
    """torch-fidelity with a chosen extractor."""

    def __init__(
        self,
        kind: Literal["grey", "inception"],
        dataset: str,
        device: torch.device | str = "cpu",
        weights: str | None = None,
    ) -> None:
        """kind: "grey", or "inception" with its weights' local file, else torch-fidelity downloads it.

        Raises UsageError without torch-fidelity or if the file cannot be used, GenxaiError if the weights cannot be
        had. All of that is found here and not at the end of a run.
        """
        self._options: dict[str, Any] = {"cache": False, "verbose": False, "rng_seed": RNG_SEED}
        self._options |= {"cuda": torch.device(device).type == "cuda", "batch_size": BATCH, "prc_batch_size": PRC_ROWS}
        # its loader would start worker processes, which a process that holds a GPU should not
        self._options["save_cpu_ram"] = True
        self.grey: Extractor | None = None
        if kind == "inception":
            self.extractor = INCEPTION
            self._options["feature_extractor_weights_path"] = _checked_inception(weights)
        else:
            self.extractor = register(dataset)
            self.grey = load_extractor(dataset).to(device)
        self._options["feature_extractor"] = self.extractor

    @classmethod
    def configured(cls, config: Config, device: torch.device) -> Fidelity:
        """As a run's configuration asks for it, on its device."""
        return cls(config.train.fid_extractor, config.data.dataset, device, config.run.inception_weights)

    def inputs(self, images: Tensor) -> Tensor:
        """What `compare` compares, on the CPU, of images float [B, 1, H, W] in [0, 1].

        The rows of the grey extractor, which are computed once and compared often; or the images themselves, uint8.
        """
        return (as_bytes(images) if self.grey is None else self.grey.rows(images)).cpu()

    def compare(self, generated: Tensor, real: Tensor, *names: str) -> dict[str, float]:
        """Measures of N images against M real ones, both as `inputs` gives them.

        names: of "fid"; "is" (is, is_spread over 10 parts); "kid" (kid, kid_spread over 100 subsets); "prc" (precision,
        recall). FID is at least 0, KID can be slightly negative, IS in [1, 10], the others in [0, 1].
        """
        from torch_fidelity import calculate_metrics

        wanted: dict[str, Any] = {_SWITCHES[name]: True for name in names}
        if "kid" in names:
            wanted["kid_subset_size"] = min(KID_SUBSET, len(generated) // 2, len(real) // 2)
        channels = 1 if self.grey else 3
        inputs = {"input1": Inputs(generated, channels), "input2": Inputs(real, channels)}
        found = calculate_metrics(**inputs, **wanted, **self._options)
        return {ours: float(found[theirs]) for theirs, ours in _KEYS.items() if theirs in found}


_SWITCHES = {"fid": "fid", "is": "isc", "kid": "kid", "prc": "prc"}
_KEYS = {
    "frechet_inception_distance": "fid",
    "inception_score_mean": "is",
    "inception_score_std": "is_spread",
    "kernel_inception_distance_mean": "kid",
    "kernel_inception_distance_std": "kid_spread",
    "precision": "precision",
    "recall": "recall",
}
for _name, _reference, _higher in (
    ("fid", "Heusel et al. 2017, by torch-fidelity; grey extractor: not comparable with Inception's", False),
    ("is", "Salimans et al. 2016, by torch-fidelity", True),
    ("kid", "Binkowski et al. 2018, by torch-fidelity; unbiased", False),
    ("precision", "Kynkaanniemi et al. 2019, by torch-fidelity; 3 neighbours", True),
    ("recall", "Kynkaanniemi et al. 2019, by torch-fidelity; 3 neighbours", True),
):
    metric(f"generator/{_name}", "other", reference=_reference, higher_is_better=_higher)(Fidelity.compare)


def _checked_inception(weights: str | None) -> str | None:
    """The path to hand over, None for the library's download, once the network has been built from it."""
    require_torch_fidelity()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = None if weights is None else Path(weights).expanduser()
    if path is not None:
        if not path.is_file():
            raise UsageError(
                f"run.inception_weights: there is no file {path}; expected torch-fidelity's {INCEPTION_FILE}"
            )
        try:
            # torch-fidelity unpickles whatever it is given: only what can be read without unpickling gets there
            torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a file that is none makes the reader raise
            raise UsageError(
                f"run.inception_weights: {path} holds no tensors: {' '.join(str(error).split())[:200]}; expected "
                f"torch-fidelity's {INCEPTION_FILE}"
            ) from None
    try:
        FeatureExtractorInceptionV3(INCEPTION, ["2048"], None if path is None else str(path), verbose=False)
    except Exception as error:  # the network, the mirror, the disk, or a file of another network
        raise GenxaiError(
            f"train.fid_extractor=inception: no weights of Inception v3 ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}). Put torch-fidelity's {INCEPTION_FILE} on this machine and set "
            "run.inception_weights to it, or use train.fid_extractor=grey"
        ) from None
    return None if path is None else str(path)
