"""The estimate of a training's time: each stage grows with what it works on, and a rehearsal leaves no trace."""
import random
from dataclasses import replace

import numpy as np, pandas as pd, pytest, torch

from aead import estimate
from aead.detect import resolve
from aead.estimate import Estimate, estimate_stages
from aead.progress import Stage

from ..conftest import make_cfg

FEW,ALL = dict(train=16, val=8, cal=8, test=8),dict(train=160, val=40, cal=24, test=80)

def grown(*stages, **train):
    "Seconds with all images of stages `(what, done)` that take a second each."
    cfg = make_cfg(train={'bs':16, **train}, data=dict(size=128))
    return dict(estimate._grow([Stage(k, n, 1., n) for k,n in stages], cfg, FEW, ALL))

@pytest.mark.parametrize('what,done,seconds', [
    ('reading images', 40, 304), ('observing', 16, 160), ('observing', 64, 640), ('remembering', 16, 160), ('measuring maps', 8, 40),
    ('measuring images', 24, 200), ('calibrating', 8, 24), ('scoring', 24, 144), ('measuring likeness', 32, 280),
    ('looking for near-copies', 8, 112), ('searching a way of scoring', 80, 400), ('looking for odd images', 16, 480)])
def test_a_stage_grows_with_its_images(what, done, seconds): assert grown((what, done))[what]==pytest.approx(seconds)

@pytest.mark.parametrize('train,steps', [(dict(steps=400), 400), (dict(epochs=5), 50), (dict(steps=1100), 1100)], ids=str)
def test_training_grows_with_its_steps(train, steps): assert grown(('training', 8), **train)['training']==pytest.approx(steps)

def test_features_grow_with_their_copies():
    "Those of `val` are computed once; an epoch takes all copies."
    cfg = make_cfg(train=dict(bs=16, copies=5, epochs=2), data=dict(size=128))
    stages = [Stage(k, n, 1., n) for k,n in (('computing features', 16), ('computing features', 8), ('training', 8))]
    assert [round(s) for _,s in estimate._grow(stages, cfg, FEW, ALL)]==[800,40,100]

@pytest.fixture
def small(synth):
    "Settings and catalog of a training that takes a moment."
    cfg = make_cfg(data=dict(layout='csv'), train=dict(epochs=50))
    return resolve(cfg, synth, 1), synth

def test_a_rehearsal_leaves_no_trace(small, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    states = random.getstate(),np.random.get_state()[1].tolist(),torch.get_rng_state()
    found = estimate_stages(*small, device='cpu')
    after = random.getstate(),np.random.get_state()[1].tolist(),torch.get_rng_state()
    assert states[:2]==after[:2] and torch.equal(states[2], after[2])
    assert capsys.readouterr()==('','') and not list(tmp_path.iterdir())
    assert found.seconds==pytest.approx(found.stages.seconds.sum()) and (found.stages.seconds>=0).all()

def test_an_estimate_is_that_of_the_time_it_took(small, monkeypatch):
    "Each step is made a twentieth of a second slower, and there are as many as the epochs have batches."
    from aead.learner import AnomalyLearner
    import time
    real = AnomalyLearner._do_one_batch
    def slow(self):
        if self.training: time.sleep(.05)
        return real(self)
    monkeypatch.setattr(AnomalyLearner, '_do_one_batch', slow)
    cfg,df = small
    steps = (df.split=='train').sum()//cfg.train.bs
    for epochs in (50,100):
        more = replace(cfg, train=replace(cfg.train, epochs=epochs))
        took = estimate_stages(more, df, device='cpu').stages.set_index('stage').seconds['training']
        assert 1 <= took/(.05*epochs*steps) < 5

@pytest.mark.parametrize('seconds,text', [(0,'about 0 s'), (1,'about 1 s'), (10,'about 8 to 14 s'), (80,'about 60 s to 2 min'), (1e4,'about 2 h 5 min to 3 h 53 min')])
def test_an_estimate_in_words(seconds, text): assert str(Estimate(seconds, pd.DataFrame()))==text
