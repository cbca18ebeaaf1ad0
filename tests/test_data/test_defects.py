"""Synthetic defects: what every kind guarantees, on every sort of image; the mix obeys p, n, kinds and valid."""
import hashlib
from time import process_time

import cv2, numpy as np, pytest

from aead.data.defects import add_defects, default_kinds, defect_makers, get_grain
from aead.data.synthetic import textures

from ..helpers import by_size

pytestmark = pytest.mark.filterwarnings('error')
KINDS = 'perlin paste blend curve scratch spot bite warp shade tint worn smear fill'.split()
# How often, at least, a kind is plain enough on irregular texture.
FAITHFUL = dict(curve=.9, scratch=.9, spot=.9, shade=.9, tint=.9, worn=.9, smear=.9, fill=.9, bite=.6, perlin=.4,
                paste=.4, blend=.1, warp=.04)

def crop(i=0, hw=(96,96), c=1, name=None):
    "A crop of a texture; channels differ by a factor."
    im = textures[name or ('brick','gravel','grass')[i%3]]()
    y,x = np.random.default_rng(i).integers(0, np.array(im.shape)-hw)
    return np.ascontiguousarray(im[y:y+hw[0],x:x+hw[1],None]*np.linspace(1, .7, c, dtype=np.float32))

def digest(o): return hashlib.sha256(b''.join(np.ascontiguousarray(a).tobytes() for a in o)).hexdigest()
def draw(k, i, **kw): return defect_makers[k](crop(i, **kw), np.random.default_rng(i), crop(i+50, **kw))

def check(im, out, mask):
    "What holds for any result: type, shape, range, nothing changed outside of the mask, most of it changed inside."
    assert out.shape==im.shape and out.dtype==np.float32 and np.isfinite(out).all() and 0<=out.min() and out.max()<=1
    assert mask.shape==im.shape[:2] and mask.dtype==np.uint8 and set(np.unique(mask))<={0,1}
    changed = (out!=im).any(2)
    assert not (changed&(mask==0)).any()
    assert changed.any()==mask.any()
    if mask.any(): assert changed[mask==1].mean()>.5

def test_the_kinds_are_there(): assert list(defect_makers)==KINDS==list(default_kinds)

@pytest.mark.parametrize('k', KINDS)
@pytest.mark.parametrize('hw', [(32,32),(48,112),(112,48),(256,256)], ids=by_size)
@pytest.mark.parametrize('c', [1,3,6])
def test_guarantees(k, hw, c):
    for i in range(3 if hw[0]*hw[1]>20000 else 8):
        im,other = crop(i, hw, c),crop(i+50, hw, c)
        was = digest([im,other])
        out,mask = defect_makers[k](im, np.random.default_rng(i), other)
        check(im, out, mask)
        assert digest([im,other])==was
        assert digest(defect_makers[k](im.copy(), np.random.default_rng(i), other.copy()))==digest([out,mask])

@pytest.mark.parametrize('k', KINDS)
def test_without_another_image(k):
    for i in range(10): check(crop(i), *defect_makers[k](crop(i), np.random.default_rng(i)))

@pytest.mark.parametrize('k', KINDS)
def test_views_and_read_only_images(k):
    a = crop(0, (128,128))
    a.flags.writeable = False
    for im in (a[::2,::2], a[::-1], a.swapaxes(0,1), np.flip(a, (0,1))):
        for i in range(5):
            res = defect_makers[k](im, np.random.default_rng(i), im[::-1,::-1])
            check(im, *res)
            plain,other = np.ascontiguousarray(im),np.ascontiguousarray(im[::-1,::-1])
            assert digest(res)==digest(defect_makers[k](plain, np.random.default_rng(i), other))

@pytest.mark.parametrize('k', KINDS)
@pytest.mark.parametrize('c', [1,3])
def test_flat_and_extreme_images(k, c):
    r = np.random.default_rng(0)
    noise = r.random((64,64,c), dtype=np.float32)
    ims = [np.full((64,64,c), v, np.float32) for v in (0, 1e-6, .5, 1-1e-6, 1)]
    ims += [noise, (noise>.5).astype(np.float32), noise*.01, 1-noise*.01]
    shown = 0
    for i,im in enumerate(ims):
        for s in range(4):
            res = defect_makers[k](im, np.random.default_rng([i,s]), im[::-1].copy())
            check(im, *res)
            shown += res[1].any()
    if k in ('curve','spot','shade'): assert shown>=len(ims)*2, shown    # noise hides nearly anything

@pytest.mark.parametrize('k', KINDS)
def test_area_variety_and_visibility(k):
    res = [draw(k, i) for i in range(45)]
    area = np.array([m.mean() for _,m in res])
    assert (area>0).mean()>FAITHFUL[k]
    shown = area[area>0]
    assert shown.max()<=.6 and shown.min()>=4e-4
    if k!='shade': assert ((shown>=.0005)&(shown<=.25)).mean()>.9
    assert shown.max()>2*shown.min()
    assert len({digest([m]) for _,m in res if m.any()})==len(shown)         # no two alike
    for i,(out,m) in enumerate(res):
        if not m.any(): continue
        im = crop(i)
        d = np.abs(out-im)[m==1]
        assert d.max()>.02 and np.sqrt((d**2).mean())>.25*(.01+get_grain(im)*.5)

def test_a_mix_draws_another_kind_where_one_does_not_show():
    rng = np.random.default_rng(0)
    assert np.mean([add_defects(crop(i), rng, other=crop(i+60), p=1)[1].any() for i in range(120)])>.97

def test_defects_are_plain_and_vary():
    for k in ('curve','spot'):
        peak = []
        for i in range(60):
            im = crop(i, name='brick')
            out,m = defect_makers[k](im, np.random.default_rng(i))
            if m.any(): peak.append(np.abs(out-im).max())
        lo,mid,hi = np.quantile(peak, (.1,.5,.9))
        assert .1<lo<.3 and .3<mid<.5 and .5<hi, (k, lo, mid, hi)

def test_both_signs():
    for k in ('curve','spot','shade'):
        signs = []
        for i in range(60):
            out,m = defect_makers[k](crop(i, name='brick'), np.random.default_rng(i))
            if m.any(): signs.append((out-crop(i, name='brick'))[m==1].mean()>0)
        assert .05<np.mean(signs)<.7, (k, np.mean(signs))

def test_size_scales():
    "At 64 and 256 pixels, areas are alike."
    for k in ('spot','curve','perlin','bite'):
        areas = [[draw(k, i, hw=(sz,sz))[1].mean() for i in range(60)] for sz in (64,192)]
        a = [np.median([o for o in sizes if o]) for sizes in areas]
        assert 1/3<a[0]/a[1]<3, (k, a)

def test_lines_are_thin():
    for i in range(30):
        _,m = draw('curve', i, hw=(128,128))
        if m.any(): assert cv2.distanceTransform(np.pad(m, 1), cv2.DIST_L2, 5).max()<7

@pytest.mark.parametrize('c', [1,3])
def test_mix(c):
    kw = dict(p=1., n=(1,3))
    for i in range(40):
        im,other = crop(i, (64,80), c),crop(i+7, (64,80), c)
        was = digest([im,other])
        out,mask = add_defects(im, np.random.default_rng(i), other, **kw)
        assert digest([im,other])==was and not np.shares_memory(out, im)
        assert digest(add_defects(im, np.random.default_rng(i), other, **kw))==digest([out,mask])
        check(im, out, mask)
    assert len({digest(add_defects(im, np.random.default_rng(i), other, **kw)) for i in range(20)})==20

def test_probability_and_number():
    im = crop(0)
    for p in (0,.3,1):
        share = np.mean([add_defects(im, np.random.default_rng(i), p=p)[1].any() for i in range(150)])
        assert abs(share-p)<.12
    out,mask = add_defects(im, np.random.default_rng(0), p=0)
    assert np.array_equal(out, im) and not mask.any() and not np.shares_memory(out, im)
    def area(n):
        return np.mean([add_defects(im, np.random.default_rng(i), p=1, n=n, kinds='spot')[1] for i in range(40)])
    assert area((4,6))>2.5*area(1)

def test_kinds_by_weight(monkeypatch):
    seen = []
    for k,f in list(defect_makers.items()):
        monkeypatch.setitem(defect_makers, k, lambda *a, k=k, f=f: (seen.append(k), f(*a))[1])
    im = crop(0)
    for i in range(200): add_defects(im, np.random.default_rng(i), p=1, n=1, kinds={'spot':3, 'curve':1, 'shade':0})
    assert set(seen)=={'spot','curve'} and .6<np.mean([k=='spot' for k in seen])<.9
    seen.clear()
    for i in range(200): add_defects(im, np.random.default_rng(i), p=1)
    assert set(seen)==set(KINDS)

@pytest.mark.parametrize('c', [1,4])
def test_valid(c):
    y,x = np.mgrid[:64,:96]
    shapes = {'bar': (y>=10)&(y<50), 'disc': np.hypot(y-32, x-48)<28, 'stripes': x//6%2==0, 'all': y>=0}
    shown = dict.fromkeys(shapes, 0)
    for name,v in shapes.items():
        for i in range(25):
            im = crop(i, (64,96), c)
            for valid in (v.astype(np.uint8), v.astype(np.float32)):
                out,mask = add_defects(im, np.random.default_rng(i), p=1, valid=valid)
            check(im, out, mask)
            assert not mask[~v].any() and np.array_equal(out[~v], im[~v])
            shown[name] += mask.any()
    assert min(shown.values())>=20, shown
    for v in (np.zeros((64,96)), (y<12)&(x<12)):
        assert not add_defects(im, np.random.default_rng(0), p=1, valid=v)[1].any()
    same = [add_defects(im, np.random.default_rng(3), p=1, valid=v) for v in (None, np.ones((64,96)))]
    assert digest(same[0])==digest(same[1])

def test_what_fails_gives_way_to_another_kind():
    "On a constant image nothing can be distorted; the others of the mix still show, and alone it is an empty change."
    flat = np.full((64,64,1), .5, np.float32)
    out,mask = add_defects(flat, np.random.default_rng(0), p=1, kinds='warp')
    assert np.array_equal(out, flat) and not mask.any()
    assert np.mean([add_defects(flat, np.random.default_rng(i), p=1, n=1)[1].any() for i in range(60)])>.9

@pytest.mark.parametrize('kw,exc,says', [
    (dict(kinds='crak'), KeyError, "unknown defect maker 'crak'"),
    (dict(kinds={'blendd':1}), KeyError, "Did you mean 'blend'"),
    (dict(kinds={}), ValueError, 'weights'),
    (dict(kinds=[]), ValueError, 'weights'),
    (dict(kinds={'spot':0}), ValueError, 'weights'),
    (dict(kinds={'spot':float('nan')}), ValueError, 'weights'),
    (dict(p=-.1), ValueError, 'got -0.1'),
    (dict(p=2), ValueError, 'got 2'),
    (dict(n=0), ValueError, 'at least 1'),
    (dict(n=(0,2)), ValueError, '(0, 2)'),
    (dict(valid=np.ones((5,5))), ValueError, '(5, 5)'),
    (dict(other=np.zeros((96,96,3), np.float32)), ValueError, '(96, 96, 3)')],
    ids=['misspelt','misspelt weight','no weights','no kinds','weight 0','weight nan','p below 0','p above 1','n 0',
         'n from 0','valid of another size','other of another size'])
def test_errors(kw, exc, says):
    with pytest.raises(exc) as e: add_defects(crop(0), np.random.default_rng(0), **{'p':1, **kw})
    assert says in str(e.value) and '\n' not in str(e.value)

WRONG = {'two axes': crop(0)[...,0], 'four axes': crop(0)[None], 'float64': crop(0).astype(np.float64),
         'uint8': np.uint8(crop(0)*255), 'above 1': crop(0)+1, 'below 0': crop(0)-1, 'nan': crop(0)*np.float32('nan'),
         'too small': crop(0)[:10], 'a list': [[1.]]}

@pytest.mark.parametrize('bad', WRONG.values(), ids=WRONG)
def test_wrong_images(bad):
    for f in (add_defects, *defect_makers.values()):
        with pytest.raises(ValueError, match=r'image must be'): f(bad, np.random.default_rng(0))

def test_fast_enough():
    "At least 500 images of 128 pixels in a second of processor time; a quarter of that is a fault on any machine."
    ims,rng = [crop(i, (128,128)) for i in range(20)],np.random.default_rng(0)
    add_defects(ims[0], rng)
    t = process_time()
    for i in range(200): add_defects(ims[i%20], rng, ims[(i+6)%20])
    assert process_time()-t<200/125
