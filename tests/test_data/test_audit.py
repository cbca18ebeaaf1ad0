"""The leak audit finds what was planted, and the baselines of raw pixels look at the same images as the audit."""
from pathlib import Path

import numpy as np, pandas as pd, pytest, tifffile
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from aead.data.audit import (audit_catalog, baselines, describe_audit, get_reference, load_pixels,
                             nearest_neighbour_auroc, score_baseline)
from aead.data.catalog import load_catalog
from aead.data.splits import split_catalog
from aead.runs.crossval import cross_validate
from ..helpers import make_layout

def texture(rng):
    x = gaussian_filter(rng.normal(size=(64,64)), 2.5)
    return .2 + .6*(x-x.min())/np.ptp(x)

def photograph(x, path, gain=1., gamma=1., noise=0):
    Image.fromarray(np.uint8(np.clip(gain*x**gamma+noise, 0, 1)*255)).save(path)
    return str(path)

@pytest.fixture
def parts(tmp_path, rng):
    "24 different good parts: 12 train, 2 val, 2 cal, 8 test."
    paths = [photograph(texture(rng), tmp_path/f'{i}.png') for i in range(24)]
    split = ['train']*12+['val']*2+['cal']*2+['test']*8
    group = [f'g{i}' for i in range(24)]
    return pd.DataFrame(dict(path=paths, label=0, defect='good', mask='', group=group, split=split))

# --- the audit

def test_audit_finds_nothing_where_there_is_nothing(parts, recwarn):
    a = audit_catalog(parts)
    assert a.empty and not len(recwarn) and 'no leak' in describe_audit(a, 8)

@pytest.mark.parametrize('fit', [0,12,14], ids=['train','val','cal'])
def test_audit_finds_what_was_planted(parts, rng, fit):
    x = np.asarray(Image.open(parts.path[fit]), float)/255
    rows = parts.copy()
    Path(rows.path[16]).write_bytes(Path(rows.path[fit]).read_bytes())                    # an exact copy
    photograph(x, rows.path[17], .8, 1.2, rng.normal(0, .01, x.shape))                    # the part again, darker
    rows.loc[18,'group'] = rows.group[fit]                                                # the part by name
    with pytest.warns(UserWarning, match='3 of 8 test images'): a = audit_catalog(rows)
    found = {k: set(zip(o.path, o.other)) for k,o in a.groupby('kind')}
    copy,again,named = ((rows.path[i], rows.path[fit]) for i in (16,17,18))
    assert found=={'copy': {copy}, 'group': {named}, 'near-copy': {copy,again}}
    assert set(audit_catalog(rows, near=2, warn=False).kind)=={'copy','group'}

def test_audit_ignores_what_was_left_out(parts):
    rows = parts.assign(split=parts.split.replace('train', ''))
    Path(rows.path[16]).write_bytes(Path(rows.path[0]).read_bytes())
    assert audit_catalog(rows, warn=False).empty

@pytest.mark.parametrize('a,kw', [(np.uint16, {}), (np.uint8, {'bands': 5}), (np.uint8, {'bands': 4})],
                         ids=['16 bit','5 bands','alpha'])
def test_audit_reads_every_kind_of_image(tmp_path, rng, a, kw):
    paths,n = [],kw.get('bands', 1)
    for i in range(6):
        x = np.repeat((texture(rng)*np.iinfo(a).max).astype(a)[...,None], n, 2)
        paths.append(str(tmp_path/f'{i}.tif'))
        if n==4: tifffile.imwrite(paths[-1], x, photometric='rgb', extrasamples=['unassalpha'])
        elif n==5: tifffile.imwrite(paths[-1], x, photometric='minisblack', planarconfig='contig')
        else: tifffile.imwrite(paths[-1], x[...,0])
    df = pd.DataFrame(dict(path=paths, label=[0,0,0,0,1,0], mask='', group=paths, split=['train']*4+['test']*2))
    assert audit_catalog(df).empty and 0<=nearest_neighbour_auroc(df)<=1

@pytest.mark.parametrize('null,says', [(None, 'fitted the model'), (.941, 'image AUROC of 0.94 here.')],
                         ids=['no baseline','with baseline'])
def test_the_audit_in_words(parts, null, says):
    clean = audit_catalog(parts)
    assert describe_audit(clean, 8, null).endswith(says)
    parts.loc[16,'group'] = 'g0'
    text = describe_audit(audit_catalog(parts, warn=False), 8, null)
    assert text.startswith('leak: 1 of 8') and 'too good to be true' in text and '\n' not in text
    assert text.endswith(says if null else "keep groups together with split 'grouped'.")

# --- the baselines

def test_the_reference_is_what_was_fitted(parts):
    assert get_reference(parts).index.tolist()==list(range(16))
    assert get_reference(parts.assign(split='test')).empty

@pytest.mark.parametrize('name', sorted(baselines))
@pytest.mark.parametrize('fit', [0,12,14], ids=['train','val','cal'])
def test_a_baseline_knows_the_images_of_the_reference(parts, name, fit):
    Path(parts.path[20]).write_bytes(Path(parts.path[fit]).read_bytes())
    t = score_baseline(name, parts, 32)
    assert t.path.tolist()==parts.path[16:].tolist()
    assert t.score.idxmin()==4 and t.score[4] < .01*t.score.median()

def test_nearest_neighbour_by_another_library(parts):
    parts.loc[16:19,'label'] = 1
    fit,test = load_pixels(get_reference(parts)),load_pixels(parts[parts.split=='test'])
    dist = NearestNeighbors(n_neighbors=1, metric='manhattan').fit(fit).kneighbors(test)[0][:,0]
    t = score_baseline('nearest neighbour', parts)
    assert np.allclose(t.score, dist, rtol=1e-5)
    assert nearest_neighbour_auroc(parts)==roc_auc_score(t.label, t.score)

def test_a_large_reference_is_sampled(parts):
    few,again,every = (score_baseline('nearest neighbour', parts, 16, n=n).score for n in (3,3,2000))
    assert few.equals(again) and (few>=every).all() and (few>every).any()

def test_exposure_does_not_matter(tmp_path, rng):
    x = texture(rng)
    paths = [photograph(x, tmp_path/'a.png'), photograph(x, tmp_path/'b.png', gain=.5)]
    a,b = load_pixels(pd.DataFrame({'path': paths}), 32)
    assert np.abs(a-b).mean()<.02
    flat = pd.DataFrame({'path': [photograph(np.full((40,40), .5), tmp_path/'c.png')]})
    assert not load_pixels(flat).any()                       # nothing to bring to deviation 1

def test_baseline_errors(parts):
    with pytest.raises(KeyError, match="Did you mean 'nearest neighbour'"): score_baseline('nearest', parts)
    for split in ('train','test'):
        alone = parts.assign(split=split)
        with pytest.raises(ValueError, match="a baseline needs"): score_baseline('nearest neighbour', alone)
    assert nearest_neighbour_auroc(parts) is None             # no defective image in the test

def test_a_baseline_of_your_own(parts):
    t = score_baseline(lambda reference, x: x[:,0]-reference.mean(), parts, 8)
    assert len(t)==8 and t.score.notna().all()

def test_the_audit_and_cross_validation_give_one_number(tmp_path):
    data = make_layout(tmp_path/'mtd', 'mtd')
    t = cross_validate({'nearest neighbour': None}, tmp_path/'t.csv', data, 'mtd', folds=(0,1), out=tmp_path/'runs')
    for r in t.itertuples():
        df = split_catalog(load_catalog(data, 'mtd'), 'grouped', r.fold)
        assert abs(nearest_neighbour_auroc(df)-r.image_auroc)<1e-3
