"""The scoring graph and the search for a way of scoring, against loops and scikit-learn."""
import numpy as np, pandas as pd, pytest, torch
from sklearn.metrics import roc_auc_score

from aead.data.dataset import ImageDataset
from aead.data.defects import default_kinds
from aead.data.preprocessing import tile_starts
from aead.models.base import Recon
from aead.runs.benchmark import _LiveBytes
from aead import scoring
from aead.scoring import (Moments, ScoringGraph, _auroc_by_kind, combine, corrupt_each, get_candidates, get_mixes,
                          pools, search_scoring, see_in_tiles, smooth, standardize)

from ..helpers import by_size, picture

@pytest.fixture
def model(tiny_model): return tiny_model('cnn_ae', ni=1).eval()

@pytest.fixture
def val(synth): return ImageDataset(synth[(synth.split=='train') & (synth.label==0)].reset_index(drop=True), 32)

@pytest.mark.parametrize('hw', [(32,32),(32,48)], ids=['square','wide'])
def test_flips_make_the_map_follow_the_image(hw, model, pictures):
    g,x = ScoringGraph(model, {'l1':1., 'ssim':.5}, flips=True),pictures(3, 1, hw)
    valid = torch.ones(3,*hw)
    valid[:,:,:4] = 0
    with torch.no_grad():
        for d in ((3,),(2,),(2,3)):
            md = [o-1 for o in d]
            a,b = g(x, valid),g(x.flip(d), valid.flip(md))
            assert torch.allclose(a.amap, b.amap.flip(md), atol=1e-4) and torch.allclose(a.score, b.score, atol=1e-4)
        assert torch.equal(g(x).xr, model.reconstruct(x).xr)     # shown is the reconstruction of the image itself

def test_flips_with_noise_and_own_maps(tiny_model, pictures):
    m = tiny_model('diffusion_ae', ni=1).eval()
    noise,x = m.draw_noise((1,32,32), 3),pictures(2, 1)
    g = ScoringGraph(m, {'draws':1.}, 0., noise=noise, flips=True)
    def draws(d): return m.reconstruct(x.flip(d), noise).maps['draws'].flip([o-1 for o in d])
    with torch.no_grad(): want = sum(map(draws, ((),(3,),(2,),(2,3))))/4
    assert torch.allclose(g.raw_maps(x)[0][:,0], want, atol=1e-5)

# --- standardising and adding

@pytest.mark.parametrize('offset', [0.,1e4], ids=['near zero','far from zero'])
@pytest.mark.parametrize('bs', [1,3,11])
def test_moments_are_those_of_numpy(offset, bs, rng):
    "Whatever the batches; pixels that do not count may hold anything."
    ms,valid = offset+rng.normal(size=(11,3,6,7))*[[[[.1]],[[1.]],[[20.]]]],rng.random((11,6,7))>.4
    valid[4:6] = False                           # nothing counts in these, nor in a batch of one of them
    ms[~np.broadcast_to(valid[:,None], ms.shape)] = -777.
    moments = Moments()
    for i in range(0, 11, bs): moments.add(torch.tensor(ms[i:i+bs]), torch.tensor(valid[i:i+bs]).float())
    want = np.stack([ms[:,k][valid] for k in range(3)])
    assert moments.n==valid.sum()
    assert np.allclose(moments.mean, want.mean(1), rtol=1e-12, atol=1e-12)
    assert np.allclose(moments.std, want.std(1), rtol=1e-9)

def test_moments_of_a_flat_map():
    moments = Moments()
    for _ in range(2): moments.add(torch.full((2,1,4,4), .3), torch.ones(2,4,4))
    assert abs(moments.mean.item()-.3)<1e-7 and moments.std.item()==Moments.least

@pytest.mark.parametrize('pool', pools)
def test_the_graph_is_its_steps(pool, model, pictures):
    "Smoothed, standardised, added and pooled by hand."
    x,valid = pictures(4, 1),torch.ones(4,32,32)
    valid[:2,:,:5] = 0
    g = ScoringGraph(model, {'l1':1., 'gms':.5, 'ssim':2.}, 1.5, pool, .1)
    g.fit_spread([(x[:3], valid[:3]), (x[3:], valid[3:])])
    with torch.no_grad(): got,raw = g(x, valid),g.raw_maps(x)[0]
    ms = smooth(raw, 1.5, valid)
    inside = ms.double().movedim(1, 0)[:,valid>0]
    assert torch.allclose(g.mean.double(), inside.mean(1), rtol=1e-5)
    assert torch.allclose(g.std.double(), inside.std(1, correction=0), rtol=1e-5)
    z = (ms-g.mean[:,None,None])/g.std[:,None,None]
    amap = (z[:,0]+.5*z[:,1]+2*z[:,2])/3.5*valid
    assert torch.allclose(got.amap, amap, atol=1e-5)
    assert torch.allclose(got.score, pools[pool](amap, valid, .1), atol=1e-5)
    assert torch.equal(got.amap, combine(standardize(ms, g.mean, g.std), [1.,.5,2.], valid))

# --- the search

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
        else: assert not torch.equal(x, good)                    # follows the good image that it was drawn on
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

@pytest.mark.parametrize('names', [['l1'],['l1','ssim','gms'],['head','memory','l1','ssim']], ids=lambda o: ' '.join(o))
def test_every_candidate_once(names):
    found = [(tuple(o.maps.items()),*o[1:]) for o in get_candidates(names)]
    assert len(set(found))==len(found)==len(get_mixes(names))*18
    assert all(set(dict(o[0]))<=set(names) for o in found) and {o[2] for o in found}==set(pools)

@pytest.mark.parametrize('levels', [3,50], ids=['many ties','few ties'])
def test_auroc_by_kind_is_that_of_scikit_learn(levels, rng):
    labels = np.array([''] + ['','spot','','curve','spot']*9)
    scores,weights = rng.integers(0, levels, (4,len(labels)))/levels,{'spot':1., 'curve':3., 'absent':5.}
    got = _auroc_by_kind(scores, labels, weights)
    assert set(got)=={'auroc','spot','curve'}                    # in the order of the images, not of the weights
    for k in ('spot','curve'):
        here = np.isin(labels, ['',k])
        assert np.allclose(got[k], [roc_auc_score(labels[here]==k, o[here]) for o in scores], atol=1e-12)
    assert np.allclose(got['auroc'], (got['spot']+3*got['curve'])/4)

def test_auroc_by_kind_needs_finite_scores_and_a_defect():
    labels = np.array(['','spot'])
    for v in (np.nan, np.inf):
        with pytest.raises(ValueError, match='not finite'): _auroc_by_kind(np.array([[0.,v]]), labels, {'spot':1.})
    zeros,good = np.zeros((1,2)),labels[[0,0]]
    with pytest.raises(ValueError, match='no synthetic defect shows'): _auroc_by_kind(zeros, good, {'spot':1.})

class Oracle(torch.nn.Module):
    "A model whose map `truth` shows the difference to the good image, and whose map `junk` shows nothing."
    def __init__(self, good):
        super().__init__()
        self.good,self.prepare = good,torch.nn.Identity()
    def reconstruct(self, x, noise=None):
        xr = torch.stack([self.good[(self.good-o).abs().sum((1,2,3)).argmin()] for o in x])
        return Recon(xr, {'truth': (x-xr).abs().mean(1), 'junk': x.mean(1)*0})

def test_search_finds_the_map_that_knows(val):
    good = torch.stack([val[i][0] for i in range(len(val))])
    found = search_scoring(ScoringGraph(Oracle(good), {'junk':1., 'truth':1.}), val, n=6)
    assert found['maps'][0]=={'truth':1.} and found.auroc[0]==1
    assert (found[[o=={'junk':1.} for o in found['maps']]].auroc-.5).abs().max() < 1e-9

def test_where_all_are_perfect_the_widest_mix_is_taken(val):
    "On a few images many ways of scoring miss nothing; one map alone is no better than all together."
    names = ['feature_4','feature_8','feature_16','memory_4','memory_8','gaussian_4','gaussian_8','position_8']
    good = torch.stack([val[i][0] for i in range(len(val))])
    class All(Oracle):
        def reconstruct(self, x, noise=None):
            xr,maps = super().reconstruct(x)
            return Recon(xr, dict.fromkeys(names, maps['truth']))
    found = search_scoring(ScoringGraph(All(good), dict.fromkeys(names, 1.)), val, n=3)
    assert (found.auroc==1).sum() > 40 and set(found[found.chosen]['maps'].item())==set(names)

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

# --- tiles

def by_hand(f, x, tile):
    "What `f` gives for tiles, blended pixel by pixel in double precision."
    starts = [tile_starts(n, tile) for n in x.shape[-2:]]
    def weight(k, i, n):
        "Of pixel `i` of the tile that starts at `k`, before all are brought to a sum of 1."
        w = 1.
        for s in n:
            over = tile-abs(s-k)
            if s!=k and over>0 and abs(n.index(s)-n.index(k))==1: w = min(w, ((i if s<k else tile-1-i)+.5)/over)
        return w
    total,out = 0,0
    for a in starts[0]:
        for b in starts[1]:
            m = f(x[...,a:a+tile,b:b+tile]).double().numpy()
            w = np.array([[weight(a, i, starts[0])*weight(b, j, starts[1]) for j in range(tile)] for i in range(tile)])
            pad = ((a, x.shape[-2]-a-tile), (b, x.shape[-1]-b-tile))
            out,total = out+np.pad(m*w, ((0,0),(0,0),*pad)),total+np.pad(w, pad)
    return out/total

@pytest.mark.parametrize('flips', [False,True], ids=['plain','flips'])
@pytest.mark.parametrize('name', ['cnn_ae','diffusion_ae'])
def test_tiles_against_a_loop(name, flips, tiny_model, pictures):
    m = tiny_model(name, ni=1).eval()
    noise,x,maps = m.draw_noise((1,32,32), 3),pictures(2, 1, (72,88)),{'l1':1., 'ssim':1.}
    small,whole = (ScoringGraph(m, maps, noise=noise, flips=flips, tile=o).eval() for o in (32,None))
    with torch.no_grad():
        got = small.raw_maps(x)
        for k in range(3): assert np.allclose(got[k], by_hand(lambda o, k=k: whole.raw_maps(o)[k], x, 32), atol=1e-5)

@pytest.mark.parametrize('hw', [(32,32),(24,32),(20,12)], ids=by_size)
def test_a_frame_no_larger_than_a_tile(hw, model, pictures):
    "Exactly the numbers without tiles."
    x = pictures(3, 1, hw)
    a,b = (ScoringGraph(model, {'l1':1., 'ssim':1.}, tile=o) for o in (None,32))
    with torch.no_grad():
        for p,q in zip(a(x), b(x)): assert torch.equal(p, q)

@pytest.mark.parametrize('hw', [(33,97),(32,100),(70,64),(128,48)], ids=by_size)
def test_what_each_pixel_tells_alone_is_the_same_in_tiles(hw, rng):
    x = torch.from_numpy(rng.random((2,3,*hw), dtype=np.float32))
    def f(t): return t, 3*t.mean(1, keepdim=True), torch.ones_like(t[:,:1])
    for a,b in zip(see_in_tiles(f, x, 32), f(x)): assert torch.allclose(a, b, atol=1e-6)

def test_tiles_without_valid_pixels_are_left_out(rng):
    seen,x,valid = [],torch.from_numpy(rng.random((2,1,96,64), dtype=np.float32)),torch.ones(2,96,64)
    valid[0,40:],valid[1] = 0,0
    def f(t):
        seen.append(len(t))
        return t,
    out, = see_in_tiles(f, x, 32, valid)
    n = len(tile_starts(96, 32)),len(tile_starts(64, 32))
    assert sum(seen) < n[0]*n[1]
    assert torch.allclose(out[0,:,:40], x[0,:,:40], atol=1e-6) and not out[0,:,-24:].any() and not out[1].any()
    assert see_in_tiles(f, x, 32, 0*valid)[0].shape==x.shape                  # nothing counts anywhere

@pytest.mark.parametrize('b', [1,3])
def test_memory_does_not_grow_with_the_number_of_tiles(b, model, monkeypatch):
    "Beside images and maps, which are as large as the frame."
    graph = ScoringGraph(model, {'l1':1., 'ssim':1.}, flips=True, tile=64).eval()
    monkeypatch.setattr(scoring, '_at_once', 4*64**2)
    def most(hw):
        x = torch.rand(b,1,*hw)
        with _LiveBytes() as live, torch.no_grad():
            out = graph.raw_maps(x)
            return live.peak-sum(o.nbytes for o in out)
    few,many = most((256,256)),most((576,448))                               # 25 and 108 tiles
    assert few*.9 < many < few*1.1, (few, many)

def test_defects_of_the_search_are_as_large_as_in_training(rng):
    "In tiles: as large as a tile makes them, wherever in the frame."
    frame = picture(0, (160,256))[...,None]/np.float32(255)
    class Frames:
        def __len__(self): return 6
        def load(self, i): return np.float32(np.roll(frame, 9*i, 1)),None,np.ones(frame.shape[:2], np.uint8)
    def boxes(tile):
        rows = [x for x,_,_ in corrupt_each(Frames(), ['curve','spot'], 6, tile=tile)]
        for i in range(0, len(rows), 3):
            for bad in rows[i+1:i+3]: yield [np.ptp(o) for o in np.nonzero((bad!=rows[i])[0].numpy())]
    in_tiles,in_frames = np.array(list(boxes(64))),np.array(list(boxes(None)))
    assert in_tiles.max()<64 and in_frames.mean()>1.3*in_tiles.mean()
