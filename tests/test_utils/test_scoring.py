"""The scoring graph and the search for a way of scoring, against loops and scikit-learn."""
import numpy as np, pandas as pd, pytest, torch
from sklearn.metrics import roc_auc_score

from aead.data.dataset import ImageDataset
from aead.data.defects import default_kinds
from aead.models.base import Recon
from aead.scoring import ScoringGraph, corrupt_each, get_mixes, pools, search_scoring

@pytest.fixture
def model(tiny_model): return tiny_model('cnn_ae', ni=1).eval()

@pytest.fixture
def val(synth): return ImageDataset(synth[(synth.split=='train') & (synth.label==0)].reset_index(drop=True), 32)

@pytest.mark.parametrize('hw', [(32,32),(32,48)])
def test_flips_make_the_map_follow_the_image(hw, model, pictures):
    g,x = ScoringGraph(model, {'l1':1., 'ssim':.5}, flips=True),pictures(3, 1, hw)
    valid = torch.ones(3,*hw)
    valid[:,:,:4] = 0
    with torch.no_grad():
        for d in ((3,),(2,),(2,3)):
            md = [o-1 for o in d]
            a,b = g(x, valid),g(x.flip(d), valid.flip(md))
            assert torch.allclose(a.amap, b.amap.flip(md), atol=1e-4) and torch.allclose(a.score, b.score, atol=1e-4)
        assert torch.equal(g(x).xr, model.reconstruct(x).xr)                          # shown is the reconstruction of the image itself

def test_flips_with_noise_and_own_maps(tiny_model, pictures):
    m = tiny_model('diffusion_ae', ni=1).eval()
    noise,x = m.draw_noise((1,32,32), 3),pictures(2, 1)
    g = ScoringGraph(m, {'draws':1.}, 0., noise=noise, flips=True)
    with torch.no_grad(): want = sum(m.reconstruct(x.flip(d), noise).maps['draws'].flip([o-1 for o in d]) for d in ((),(3,),(2,),(2,3)))/4
    assert torch.allclose(g.raw_maps(x)[0][:,0], want, atol=1e-5)

def test_corrupt_each(val):
    rows = list(corrupt_each(val, list(default_kinds), 6))
    kinds = [k for *_,k in rows]
    assert kinds.count('')==min(6, len(val)) and kinds.count('perlin') >= 4
    again = list(corrupt_each(val, list(default_kinds), 6))
    assert all(torch.equal(a[0], b[0]) and a[2]==b[2] for a,b in zip(rows, again, strict=True))
    other = list(corrupt_each(val, list(default_kinds), 6, seed=1))
    assert not all(torch.equal(a[0], b[0]) for a,b in zip(rows, other))
    good = None
    for x,valid,k in rows:
        if k=='': good = x
        else: assert not torch.equal(x, good)                                         # follows the good image that it was drawn on
        assert x.shape==(1,32,32) and valid.shape==(32,32)

def test_search_against_the_graph_itself(model, val):
    "Every candidate, and not the best alone, is what a graph with those settings gives."
    g,kinds = ScoringGraph(model, {'l1':1., 'gms':1.}),{'perlin':1., 'spot':3.}
    found = search_scoring(g, val, kinds, n=5, bs=4)
    rows = list(corrupt_each(val, list(kinds), 5))
    labels = np.array([k for *_,k in rows])
    for _,c in found.sample(6, random_state=0).iterrows():
        one = ScoringGraph(model, c['maps'], c.sigma, c['pool'], c.top)
        one.fit_spread((x[None], v[None]) for x,v,k in rows if k=='')
        with torch.no_grad(): s = np.array([one(x[None], v[None]).score.item() for x,v,_ in rows])
        each = {k: roc_auc_score(np.isin(labels[o], [k]), s[o]) for k in kinds for o in [np.isin(labels, ['',k])]}
        assert all(abs(c[k]-each[k])<.02 for k in kinds) and abs(c.auroc-(each['perlin']+3*each['spot'])/4)<.02
    assert found.auroc.is_monotonic_decreasing and len(found)==len(get_mixes(['l1','gms']))*18

class Oracle(torch.nn.Module):
    "A model whose map `truth` shows the difference to the good image, and whose map `junk` shows nothing."
    def __init__(self, good): super().__init__(); self.good = good; self.prepare = torch.nn.Identity()
    def reconstruct(self, x, noise=None):
        xr = torch.stack([self.good[(self.good-o).abs().sum((1,2,3)).argmin()] for o in x])
        return Recon(xr, {'truth': (x-xr).abs().mean(1), 'junk': x.mean(1)*0})

def test_search_finds_the_map_that_knows(val):
    good = torch.stack([val[i][0] for i in range(len(val))])
    found = search_scoring(ScoringGraph(Oracle(good), {'junk':1., 'truth':1.}), val, n=6)
    assert found['maps'][0]=={'truth':1.} and found.auroc[0]==1
    assert (found[[o=={'junk':1.} for o in found['maps']]].auroc-.5).abs().max() < 1e-9

def test_search_on_empty_images():
    df = pd.DataFrame({'path': ['a','b'], 'mask': ''})
    ds = ImageDataset(df, 32, read=lambda p,c=None: np.zeros((32,32,1), np.float32))
    rows = list(corrupt_each(ds, list(default_kinds), 2))
    assert sum(k=='' for *_,k in rows)==2 and all(x.isfinite().all() for x,*_ in rows)

@pytest.mark.parametrize('share', [.002,.03,.5])
def test_pools_are_ordered(share, rng):
    m,v = torch.tensor(rng.normal(size=(5,20,30))).float(),torch.tensor(rng.random((5,20,30))>.2).float()
    top,most,mean = pools['top'](m, v, share),pools['max'](m, v, None),pools['mean'](m, v, None)
    assert (mean<=top+1e-6).all() and (top<=most+1e-6).all()
