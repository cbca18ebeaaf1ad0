"""The leak audit finds what was planted, and the baselines of raw pixels look at the same images as the audit."""
import json
from pathlib import Path

import cv2, numpy as np, pandas as pd, pytest, tifffile
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from aead.data.audit import (audit_catalog, baselines, describe_audit, get_reference, load_pixels,
                             nearest_neighbour_auroc, pick_pairs, score_baseline)
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

# --- one reader: a picture is its pixels, in whatever file

def catalog(train, test, **kw):
    paths = [str(o) for o in (*train, *test)]
    split = ['train']*len(train)+['test']*len(test)
    return pd.DataFrame(dict(path=paths, label=0, defect='good', mask='', group=paths, split=split)).assign(**kw)

def save_float(x, path):
    tifffile.imwrite(path, x.astype(np.float32))
    return path

@pytest.mark.parametrize('gain,least', [(1.,0.), (.01,.5), (.003,0.)], ids=['full range','low contrast','dark'])
def test_copies_among_float_tiffs_are_found(tmp_path, rng, gain, least):
    "17 of 17 that come again at another exposure, as the pictures of a second reader were blank; and no other."
    x = [least+gain*cv2.resize(texture(rng), (32,32), interpolation=cv2.INTER_AREA) for _ in range(30)]
    train = [save_float(o, tmp_path/f'{i}.tif') for i,o in enumerate(x[:24])]
    again = [save_float(.9*o, tmp_path/f'again{i}.tif') for i,o in enumerate(x[:17])]
    new = [save_float(o, tmp_path/f'new{i}.tif') for i,o in enumerate(x[24:])]
    a = audit_catalog(catalog(train, again+new), warn=False)
    assert dict(zip(a.path, a.other))=={str(p): str(q) for p,q in zip(again, train)} and set(a.kind)=={'near-copy'}

def test_pixels_make_a_copy_not_bytes(tmp_path, rng):
    "The same picture as PNG, BMP, TIFF, WebP without loss, with 16 bits, in RGB, and turned by EXIF."
    x = [np.uint8(255*texture(rng)) for _ in range(10)]
    train = [tmp_path/f'{i}.png' for i in range(10)]
    for o,p in zip(x, train): Image.fromarray(o).save(p)
    test = [tmp_path/f for f in ('a.bmp','b.tif','c.webp','d.png','e.png','f.png')]
    for o,p in zip(x[:2], test): Image.fromarray(o).save(p)
    Image.fromarray(x[2]).convert('RGB').save(test[2], lossless=True)
    cv2.imwrite(str(test[3]), x[3].astype(np.uint16)*257)
    Image.fromarray(np.stack([x[4]]*3, 2)).save(test[4])
    exif = Image.Exif()
    exif[274] = 6                                             # to be shown turned by 90 degrees
    Image.fromarray(np.rot90(x[5])).save(test[5], exif=exif)
    a = audit_catalog(catalog(train, test), near=2, warn=False)
    assert a.kind.tolist()==['copy']*6 and a.other.tolist()==[str(o) for o in train[:6]]

def test_copies_turned_by_exif_and_compressed_are_found(tmp_path, rng):
    x = [np.uint8(255*texture(rng)) for _ in range(24)]
    for i,o in enumerate(x): Image.fromarray(o).save(tmp_path/f'{i}.png')
    exif = Image.Exif()
    exif[274] = 8
    for i in range(4): Image.fromarray(np.rot90(x[i], -1)).save(tmp_path/f'turned{i}.jpg', exif=exif, quality=70)
    a = audit_catalog(catalog([tmp_path/f'{i}.png' for i in range(24)], [tmp_path/f'turned{i}.jpg' for i in range(4)]),
                      warn=False)
    assert a.kind.tolist()==['near-copy']*4 and [Path(o).stem for o in a.other]==list('0123')

def test_unreadable_files_do_not_stop_the_audit(parts, tmp_path):
    Path(parts.path[3]).write_bytes(b'no image')
    Path(parts.path[17]).write_bytes(b'no image')              # the same bytes
    save_float(np.full((8,8), 7.), tmp_path/'16.tif')          # float pixels out of [0,1]
    Path(parts.path[20]).unlink()
    parts.loc[16,'path'] = str(tmp_path/'16.tif')
    a = audit_catalog(parts, warn=False)
    assert a.kind.tolist()==['copy'] and a.path.tolist()==[parts.path[17]] and a.attrs['unreadable']==4
    for split in ('train','test'):                             # nothing but unreadable files on one side
        for p in parts.path[parts.split==split]: Path(p).write_bytes(p.encode())
        assert 'near-copy' not in set(audit_catalog(parts, warn=False).kind)

def test_flat_images_are_no_near_copies(tmp_path):
    flat = [photograph(np.full((32,32), .1+.02*i), tmp_path/f'{i}.png') for i in range(12)]
    assert audit_catalog(catalog(flat[:9], flat[9:])).empty
    assert audit_catalog(catalog(flat[:1], flat[9:])).empty and audit_catalog(catalog([], flat)).empty
    assert audit_catalog(catalog(flat, [])).empty

# --- parts that merely look alike, and planted leaks among them

SIDE = 64

def ring(rng):
    "A turned part; all are one drawing with other noise."
    x = np.full((SIDE,SIDE), .25, np.float32)
    for r,v in ((23,.6),(10,.2)): cv2.circle(x, (32,32), r, v, -1)
    cv2.rectangle(x, (28,6), (36,14), .8, -1)
    return cv2.GaussianBlur(x, (0,0), .8)+rng.normal(0, .012, x.shape)

def screw(rng):
    "A bolt anywhere on a plain ground, at any angle; all are one drawing with other noise."
    x = np.zeros((SIDE,SIDE), np.float32)
    cv2.rectangle(x, (14,26), (22,38), .5, -1)
    cv2.rectangle(x, (22,29), (48,35), .4, -1)
    m = cv2.getRotationMatrix2D((32,32), rng.uniform(0, 360), 1)
    m[:,2] += rng.uniform(-8, 8, 2)
    return .3+cv2.warpAffine(x, m, (SIDE,SIDE))+rng.normal(0, .008, x.shape)

def cell(rng):
    "A solar cell: always the same bars, and a grain of its own."
    x,grain = np.full((SIDE,SIDE), .35),gaussian_filter(rng.normal(size=(SIDE,SIDE)), 1.5)
    for i in (12,32,52): x[:,i-1:i+2] = .8
    return rng.normal(1, .04)*x+.012*grain/grain.std()+rng.normal(0, .004, x.shape)

def moved(x, rng):
    m = np.float32([[1,0,rng.uniform(2, 5)],[0,1,-rng.uniform(2, 5)]])
    return cv2.warpAffine(x, m, (SIDE,SIDE), borderMode=cv2.BORDER_REPLICATE)

def tilted(x, rng):
    m = cv2.getRotationMatrix2D((32,32), rng.uniform(2, 7), 1)
    return cv2.warpAffine(x, m, (SIDE,SIDE), borderMode=cv2.BORDER_REPLICATE)

def compressed(x, rng):
    return cv2.imdecode(cv2.imencode('.jpg', np.uint8(x*255), [cv2.IMWRITE_JPEG_QUALITY, 75])[1], cv2.IMREAD_UNCHANGED)/255

LEAKS = {'exposed': lambda x, rng: .8*x**1.2+rng.normal(0, .004, x.shape), 'moved': moved, 'tilted': tilted,
         'turned': lambda x, rng: np.rot90(x), 'upside down': lambda x, rng: x[::-1,::-1],
         'mirrored': lambda x, rng: x[:,::-1], 'compressed': compressed,
         'resized': lambda x, rng: cv2.resize(x, None, fx=.7, fy=.7, interpolation=cv2.INTER_AREA)}

def looking_alike(make, folder, rng, train=30, new=10, leaks=()):
    "A catalog of groups of one, its leaks by path, and the sources of these."
    x = [np.clip(make(rng), 0, 1) for _ in range(train+new)]
    paths = [photograph(o, folder/f'{i}.png') for i,o in enumerate(x)]
    made = {photograph(LEAKS[k](x[i].astype(np.float32), rng), folder/f'{k}.png'): k for i,k in enumerate(leaks)}
    return catalog(paths[:train], [*paths[train:], *made]), made, dict(zip(made, paths))

@pytest.mark.parametrize('make', [ring,screw], ids=['rings','screws'])
def test_parts_that_look_alike_are_no_leak(tmp_path, rng, make):
    "The correlation of thumbnails flags all of the rings, and most of the screws."
    df,*_ = looking_alike(make, tmp_path, rng)
    a = audit_catalog(df, warn=False)
    assert a.empty and 'no leak' in describe_audit(a, 10)

@pytest.mark.parametrize('make', [cell,texture], ids=['cells','textures'])
def test_every_kind_of_leak_is_found(tmp_path, rng, make):
    kinds = [k for k in LEAKS if make is texture or k!='tilted']
    df,made,source = looking_alike(make, tmp_path, rng, leaks=kinds)
    a = audit_catalog(df, warn=False)
    assert sorted(made[p] for p in a.path)==sorted(kinds), 'each leak, and no image of a new part'
    assert dict(zip(a.path, a.other))==source
    assert (a.similarity>a.limit).all() and (a.limit>a.usual).all() and (a.chance<.001).all()

def test_a_new_part_that_lies_askew_is_no_leak(tmp_path, rng):
    df,*_ = looking_alike(cell, tmp_path, rng, new=0)
    for i in range(8): photograph(tilted(np.clip(cell(rng), 0, 1), rng), tmp_path/f'askew{i}.png')
    df = catalog(df.path, [tmp_path/f'askew{i}.png' for i in range(8)])
    assert audit_catalog(df).empty

def test_leaks_among_screws_are_found(tmp_path, rng):
    kinds = ['turned','upside down','mirrored','moved','resized']
    df,made,source = looking_alike(screw, tmp_path, rng, leaks=kinds)
    a = audit_catalog(df, warn=False)
    assert dict(zip(a.path, a.other))==source

def test_a_constant_change_of_the_test_is_no_leak(tmp_path, rng):
    "Where all test images were compressed, they are all a little more like every other image."
    x = [np.clip(ring(rng), 0, 1) for _ in range(40)]
    train = [photograph(o, tmp_path/f'{i}.png') for i,o in enumerate(x[:30])]
    test = [photograph(gaussian_filter(o, 1), tmp_path/f'{i}.png') for i,o in enumerate(x[30:], 30)]
    assert audit_catalog(catalog(train, test)).empty

@pytest.mark.parametrize('grouped', [True,False], ids=['groups known','groups of one'])
def test_copies_within_the_reference_do_not_hide_leaks(tmp_path, rng, grouped):
    "Every part was photographed four times, and the photographs were split at random."
    parts = [texture(rng) for _ in range(10)]
    shots = [(i, photograph(x, tmp_path/f'{i}-{k}.png', 1-.1*k, 1, rng.normal(0, .01, x.shape)))
             for i,x in enumerate(parts) for k in range(4)]
    df = catalog([p for j,(_,p) in enumerate(shots) if j%5], [p for j,(_,p) in enumerate(shots) if not j%5])
    part = {p: i for i,p in shots}
    if grouped: df = df.assign(group=[f'g{part[p]}' for p in df.path])
    a = audit_catalog(df, warn=False)
    a = a[a.kind=='near-copy']
    assert set(a.path)==set(df.path[df.split=='test'])
    assert all(part[p]==part[q] for p,q in zip(a.path, a.other))

# --- how certain it is

def findings(n, kind='near-copy', chance=5e-4, **attrs):
    a = pd.DataFrame(dict(kind=kind, path=[f'{i}.png' for i in range(n)], other='x.png', similarity=.9, usual=.3,
                          limit=.8, chance=chance, label=0))
    a.attrs = dict(rate=.001, **attrs)
    return a

@pytest.mark.parametrize('a,n,says,not_says', [
    (findings(1), 400, 'possible leak: 1 of 400', 'too good'),
    (findings(2), 2000, 'may be chance', 'too good'),
    (findings(9), 2000, 'leak: 9 of 2000', 'too good'),
    (findings(9), 2000, 'change the metrics little', 'possible'),
    (findings(30), 100, 'too good to be true', 'possible'),
    (findings(1, chance=0.), 400, 'leak: 1 of 400', 'possible'),
    (findings(1, 'copy', np.nan), 400, 'leak: 1 of 400', 'possible'),
    (findings(1, 'copy', np.nan), 400, '1 by copy', 'false alarms'),
    (findings(30), 100, '1 in 1,000 images of new parts, here 0.1', 'possible'),
    (findings(30, grouped=True), 100, 'both images of a pair', 'for each part')],
    ids=['one','as many as chance gives','more than chance','few','many','one beyond doubt','a copy',
         'a copy has no rate','the rate','groups known'])
def test_the_audit_says_how_certain_it_is(a, n, says, not_says):
    text = describe_audit(a, n)
    assert says in text and not_says not in text.replace('possible leak', 'possible') and '\n' not in text
    assert text.endswith("split 'grouped'.")

def test_pairs_to_show(parts):
    rows = pd.concat([findings(20).assign(similarity=np.linspace(.8, .99, 20)), findings(3, 'copy', np.nan)])
    near = pick_pairs(rows)
    assert [o['similarity'] for o in near]==sorted((o['similarity'] for o in near), reverse=True) and len(near)==8
    few = pick_pairs(pd.concat([findings(2), findings(9, 'group', np.nan).assign(usual=np.nan, limit=np.nan)]))
    assert [o['kind'] for o in few]==['near-copy']*2+['group']*6 and few[-1]['usual'] is None
    assert json.loads(json.dumps(few, allow_nan=False))==few

def test_a_stricter_rate_finds_no_more(tmp_path, rng):
    df,*_ = looking_alike(cell, tmp_path, rng, train=20, new=2, leaks=list(LEAKS)[:3])
    few,usual = (set(audit_catalog(df, warn=False, rate=r).path) for r in (1e-9,1e-3))
    assert few<=usual and len(usual)==3

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

def test_a_run_keeps_the_pairs_and_their_pictures(parts, tmp_path):
    "In `metrics.json` with relative paths; a file that has gone since leaves a gap."
    from aead.runs import score
    parts.loc[17,'group'] = 'g0'
    Path(parts.path[16]).write_bytes(Path(parts.path[3]).read_bytes())
    audit = json.loads(json.dumps(score._audit(parts, tmp_path), allow_nan=False))
    assert audit['leaks']==2 and audit['kinds']['copy']==audit['kinds']['group']==1 and audit['null_auroc'] is None
    assert {(o['path'],o['other']) for o in audit['pairs']}=={('16.png','3.png'), ('17.png','0.png')}
    Path(parts.path[17]).unlink()
    twins = {o['path']: o for o in score._twins(audit, tmp_path)}
    assert twins['17.png']['image'] is None and twins['17.png']['twin'].shape==(64,64,1)
    assert score._twins({}, tmp_path)==[]
