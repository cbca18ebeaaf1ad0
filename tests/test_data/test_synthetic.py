"""The embedded data set: exact masks, files that agree with the catalog, the same bytes for the same seed."""
import os
from pathlib import Path
from zlib import crc32

import numpy as np, pytest
from PIL import Image

from aead.data.preprocessing import read_image, read_mask
from aead.data.synthetic import defect_kinds, load_synthetic, make_synthetic, plan_synthetic, textures

SMALL = dict(textures='gravel', n_shots=1, n_regions=8)

def crop(i, hw=(64,64)):
    im = list(textures.values())[i%3]()
    y,x = np.random.default_rng(i).integers(0, np.array(im.shape)-hw)
    return im[y:y+hw[0],x:x+hw[1]]

def digest(path): return {o.relative_to(path).as_posix(): crc32(o.read_bytes()) for o in path.rglob('*') if o.is_file()}

# --- defects

@pytest.mark.parametrize('k', sorted(defect_kinds))
@pytest.mark.parametrize('hw', [(64,64),(48,80)], ids=str)
def test_what_every_kind_guarantees(k, hw):
    for i in range(8):
        im = crop(i, hw)
        was = im.copy()
        out,mask = defect_kinds[k](im, np.random.default_rng(i))
        assert (out.shape,out.dtype,mask.shape,mask.dtype)==(hw,np.float32,hw,np.uint8)
        assert 0<=out.min() and out.max()<=1 and set(np.unique(mask))=={0,1}
        assert np.array_equal(out[mask==0], im[mask==0]) and np.array_equal(im, was)
        assert .005<=mask.mean()<=.08 and (np.abs(out-im)[mask==1]>3/255).mean()>.5
        assert np.array_equal(out, defect_kinds[k](im, np.random.default_rng(i))[0])

# --- the plan

@pytest.mark.parametrize('kw', [{}, dict(contamination=.1), dict(textures='brick', n_shots=2, n_regions=9, seed=3)],
                         ids=['default','contaminated','small'])
def test_the_plan(kw):
    plan = plan_synthetic(**kw)
    assert plan.path.is_unique and plan[plan.label==1]['mask'].is_unique
    assert plan.groupby('group').split.nunique().max()==1
    assert plan.equals(plan_synthetic(**kw))
    assert ((plan['mask']!='')==(plan.label==1)).all()

# --- files

def test_files_agree_with_the_catalog(tmp_path):
    cat = make_synthetic(tmp_path/'a', **SMALL)
    assert list(cat.columns[:6])=='path label defect mask group split'.split()
    assert len(list((tmp_path/'a').rglob('*.png')))==len(cat)+cat.label.sum()
    for o in cat.itertuples():
        im = np.array(Image.open(o.path))
        assert (im.shape,im.dtype)==((64,64),np.uint8) and bool(o.mask)==(o.label==1)
        if o.mask: assert set(np.unique(np.array(Image.open(o.mask))))=={0,255}

def test_masks_cover_a_fair_area(synth):
    for r in synth[synth.label==1].itertuples():
        assert .005<=read_mask(r.mask, read_image(r.path).shape[:2]).mean()<=.08

@pytest.mark.parametrize('seed,same', [(0,True),(1,False)], ids=['same seed','another seed'])
def test_synthetic_is_the_same_for_the_same_seed(synth, tmp_path, seed, same):
    df = make_synthetic(tmp_path/f'{seed}', textures='brick', sz=48, n_shots=1, n_regions=20, seed=seed)
    a,b = ([Path(p).read_bytes() for p in o.path] for o in (df, synth))
    assert (a==b)==same

def test_asking_again_only_loads(tmp_path):
    cat = make_synthetic(tmp_path/'a', **SMALL)
    stamp,files = (tmp_path/'a'/'catalog.csv').stat().st_mtime_ns,digest(tmp_path/'a')
    assert make_synthetic(tmp_path/'a', **SMALL).equals(cat) and load_synthetic(tmp_path/'a').equals(cat)
    assert (tmp_path/'a'/'catalog.csv').stat().st_mtime_ns==stamp
    make_synthetic(tmp_path/'b', **SMALL)
    assert digest(tmp_path/'b')==files                       # byte for byte
    other = make_synthetic(tmp_path/'c', **SMALL, seed=1)
    new = digest(tmp_path/'c')
    assert all(files[k]!=new[k] for k in files.keys() & new.keys()) and len(other)==len(cat)
    assert sorted(os.listdir(tmp_path))==['a','b','c']       # nothing temporary stays behind

def test_an_empty_folder_is_filled_and_another_one_is_left_alone(tmp_path):
    (tmp_path/'empty').mkdir()
    assert len(make_synthetic(tmp_path/'empty', **SMALL))
    (tmp_path/'mine').mkdir()
    (tmp_path/'mine'/'notes.txt').write_text('keep')
    for path in (tmp_path/'mine', tmp_path/'mine'/'notes.txt'):
        with pytest.raises(ValueError, match='holds other files'): make_synthetic(path)
    assert (tmp_path/'mine'/'notes.txt').read_text()=='keep'
    with pytest.raises(KeyError, match="unknown texture 'sand'"): make_synthetic(tmp_path/'d', 'sand')
    assert not (tmp_path/'d').exists()

@pytest.mark.parametrize('sz', [32,48,73])
def test_sizes(tmp_path, sz):
    df = make_synthetic(tmp_path/'s', 'brick', sz=sz, n_shots=1, n_regions=4)
    assert np.array(Image.open(df.path[0])).shape==(sz,sz)
