"""Features that are computed once and kept: packing, crops, the temporary file, and training on them."""
import gc, os

import numpy as np, pytest, torch

from aead.data.dataset import ImageDataset
from aead.kept import KeptFeatures, KeptModel, draw_crop, pack_levels, unpack_levels
from aead.models.feature_ae import feature_ae
from aead.models.feature_head import HeadedFeatures

from ..helpers import TINY, same

@pytest.fixture
def ds(synth):
    "Makes a data set of good images, every second one with a synthetic defect."
    rows = synth[(synth.split=='train')].head(6).reset_index(drop=True)
    return lambda size=48, **kw: ImageDataset(rows, size, **{**dict(augment=True, defects=.5), **kw})

@pytest.fixture
def model(ds):
    "A small model with a head that has observed the images."
    torch.manual_seed(0)
    m = HeadedFeatures(feature_ae(**{**TINY['feature_ae'], 'ni': 1}), nf=8).eval()
    x = torch.stack([o[1] for o in (ds()[i] for i in range(6))])
    m.observe(lambda n=None: [(x[:n], torch.ones_like(x[:n,0]), torch.arange(6)[:n])])
    return m

def open_files(): return [p for o in os.listdir('/proc/self/fd') if 'aead-features' in (p := _target(o))]

def _target(fd):
    try: return os.readlink(f'/proc/self/fd/{fd}')
    except OSError: return ''

# --- packing

@pytest.mark.parametrize('channels', [[3], [4,8], [3,5,7], [1,2,3,4], [24,40,112], [5,1,1,65]], ids=str)
@pytest.mark.parametrize('dtype', [torch.float32,torch.float16])
def test_packing_loses_nothing(channels, dtype):
    levels = [torch.randn(2, c, 16>>k, 24>>k).to(dtype) for k,c in enumerate(channels)]
    packed = pack_levels(levels)
    assert packed.shape==(2, sum(-(-c//4**k) for k,c in enumerate(channels)), 16, 24) and packed.dtype==dtype
    assert same(unpack_levels(packed, channels), levels)

def test_a_crop_of_what_is_packed_is_packed_crops():
    levels = [torch.randn(1, c, 16>>k, 16>>k) for k,c in enumerate((3,5,7))]
    crops = unpack_levels(pack_levels(levels)[..., 4:12, 8:16], [3,5,7])
    assert same(crops, [f[..., 4>>k:12>>k, 8>>k:16>>k] for k,f in enumerate(levels)])

# --- crops

@pytest.mark.parametrize('hw,size', [((96,128),(32,64)), ((100,70),(32,32)), ((64,64),(64,64)), ((33,47),(33,32))], ids=str)
def test_crops_touch_the_defect(hw, size, rng):
    for _ in range(200):
        mask = np.zeros(hw, int)
        y,x = (int(rng.integers((n-s)//16*16+s)) for n,s in zip(hw, size))   # crops reach so far
        mask[y,x] = 1
        a,b = draw_crop(hw, size, 16, rng, mask)
        assert mask[a:a+size[0], b:b+size[1]].any() and a%16==b%16==0 and a+size[0] <= hw[0] and b+size[1] <= hw[1]

def test_crops_without_a_defect_are_spread(rng):
    places = {draw_crop((64,96), (32,32), 16, rng, mask) for _ in range(300) for mask in (None, np.zeros((64,96)))}
    assert places=={(a,b) for a in (0,16,32) for b in (0,16,32,48,64)}

# --- the data set

def test_features_are_the_encoders(ds, model):
    d = ds()
    kept = KeptFeatures(model, d, copies=3, bs=4)
    assert len(kept)==18
    for i in (0,5,6,17):
        d.epoch,k = divmod(i, 6)
        x,clean,mask,valid = d[k]
        with torch.no_grad(): want = model.read(x[None])
        f,c,m,v = kept[i]
        for a,b in zip(unpack_levels(f[None].float(), kept.channels), want): assert torch.allclose(a, b, atol=.02, rtol=2e-3)
        assert torch.allclose(c, clean, atol=.51/255) and torch.equal(m, mask) and torch.equal(v, valid)

def test_own_patches_do_not_count_where_the_model_has_observed_them(ds, model):
    d = ds()
    a,b = (KeptFeatures(model, d, copies=1, observed=o) for o in (False,True))
    assert (b.x.float() >= a.x.float()-.02).all() and not torch.equal(a.x, b.x)
    with torch.no_grad(): want = model.read(d[2][0][None], torch.tensor([d.owners[d.use[2]]]))
    for f,g in zip(unpack_levels(b[2][0][None].float(), b.channels), want): assert torch.allclose(f, g, atol=.02, rtol=2e-3)

@pytest.mark.parametrize('size', [48,(48,80),(50,61)], ids=str)
def test_crops_have_the_exposure_of_the_whole_image(size, ds, model):
    d = ds(size)
    whole,part = KeptFeatures(model, d, copies=2, crop=512),KeptFeatures(model, d, copies=2, crop=32)
    assert part.clean.shape==(12,1,32,32) and part.x.shape[2:]==(8,8)
    hw = whole.clean.shape[2:]
    for i in range(12):
        f,c,m,_ = part[i]
        at = [(y,x) for y in range(0, hw[0]-31, 16) for x in range(0, hw[1]-31, 16) if torch.equal(whole[i][1][:,y:y+32,x:x+32], c)]
        d.epoch = i//6
        image = d[i%6][0][None]
        with torch.no_grad(): each = [model.read(image[..., y:y+32, x:x+32], whole=image) for y,x in at]
        got = unpack_levels(f[None].float(), part.channels)
        assert any(all(torch.allclose(a, b, atol=.02, rtol=2e-3) for a,b in zip(got, want)) for want in each)
        reach = whole[i][2][:(hw[0]-32)//16*16+32, :(hw[1]-32)//16*16+32]
        assert m.any()==reach.any() or reach.any()==0                     # the crop touches the defect

def test_all_runs_keep_the_same(ds, model):
    a,b = (KeptFeatures(model, ds(), copies=2, crop=32) for _ in range(2))
    assert torch.equal(a.x, b.x) and torch.equal(a.clean, b.clean) and torch.equal(a.mask, b.mask)
    other = KeptFeatures(model, ds(seed=1), copies=2, crop=32)
    assert not torch.equal(a.clean, other.clean)

@pytest.mark.parametrize('bs', [1,4,16])
def test_batches_do_not_matter(bs, ds, model):
    a,b = KeptFeatures(model, ds(), copies=2, crop=32),KeptFeatures(model, ds(), copies=2, crop=32, bs=bs)
    assert torch.allclose(a.x.float(), b.x.float(), atol=.01, rtol=2e-3) and torch.equal(a.mask, b.mask)

def test_copies_differ_and_some_have_defects(ds, model):
    kept = KeptFeatures(model, ds(), copies=4)
    assert not torch.equal(kept[0][1], kept[6][1])
    share = kept.mask.flatten(1).amax(1).float().mean()
    assert .1 < share < .9

@pytest.mark.skipif(not os.path.isdir('/proc/self/fd'), reason='open files are listed in /proc')
def test_what_does_not_fit_goes_to_a_file_that_goes_away(ds, model, tmp_path, monkeypatch):
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    a = KeptFeatures(model, ds(), copies=2)
    assert not open_files()
    b = KeptFeatures(model, ds(), copies=2, mb=0)
    assert all(same(a[i], b[i]) for i in range(len(a))) and isinstance(b[0][0], torch.Tensor)
    assert not os.listdir(tmp_path)                                       # it has no name
    del b
    gc.collect()
    assert not open_files() and not os.listdir(tmp_path)

def test_distances_beyond_half_precision_stay_finite(ds, model, monkeypatch):
    monkeypatch.setattr(model, 'read', lambda x, owner=None, whole=None: [torch.full((len(x),2,12,12), v) for v in [1e9]])
    kept = KeptFeatures(model, ds(), copies=1)
    assert kept.x.isfinite().all() and kept.x.max() > 5e4

def test_an_image_that_cannot_be_read_is_an_error(ds, model, tmp_path):
    d = ds()
    d.paths = [*d.paths[:2], str(tmp_path/'gone.png'), *d.paths[3:]]
    with pytest.raises((FileNotFoundError, ValueError), match='gone.png'): KeptFeatures(model, d)

def test_kept_model_learns_as_the_model_does(ds, model):
    from aead.learner import StepLoss
    from aead.losses import MaskLoss, WeightedLoss
    kept = KeptFeatures(model, ds(), copies=1)
    x,clean,mask,valid = (torch.stack(o) for o in zip(*(kept[i] for i in range(4))))
    loss = StepLoss(WeightedLoss({'l1':1.}), MaskLoss({'focal':10.}), valid)
    m = KeptModel(model, kept.channels).eval()
    with torch.no_grad():
        got,want = m.training_step(x, clean, mask, loss),model.training_step(ds_images(ds()), clean, mask, loss)
    assert torch.isclose(got, want, rtol=.02)
    m.origins = [dict(name='a', source='b', license='c', sha256='d')]
    assert m.get_origins()==m.origins==model.origins

@pytest.mark.parametrize('size,crop,want', [(48,256,48), (64,32,32), (72,256,64)])
def test_pictures_are_drawn_anew_in_each_pass(size, crop, want, ds, model):
    "At half the size, the sides multiples of half the stride; the same in every run."
    both = [KeptFeatures(model, ds(size), copies=2, crop=crop, pictures=ds(size).smaller()) for _ in range(2)]
    assert both[0].n_inp==4 and len(both[0][0])==7 and model.stride==16
    first = [both[0][i][1:4] for i in range(12)]
    assert {tuple(p.shape) for p,*_ in first}=={(2,want//2,want//2)}
    assert {o.shape for _,*rest in first for o in rest}=={(want//2,want//2)}
    assert .1 < sum(bool(m.any()) for _,m,_ in first)/12 < .9
    assert all(torch.equal(a, b) for i in range(12) for a,b in zip(both[0][i], both[1][i]))
    features = both[0][5][0]
    both[0].epoch = 1
    assert torch.equal(both[0][5][0], features) and not torch.equal(both[0][5][1], both[1][5][1])

def test_a_smaller_data_set_leaves_the_larger_as_it_is(ds):
    large = ds(64, crop=(32,32))
    large.use = [0,2,3]
    before = large[1]
    small = large.smaller()
    assert small[1][0].shape==(1,16,16) and len(small)==3 and small.load(1)[0].shape==(32,32,1)
    small.vary(False)
    small.use.pop()
    assert len(large)==3 and all(torch.equal(a, b) for a,b in zip(before, large[1]))

def ds_images(d): return torch.stack([d[i][0] for i in range(4)])
