import subprocess
import sys

import pytest

from genxai import models


def test_the_public_names_are_exactly_those_announced():
    assert sorted(models.__all__) == sorted(models._HOMES)
    assert all(callable(getattr(models, name)) for name in models.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = models.Nothing


def test_importing_the_package_does_not_import_torch():
    code = "import sys, genxai.models; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_building_the_small_networks_imports_neither_torchvision_nor_transformers():
    code = (
        "import sys; from genxai.config import ModelConfig; from genxai.models import FusionClassifier;"
        "FusionClassifier(ModelConfig(), 10, 50); sys.exit(bool({'torchvision', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
