"""What an import takes."""

import subprocess
import sys

import stssad_fast

# All that the ops do without; None makes an import of it fail.
BARE = """
import sys
for name in "sklearn scipy safetensors tifffile PIL rich typer matplotlib jinja2 kornia".split():
    sys.modules[name] = None
import torch
import stssad_fast as sf
from stssad_fast.augment import CutOut, catalogue

image = torch.rand(2, 3, 16, 16)
sf.CutDiff(0.1)(sf.rotate(sf.cutdiff(image, sf.patch_shape(0.1, 2.0, 30.0)), 15.0))
sf.mean_distance_loss(*torch.rand(3, 4, 5))
CutOut(0.1)(image), catalogue.make("invert")(image)
"""


def test_the_ops_need_torch_alone():
    done = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_rest_is_there_when_it_is_asked_for():
    code = "import stssad_fast as sf; assert sf.baselines.AutoEncoder and sf.recommend; sf.STSSAD()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {*stssad_fast.__all__, "baselines"} <= set(dir(stssad_fast))
    for name in stssad_fast.__all__:
        assert getattr(stssad_fast, name)
    assert not hasattr(stssad_fast, "cutdif")
