"""Speed, memory and size are measured, and make sense; how fast this machine is, is not tested. What must not grow, does not."""
import gc, tracemalloc

import numpy as np, pandas as pd, pytest

from aead.runs.benchmark import benchmark_detector, run_benchmark, time_calls
from aead.metrics import PixelMetrics
from aead.models.base import model_registry
from aead.stats import PixelHistograms

NUMBERS = ['median_ms','p95_ms','images_per_second','folder_per_second','folder_share','scoring_mib','training_mib','parameters','file_mib','relative']

def test_all_families(tmp_path):
    t = run_benchmark(size=32, bs=2, n=3, models=None, recipe='demo', device='cpu', out=tmp_path/'b.csv')
    assert t.model.tolist()==list(model_registry) and (t.device=='cpu').all() and (t['size']==32).all()
    assert np.isfinite(t[NUMBERS].to_numpy()).all() and (t[NUMBERS]>0).all().all()
    assert (t.p95_ms>=t.median_ms).all() and t.relative[0]==1
    assert (t.file_mib*2**20>=4*t.parameters).all()                     # float32, and more than weights
    assert pd.read_csv(tmp_path/'b.csv').model.tolist()==t.model.tolist()

@pytest.mark.parametrize('recipe', ['default','fast'])
@pytest.mark.parametrize('model', ['feature_ae','cnn_ae'])
def test_recipes_on_features(recipe, model):
    "For their own family and for another; the size that is left to the images is a usual one."
    t = run_benchmark([model], bs=1, n=1, recipe=recipe, device='cpu')
    assert t['size'].tolist()==[128] and (t['head']==(recipe=='default')).all() and np.isfinite(t.training_mib).all()

def test_a_fitted_detector(detector):
    r = benchmark_detector(detector, bs=2, n=2)
    assert r['model']=='cnn_ae' and r['size']==32 and r['parameters']==detector.graph.model.n_params()
    twice = benchmark_detector(detector, bs=4, n=2)
    assert np.isclose(twice['scoring_mib'], 2*r['scoring_mib'], rtol=.1)     # memory goes with the batch
    assert twice['file_mib']==r['file_mib']

def test_warm_up_is_not_counted():
    import time
    calls = iter([.05]+[0]*20)
    assert time_calls(lambda: time.sleep(next(calls)), 5, 1).max()<.05

def peak(f):
    gc.collect()
    tracemalloc.start()
    f()
    out = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return out

def test_pixel_figures_do_not_grow_with_good_images(tmp_path):
    def stream(n):
        m,rng = PixelMetrics(size=2**14, dir=str(tmp_path)),np.random.default_rng(0)
        for i in range(n):
            mask = np.zeros((1,64,64), int)
            mask[0,:4,:4] = i==0
            m.update(rng.random((1,64,64), dtype=np.float32), mask)
        m.compute()
    stream(2)
    few,many = peak(lambda: stream(20)),peak(lambda: stream(200))
    assert many<1.5*few, (few, many)

def test_histograms_do_not_grow_with_the_size_of_images(rng):
    def stream(sz):
        h = PixelHistograms()
        for _ in range(4): h.update(rng.random((1,sz,sz)), np.zeros((1,sz,sz), int))
        return sum(o.nbytes for r in h.rows for o in r)
    assert stream(16)==stream(128)
