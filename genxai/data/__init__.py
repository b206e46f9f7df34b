"""Where images and text come from: sources, textures, captions and TexMM, the benchmark composed of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genxai.lazy import lazy_exports

if TYPE_CHECKING:
    from genxai.data.captions import captions_in_use as captions_in_use
    from genxai.data.captions import text_bayes_accuracy as text_bayes_accuracy
    from genxai.data.sources import Arrays as Arrays
    from genxai.data.sources import fingerprint as fingerprint
    from genxai.data.sources import load_arrays as load_arrays
    from genxai.data.supply import SplitNames as SplitNames
    from genxai.data.supply import open_split as open_split
    from genxai.data.supply import split_names as split_names
    from genxai.data.texmm import Sample as Sample
    from genxai.data.texmm import TexMM as TexMM

_HOME = {
    "Arrays": "sources",
    "Sample": "texmm",
    "SplitNames": "supply",
    "TexMM": "texmm",
    "captions_in_use": "captions",
    "fingerprint": "sources",
    "load_arrays": "sources",
    "open_split": "supply",
    "split_names": "supply",
    "text_bayes_accuracy": "captions",
}

__all__ = [*_HOME]

__getattr__ = lazy_exports(__name__, _HOME)
