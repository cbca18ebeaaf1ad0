"""Shared fixtures: a small data set, a tiny detector, settings and models that train in a moment, a seed."""
import os
for k in ('OMP_NUM_THREADS','MKL_NUM_THREADS'): os.environ.setdefault(k, '1')
os.environ.setdefault('NO_ALBUMENTATIONS_UPDATE', '1')
os.environ.setdefault('MPLBACKEND', 'agg')

import random
from copy import deepcopy

import numpy as np, pytest, torch

from aead.config import config_from_dict
from aead.data.synthetic import make_synthetic
from aead.detect import fit_detector
from aead.models.zoo import create_autoencoder

from .helpers import TINY

torch.set_num_threads(1)

def make_cfg(**sections):
    "A config of tiny settings; keywords are sections, merged field by field: `train=dict(epochs=1)`."
    base = {'data': dict(size=32, layout='synthetic', workers=0), 'models': deepcopy(TINY), 'train': dict(epochs=3, bs=8, lr=5e-3),
            'detect': dict(far=0.2)}
    for k,v in sections.items(): base[k] = {**base.get(k, {}), **v} if isinstance(v, dict) and k in ('data','train','detect') else v
    return config_from_dict(base)

def pytest_configure(config):
    "Warnings of packages that nobody here can act on."
    for o in ("ignore:.*torch.jit.script:FutureWarning", "ignore:The 'mode.chained_assignment'", "ignore:This DataLoader will create"): config.addinivalue_line('filterwarnings', o)

@pytest.fixture(autouse=True)
def seed():
    "Every test starts from the same random numbers, and leaves no figure open."
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield 0
    import matplotlib.pyplot as plt
    plt.close('all')

@pytest.fixture
def rng(): return np.random.default_rng(0)

@pytest.fixture(scope='session')
def synth(tmp_path_factory):
    "Catalog of the embedded data set: brick, 20 regions, 20 good and 20 defective images of 48 pixels, with split and masks."
    return make_synthetic(tmp_path_factory.mktemp('data')/'synthetic', textures=('brick',), sz=48, n_shots=1, n_regions=20)

@pytest.fixture(scope='session')
def detector(synth):
    "A tiny fitted detector."
    return fit_detector(make_cfg(), synth, 'cpu')

@pytest.fixture
def cfg():
    "Makes settings: `cfg()`, `cfg(train=dict(epochs=1))`."
    return make_cfg

@pytest.fixture
def tiny_model():
    "Makes a small model: `tiny_model()`, `tiny_model(ni=1)`."
    return lambda name='cnn_ae', **kw: create_autoencoder(name, **{**TINY.get(name, {}), **kw})

@pytest.fixture
def pictures():
    "Makes smooth random images: `pictures(4, 3, (32,32))` is `b c h w` float32 in [0,1]."
    def make(b=4, c=3, hw=(32,32), seed=0):
        x = torch.rand(b, c, hw[0]//4+1, hw[1]//4+1, generator=torch.Generator().manual_seed(seed))
        return torch.nn.functional.interpolate(x, size=hw, mode='bilinear').contiguous()
    return make
