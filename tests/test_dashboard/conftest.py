"Two tiny runs, which the tests of all panels share, and a table of scores without images."
import shutil

import numpy as np, pandas as pd, pytest

from aead.runs.train import train_run

from ..conftest import make_cfg
from ..helpers import make_layout

@pytest.fixture(scope='session')
def runs(tmp_path_factory):
    "Folders of two runs on the same data, which differ in their seed. Not to be changed: see `run`."
    d = tmp_path_factory.mktemp('dash')
    data = dict(layout='mtd', path=str(make_layout(d/'mtd', 'mtd')))
    for k in (0,1): train_run(d/f'run{k}', make_cfg(train=dict(epochs=1, seed=k), data=data))
    return [d/'run0', d/'run1']

@pytest.fixture
def run(runs, tmp_path):
    "A copy of a run, to spoil."
    return shutil.copytree(runs[0], tmp_path/'run')

def score_table(n=5000):
    "Scores of `n` images whose files do not exist; every third is defective."
    rng = np.random.default_rng(0)
    y = np.arange(n)%3==0
    return pd.DataFrame({'path': [f'/nowhere/{i}.png' for i in range(n)], 'label': y.astype(int),
                         'defect': np.where(y, 'dent', 'good'), 'score': y*1.5+rng.normal(size=n)})

def trouble(dashboard):
    "The errors of all panels, by title."
    shown = {k: dashboard.open(k).trouble.value for k in dashboard.panels}
    return {k: v for k,v in shown.items() if v}
