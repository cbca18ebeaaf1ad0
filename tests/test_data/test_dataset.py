"""From folders to tensors: every layout, splits that leak nothing, the audit, the data set and its loaders."""
import hashlib, os, threading, time
from pathlib import Path

import numpy as np, pandas as pd, pytest, tifffile, torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from aead.files import SCHEMA
from aead.data.audit import audit_catalog, describe_audit
from aead.data.catalog import check_catalog, columns, layouts, list_images, load_catalog, read_catalog, save_catalog
from aead.data.splits import group_fold, hold_out, split_catalog, splits
from aead.data.dataset import ImageDataset, check_images, read_batches
from aead.data.loaders import get_dls
from aead.data.preprocessing import read_image, read_mask
from aead.data.synthetic import make_synthetic, plan_synthetic, synthetic_images

# --- a tiny folder in every layout; each returns `{path: (defect, mask or None)}`, the truth

def draw(path, i, hw=(20,24), c=3):
    path.parent.mkdir(parents=True, exist_ok=True)
    a = np.random.default_rng([i, len(path.name)]).integers(0, 256, (*hw,c), dtype=np.uint8)
    Image.fromarray(a if c==3 else a[...,0]).save(path)
    return str(path)

def draw_mask(path, i, hw=(20,24), v=255):
    path.parent.mkdir(parents=True, exist_ok=True)
    m = np.zeros(hw, np.uint8); m[2+i%7:9+i%7, i%11:i%11+3+i%4] = 1
    Image.fromarray(m*v).save(path)
    return m

def like_mvtec(root, good='good', bad=('crack','dent'), mask='{}_mask.png', v=255):
    truth = {}
    for i in range(16): truth[draw(root/'nut'/('train' if i<12 else 'test')/good/f'{i:03d}.png', i)] = 'good',None
    for k,d in enumerate(bad):
        for i in range(3): # the same stems in each class: masks must not be mixed up
            p = root/'nut'/'test'/d/f'{i:03d}.png'
            truth[draw(p, 20+10*k+i)] = d, draw_mask(root/'nut'/'ground_truth'/d/mask.format(p.stem), 3*k+i, v=v)
    return truth

def like_btad(root): return like_mvtec(root, 'ok', ('ko',), '{}.png')

def like_visa(root):
    truth,rows = {},[]
    for i in range(16):
        truth[draw(root/'nut'/'Data'/'Images'/'Normal'/f'{i:04d}.JPG', i)] = 'good',None
        rows.append(('nut', 'train' if i<12 else 'test', 'normal', f'nut/Data/Images/Normal/{i:04d}.JPG', ''))
    for i in range(4):
        truth[draw(root/'nut'/'Data'/'Images'/'Anomaly'/f'{i:03d}.JPG', 30+i)] = 'anomaly', draw_mask(root/'nut'/'Data'/'Masks'/'Anomaly'/f'{i:03d}.png', i, v=i+1)
        rows.append(('nut', 'test', 'anomaly', f'nut/Data/Images/Anomaly/{i:03d}.JPG', f'nut/Data/Masks/Anomaly/{i:03d}.png'))
    (root/'split_csv').mkdir()
    pd.DataFrame(rows, columns=['object','split','label','image','mask']).to_csv(root/'split_csv'/'1cls.csv', index=False)
    return truth

def like_mtd(root):
    truth,n = {},0
    for t in range(12): # tiles of their own sizes, far apart in number, at three exposures
        hw = (30+6*t, 40+5*(t%4))
        for e in (1,3,6):
            n += 1
            truth[draw(root/'MT_Free'/'Imgs'/f'exp{e}_num_{1000*t+n}.jpg', n, hw, 1)] = 'good',None
    for t in range(3):
        p = root/'MT_Crack'/'Imgs'/f'exp2_num_{50_000+1000*t}.jpg'
        truth[draw(p, 90+t, (32,44), 1)] = 'crack', draw_mask(p.with_suffix('.png'), t, (32,44))
    draw_mask(root/'MT_Free'/'Imgs'/'exp1_num_1.png', 0, (30,40), 0)
    return truth

def like_folder(root):
    truth = {draw(root/'good'/f'sub{i%2}'/f'{i:02d}.png', i): ('good',None) for i in range(14)}
    for i in range(2): truth[draw(root/'crack'/f'{i}.jpg', 40+i)] = 'crack', draw_mask(root/'crack'/f'{i}.png', i)                       # beside
    for i in range(2): truth[draw(root/'dent'/f'{i}.png', 50+i)] = 'dent', draw_mask(root/'ground_truth'/'dent'/f'{i}_mask.png', 4+i)     # apart
    truth[draw(root/'hole'/'7.bmp', 60)] = 'hole',None
    (root/'.hidden').mkdir(); draw(root/'.hidden'/'x.png', 0)
    (root/'notes.txt').write_text('not an image')
    return truth

def like_csv(root):
    truth = like_folder(root)
    rows = [dict(path=Path(p).relative_to(root).as_posix(), label=int(d!='good'), defect=d, group=f'part{i//2}',
                 mask='' if m is None else mask_of(root, p).relative_to(root).as_posix()) for i,(p,(d,m)) in enumerate(truth.items())]
    pd.DataFrame(rows).to_csv(root/'catalog.csv', index=False)
    return truth

def mask_of(root, p):
    p = Path(p)
    return p.with_suffix('.png') if p.suffix=='.jpg' else root/'ground_truth'/'dent'/f'{p.stem}_mask.png'

def like_synthetic(root):
    "The truth comes from the plan, not from what was written."
    kw = dict(textures='brick', sz=48, n_shots=1, n_regions=12)
    make_synthetic(root, **kw)
    plan = plan_synthetic(**kw)
    return {str(root/o.path): (o.defect, m if o.label else None) for o,(_,m) in zip(plan.itertuples(), synthetic_images(plan, 48))}

generators = dict(synthetic=like_synthetic, mvtec=like_mvtec, btad=like_btad, visa=like_visa, mtd=like_mtd, folder=like_folder, csv=like_csv)

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "Makes a folder in a layout, once: `made('mvtec')` is the folder and the truth."
    done = {}
    def make(layout):
        if layout not in done:
            root = tmp_path_factory.mktemp(layout)/f'data {layout} ü'
            root.mkdir()
            done[layout] = root, generators[layout](root)
        return done[layout]
    return make

every_layout = pytest.mark.parametrize('layout', sorted(layouts))

def test_every_layout_has_a_generator(): assert set(generators)==set(layouts)

# --- the contract of a layout

@every_layout
def test_layout_reads_everything_once(layout, made):
    root,truth = made(layout)
    df = load_catalog(root, layout)
    assert list(df.columns[:6])==columns
    assert sorted(df.path)==sorted(truth)
    assert all(Path(p).is_absolute() and Path(p).is_file() for p in df.path)
    assert ((df.label==1)==(df.defect!='good')).all() and set(df.label)<={0,1}
    assert (df['mask'][df.label==0]=='').all() and (df.group!='').all()
    for r in df.itertuples(): assert r.defect==truth[r.path][0], r.path

@every_layout
def test_layout_finds_the_right_masks(layout, made):
    root,truth = made(layout)
    for r in load_catalog(root, layout).itertuples():
        m = truth[r.path][1]
        assert bool(r.mask)==(m is not None), r.path
        if m is None: continue
        got = read_mask(r.mask, read_image(r.path).shape[:2])
        assert got.dtype==np.uint8 and set(np.unique(got))=={0,1} and np.array_equal(got, m), r.path

@every_layout
def test_layout_names_what_a_wrong_folder_lacks(layout, tmp_path):
    (tmp_path/'stuff').mkdir(); (tmp_path/'stuff'/'readme.txt').write_text('nothing here')
    with pytest.raises((ValueError, FileNotFoundError)) as e: load_catalog(tmp_path/'stuff', layout)
    assert layout in str(e.value) and str(tmp_path/'stuff') in str(e.value) and '\n' not in str(e.value)
    with pytest.raises(FileNotFoundError, match='nowhere'): load_catalog(tmp_path/'nowhere', layout)
    if layout!='csv':
        with pytest.raises((ValueError, FileNotFoundError), match='readme.txt'): load_catalog(tmp_path/'stuff'/'readme.txt', layout)

@pytest.mark.parametrize('layout', ['mvtec','btad','visa'])
def test_layout_with_categories(layout, made, tmp_path):
    root,truth = made(layout)
    df = load_catalog(root, layout)
    assert set(df.category)=={'nut'}
    assert sorted(load_catalog(root, layout, 'nut').path)==sorted(truth)==sorted(load_catalog(root/'nut', layout).path)
    with pytest.raises(KeyError, match="nut"): load_catalog(root, layout, 'nuts')
    if layout=='visa': assert dict(df.split.value_counts())==dict(train=12, test=8)
    else: assert {Path(p).parent.parent.name for p in df.path[df.split=='train']}=={'train'} and (df.split=='train').sum()==12

@every_layout
def test_relative_paths_become_absolute(layout, made, monkeypatch):
    root,truth = made(layout)
    monkeypatch.chdir(root.parent)
    assert sorted(load_catalog(root.name, layout).path)==sorted(truth)

@every_layout
@pytest.mark.parametrize('split', sorted(splits))
def test_splits_of_every_layout(layout, split, made):
    df = load_catalog(made(layout)[0], layout)
    if split=='published' and 'train' not in set(df.split):
        with pytest.raises(ValueError, match='grouped'): split_catalog(df, split)
        return
    for fold in range(1 if split=='published' else 5):
        s = split_catalog(df, split, fold)
        assert s.path.tolist()==df.path.tolist() and set(s.split) <= {'train','val','cal','test',''}
        assert {'train','val','cal'} <= set(s.split)
        assert not s.label[s.split.isin(['train','val','cal'])].any()
        assert s.group.tolist()==df.group.tolist()
        if split!='published': assert (s.split[s.label==1]=='test').all()
        if split=='grouped': whole(s)

def whole(s):
    "No part is in two of train, val, cal, or in one of them and in test."
    for g,o in s.groupby('group').split: assert len(set(o)-{''})<=1 or set(o)=={'test',''}, g

@every_layout
def test_a_catalog_survives_saving(layout, made, tmp_path):
    root = made(layout)[0]
    df = split_catalog(load_catalog(root, layout))
    save_catalog(df, tmp_path/'c.csv', root)
    raw = pd.read_csv(tmp_path/'c.csv', dtype=str, keep_default_na=False)
    assert set(raw.schema)=={str(SCHEMA)} and not raw.path.map(lambda p: Path(p).is_absolute()).any()
    again = read_catalog(tmp_path/'c.csv', root)
    assert again[columns].astype(str).equals(df[columns].astype(str))

def test_mtd_groups_are_the_tiles(made):
    df = load_catalog(made('mtd')[0], 'mtd')
    tile = df.path.map(lambda p: int(Path(p).stem.split('_')[-1])//1000).where(df.label==0, -df.index)
    assert pd.crosstab(df.group[df.label==0], tile[df.label==0]).gt(0).sum(axis=1).max()==1   # no group mixes tiles
    assert df.group[df.label==0].nunique()==12                                          # nor is a tile torn
    assert set(df.exposure)=={1,2,3,6}

def test_synthetic_reads_as_mvtec_and_as_csv(synth):
    root = Path(synth.path[0]).parents[3]
    for layout in ('mvtec','csv'):
        df = load_catalog(root, layout).set_index('path').loc[synth.path]
        assert df.label.tolist()==synth.label.tolist() and df['mask'].tolist()==synth['mask'].tolist() and df.defect.tolist()==synth.defect.tolist()
        assert df.category.tolist()==synth.category.tolist()
    whole(synth)
    assert not synth.label[synth.split!='test'].any()
    for r in synth[synth.label==1].itertuples():
        m = read_mask(r.mask, read_image(r.path).shape[:2])
        assert .005<=m.mean()<=.08

def test_synthetic_is_the_same_for_the_same_seed(synth, tmp_path):
    kw = dict(textures='brick', sz=48, n_shots=1, n_regions=20)
    for seed,same in ((0,True),(1,False)):
        df = make_synthetic(tmp_path/f'{seed}', **kw, seed=seed)
        a,b = ([Path(p).read_bytes() for p in o.path] for o in (df, synth))
        assert (a==b)==same

def test_catalog_errors(made, tmp_path):
    df = load_catalog(made('folder')[0], 'folder')
    with pytest.raises(ValueError, match="'group' is missing"): check_catalog(df.drop(columns='group'))
    with pytest.raises(ValueError, match='no images'): check_catalog(df[:0])
    with pytest.raises(ValueError, match='listed twice'): check_catalog(pd.concat([df, df[:1]]))
    for c in ('path','mask'):
        with pytest.raises(FileNotFoundError, match='gone.png'): check_catalog(df.assign(**{c: [str(tmp_path/'gone.png'), *df[c][1:]]}))
    with pytest.raises(KeyError, match="mvtec"): load_catalog(tmp_path, 'mvtek')
    (tmp_path/'catalog.csv').write_text('path,label\na.png,2\n')
    with pytest.raises(ValueError, match='labels must be 0'): load_catalog(tmp_path, 'csv')
    (tmp_path/'catalog.csv').write_text('file,label\na.png,1\n')
    with pytest.raises(ValueError, match="no column 'path'"): load_catalog(tmp_path, 'csv')

def test_list_images_counts_masks_apart(made):
    root,truth = made('folder')
    images,masks = list_images(root)
    assert sorted(map(str, images))==sorted(truth) and len(masks)==sum(m is not None for _,m in truth.values())

# --- splits of random catalogs

def random_catalog(seed, n=150):
    rng = np.random.default_rng(seed)
    group = [f'part {g}' for g in rng.integers(0, rng.integers(20, 90), n)]
    label = (rng.random(n)<.15).astype(int)
    return pd.DataFrame(dict(path=[f'/d/{i}.png' for i in range(n)], label=label, defect=np.where(label, 'crack', 'good'), mask='', group=group, split=''))

def sha_fold(g): return int(hashlib.sha1(g.encode()).hexdigest(), 16) % 5

@pytest.mark.parametrize('seed', range(6))
def test_grouped_split_by_hand(seed):
    df = random_catalog(seed)
    bad = set(df.group[df.label==1])
    tested = []
    for fold in range(5):
        s = split_catalog(df, 'grouped', fold)
        for r in s.itertuples():
            if r.label or sha_fold(r.group)==fold: assert r.split=='test'
            elif r.group in bad: assert r.split==''             # a part that has a defect teaches nothing
            else: assert r.split in ('train','val','cal')
        whole(s)
        tested += s.path[(s.split=='test') & (s.label==0)].tolist()
    assert sorted(tested)==sorted(df.path[df.label==0])          # every good image is tested in one fold
    assert [group_fold(g) for g in df.group]==[sha_fold(g) for g in df.group]

@pytest.mark.parametrize('seed', range(3))
def test_more_files_move_nobody(seed):
    df = random_catalog(seed)
    more = random_catalog(seed+50).assign(path=lambda o: '/more'+o.path, group=lambda o: 'new '+o.group)
    for fold in range(5):
        a,b = (split_catalog(o, 'grouped', fold).set_index('path').split for o in (df, pd.concat([more, df[::-1]], ignore_index=True)))
        b = b.loc[a.index]
        assert ((a=='test')==(b=='test')).all() and ((a=='')==(b=='')).all()

def test_order_of_rows_does_not_matter():
    df = random_catalog(0)
    a,b = (split_catalog(o, 'grouped', 2).set_index('path').split for o in (df, df.sample(frac=1, random_state=0)))
    assert a.equals(b.loc[a.index])

def test_random_split_keeps_names_of_groups():
    df = random_catalog(1)
    s = split_catalog(df, 'random', 3)
    assert s.group.tolist()==df.group.tolist()
    root = os.path.commonpath(df.path.tolist())
    assert all((r.split=='test')==(r.label==1 or sha_fold(os.path.relpath(r.path, root))==3) for r in s.itertuples())

def test_published_split_fits_on_good_images_only():
    df = random_catalog(2).assign(split=lambda o: np.resize(['train','train','train','val','cal','test'], len(o)))
    s = split_catalog(df, 'published')
    assert not s.label[s.split.isin(['train','val','cal'])].any()
    assert (s.split[s.label==0]==df.split[s.label==0]).all() and (s.split[df.split=='test']=='test').all()

def test_split_errors():
    df = random_catalog(0)
    for fold in (-1, 5, 1.5, '0'):
        with pytest.raises(ValueError, match='from 0 to 4'): split_catalog(df, 'grouped', fold)
    with pytest.raises(KeyError, match="'grouped'"): split_catalog(df, 'groupd')
    with pytest.raises(ValueError, match='fold'): split_catalog(df.assign(split='train'), 'published', 1)

@pytest.mark.parametrize('n', [3,4,5,9,10,30,101])
def test_hold_out_takes_whole_groups(n):
    df = pd.DataFrame(dict(path=[f'{i}' for i in range(3*n)], group=[f'g{i//3}' for i in range(3*n)], split='train', label=0))
    s = hold_out(df)
    count = s.groupby('split').group.nunique()
    assert count.val==max(1, round(.1*n)) and count.cal==max(1, round(.2*n)) and count.train==n-count.val-count.cal>0
    assert s.groupby('group').split.nunique().max()==1

def test_hold_out_bounds():
    df = pd.DataFrame(dict(path=list('abcdefgh'), group=list('abcdefgh'), split='train', label=0))
    with pytest.raises(ValueError, match='at least 3 groups'): hold_out(df[:2])
    for val,cal in ((.5,.5), (.9,.9), (0,1), (1,0)):
        try: s = hold_out(df, val, cal)
        except ValueError: continue
        assert {'train','val','cal'} <= set(s.split), f'val={val}, cal={cal} leave {sorted(set(s.split))}'
    s = hold_out(df.assign(split=['test']*3+['train']*5))
    assert (s.split[:3]=='test').all()

# --- the audit

def texture(rng): return .2 + .6*(lambda o: (o-o.min())/np.ptp(o))(gaussian_filter(rng.normal(size=(64,64)), 2.5))

def photograph(x, path, gain=1., gamma=1., noise=0):
    Image.fromarray(np.uint8(np.clip(gain*x**gamma+noise, 0, 1)*255)).save(path)
    return str(path)

@pytest.fixture
def parts(tmp_path, rng):
    "24 different good parts: 12 train, 2 val, 2 cal, 8 test."
    paths = [photograph(texture(rng), tmp_path/f'{i}.png') for i in range(24)]
    return pd.DataFrame(dict(path=paths, label=0, defect='good', mask='', group=[f'g{i}' for i in range(24)], split=['train']*12+['val']*2+['cal']*2+['test']*8))

def test_audit_finds_nothing_where_there_is_nothing(parts, recwarn):
    a = audit_catalog(parts)
    assert a.empty and not len(recwarn) and 'no leak' in describe_audit(a, 8)

@pytest.mark.parametrize('fit', [0,12,14])
def test_audit_finds_what_was_planted(parts, tmp_path, rng, fit):
    x = np.asarray(Image.open(parts.path[fit]), float)/255
    rows = parts.set_index(parts.index)
    Path(rows.path[16]).write_bytes(Path(rows.path[fit]).read_bytes())                                       # an exact copy
    photograph(x, rows.path[17], .8, 1.2, rng.normal(0, .01, x.shape))                                       # the part again, darker
    rows.loc[18,'group'] = rows.group[fit]                                                                   # the part by name
    with pytest.warns(UserWarning, match='3 of 8 test images'): a = audit_catalog(rows)
    found = {k: set(zip(o.path, o.other)) for k,o in a.groupby('kind')}
    assert found['copy']=={(rows.path[16], rows.path[fit])}
    assert found['group']=={(rows.path[18], rows.path[fit])}
    assert found['near-copy']=={(rows.path[16], rows.path[fit]), (rows.path[17], rows.path[fit])}
    assert set(audit_catalog(rows, near=2, warn=False).kind)=={'copy','group'}

def test_audit_ignores_what_was_left_out(parts):
    rows = parts.assign(split=parts.split.replace('train', ''))
    Path(rows.path[16]).write_bytes(Path(rows.path[0]).read_bytes())
    assert audit_catalog(rows, warn=False).empty

# --- the data set

def table(paths, masks=None, split='train'):
    paths = [str(o) for o in paths]
    return pd.DataFrame(dict(path=paths, label=0, defect='good', mask=masks or ['']*len(paths), group=paths, split=split))

def same(a, b): return len(a)==len(b) and all(torch.equal(o,p) for o,p in zip(a, b))

@pytest.mark.parametrize('c', [1,3,5])
@pytest.mark.parametrize('dtype', ['uint8','uint16'])
def test_every_depth_and_number_of_channels(tmp_path, rng, c, dtype):
    top = np.iinfo(dtype).max
    a = rng.integers(0, top, (16,24,c), endpoint=True).astype(dtype)
    tifffile.imwrite(tmp_path/'a.tif', a if c>1 else a[...,0], photometric='rgb' if c==3 else 'minisblack', **(dict(planarconfig='contig') if c>1 else {}))
    ds = ImageDataset(table([tmp_path/'a.tif']), (16,24))
    x,clean,mask,valid = ds[0]
    assert x.shape==(c,16,24) and x.dtype==torch.float32 and torch.equal(x, clean)
    assert np.abs(x.numpy().transpose(1,2,0).astype(float)*top-a).max() < 2e-3*top/255
    assert not mask.any() and valid.all() and mask.shape==valid.shape==(16,24)

@pytest.mark.parametrize('resize', ['stretch','pad','crop'])
@pytest.mark.parametrize('hw', [(32,32),(24,40),(64,16)])
@pytest.mark.parametrize('aug', [False,True])
def test_sizes(tmp_path, resize, hw, aug):
    h,w = 20,50
    draw(tmp_path/'a.png', 0, (h,w)); m = np.zeros((h,w), np.uint8); m[8:12,22:28] = 255
    Image.fromarray(m).save(tmp_path/'m.png')                                                           # in the middle: no mode cuts it off
    x,clean,mask,valid = ImageDataset(table([tmp_path/'a.png'], [str(tmp_path/'m.png')]), hw, resize, augment=aug)[0]
    assert x.shape==(3,*hw)==clean.shape and mask.shape==valid.shape==hw
    assert all(o.dtype==torch.float32 for o in (x,clean,mask,valid))
    assert 0<=x.min() and x.max()<=1 and set(mask.unique().tolist())=={0,1} and set(valid.unique().tolist())<={0,1}
    if resize!='pad': assert valid.all()
    elif not aug:
        r = min(hw[0]/h, hw[1]/w)
        assert valid.sum()==round(h*r)*round(w*r) and not (mask*(1-valid)).any() and not (x*(1-valid)).any()

def test_a_flip_moves_mask_and_padding_along(tmp_path):
    a = np.zeros((20,40,3), np.uint8); a[3:6,4:9] = 255
    Image.fromarray(a).save(tmp_path/'a.png'); Image.fromarray(a[...,0]).save(tmp_path/'m.png')
    off = dict(elastic=0, brightness=0, contrast=0, noise=0, hflip=.5, vflip=.5, rotate90=.5)
    ds = ImageDataset(table([tmp_path/'a.png']*8, [str(tmp_path/'m.png')]*8), 40, 'pad', augment=off)
    seen = set()
    for i in range(8):
        x,_,mask,valid = ds[i]
        assert torch.equal((x[0]>.5).float(), mask) and valid.sum()==20*40 and not (mask*(1-valid)).any()
        seen.add(tuple(mask.nonzero()[0].tolist()))
    assert len(seen)>3

@pytest.mark.parametrize('aug', [False,True])
def test_keeping_images_in_memory_changes_nothing(synth, aug):
    kept,fresh = (ImageDataset(synth, 32, augment=aug, cache_mb=o) for o in (64,0))
    for epoch in (0,1,0):
        kept.epoch = fresh.epoch = epoch
        assert all(same(kept[i], fresh[i]) for i in range(len(synth)))

def test_memory_for_images_has_a_limit(synth):
    reads = []
    def read(p, channels=None): reads.append(p); return read_image(p, channels)
    ds = ImageDataset(synth, 256, read=read, cache_mb=2, channels=3)
    one = 256*256*(3*4+1)
    for _ in range(2): [ds[i] for i in range(len(synth))]
    again = len(reads)-len(synth)
    assert len(synth)-2*2**20//one <= again < len(synth)          # some were kept, never more than fit

def test_augmentation_depends_on_image_epoch_and_seed_only(synth):
    make = lambda **kw: ImageDataset(synth, 32, augment=True, **kw)
    ds,n = make(),len(synth)
    first = [ds[i] for i in range(n)]
    for i in reversed(range(n)): assert same(make()[i], first[i])                 # whatever came before
    [ds[i] for i in (3,3,5)]
    assert same(ds[4], first[4])
    np.random.seed(5); torch.manual_seed(5)
    assert same(ds[7], first[7])
    ds.epoch = 1
    other = [ds[i] for i in range(n)]
    assert np.mean([torch.equal(a[0], b[0]) for a,b in zip(first, other)]) < .2    # another epoch
    assert np.mean([torch.equal(a[0], b[0]) for a,b in zip(first, map(make(seed=1).__getitem__, range(n)))]) < .2
    ds.epoch = 0
    assert same(ds[2], first[2])

def test_augmentation_of_twins_differs(tmp_path):
    draw(tmp_path/'a.png', 0)
    ds = ImageDataset(table([tmp_path/'a.png']*6), 32, augment=True)
    assert len({ds[i][0].numpy().tobytes() for i in range(6)})>=5

@pytest.mark.parametrize('workers', [0,2])
def test_augmentation_does_not_depend_on_workers(synth, workers):
    ds = ImageDataset(synth, 32, augment=True)
    dl = torch.utils.data.DataLoader(ds, batch_size=8, num_workers=workers)
    want = [torch.stack(o) for o in zip(*(ImageDataset(synth, 32, augment=True)[i] for i in range(len(synth))))]
    assert same([torch.cat(o) for o in zip(*dl)], want)

def test_augmentation_does_not_depend_on_threads(synth):
    want = [torch.stack(o) for o in zip(*(ImageDataset(synth, 64, augment=True)[i] for i in range(len(synth))))]
    for _ in range(3):
        got = [b for _,b in read_batches(ImageDataset(synth, 64, augment=True), 8, threads=4)]
        assert same([torch.cat(o) for o in zip(*got)], want)

def test_unknown_augmentation_is_named(synth):
    with pytest.raises(KeyError, match='hflop'): ImageDataset(synth, 32, augment=dict(hflop=.5))

# --- files that cannot be read

@pytest.fixture
def damaged(tmp_path):
    "Eight images: number 2 is truncated, 5 is missing, the mask of 6 has another size."
    paths = [draw(tmp_path/f'{i}.png', i) for i in range(8)]
    raw = Path(paths[2]).read_bytes(); Path(paths[2]).write_bytes(raw[:len(raw)//2])
    Path(paths[5]).unlink()
    masks = ['']*8; draw_mask(tmp_path/'m.png', 0, (9,9)); masks[6] = str(tmp_path/'m.png')
    return table(paths, masks)

@pytest.mark.parametrize('bs', [1,2,3,8,50])
def test_batches_skip_and_report_bad_files(damaged, bs):
    good,bad = [],{}
    for i,b in read_batches(ImageDataset(damaged, 16), bs):
        if isinstance(b, Exception): bad[i] = b
        else: assert len(i)==len(b[0])<=bs; good += i
    assert good==[0,1,3,4,7] and list(bad)==[2,5,6]
    assert '2.png' in str(bad[2]) and '5.png' in str(bad[5]) and 'm.png' in str(bad[6])

def test_check_images_leaves_bad_ones_out(damaged):
    with pytest.raises(ValueError, match='m.png'): check_images(damaged)     # a mask that does not fit is no accident of one file
    damaged['mask'] = ''
    with pytest.warns(UserWarning, match='2 of 8 images'): df,c,bad = check_images(damaged)
    assert c==3 and list(bad)==[damaged.path[2], damaged.path[5]]
    assert df.path.tolist()==damaged.path.drop([2,5]).tolist() and df.index.tolist()==list(range(6))
    with pytest.raises(ValueError, match='none of the 2'): check_images(damaged.iloc[[2,5]])

def test_check_images_wants_one_number_of_channels(tmp_path):
    df = table([draw(tmp_path/'a.png', 0, c=1), draw(tmp_path/'b.png', 0, c=3)])
    with pytest.raises(ValueError, match='set channels to 1 or 3'): check_images(df)
    for c in (1,3): assert check_images(df, c)[1]==c

# --- batches

@pytest.mark.parametrize('n,bs,threads', [(0,4,2),(1,4,1),(7,4,2),(8,4,3),(13,1,2)])
def test_batches_come_in_order(tmp_path, n, bs, threads):
    def read(p, c=None):
        time.sleep(.003*(int(p)%3==0))                       # some take longer
        return np.full((8,8,1), int(p)/100, np.float32)
    got = list(read_batches(ImageDataset(table(range(n)), 8, read=read), bs, threads))
    assert [i for o,_ in got for i in o]==list(range(n))
    assert [len(o) for o,_ in got]==[bs]*(n//bs)+[n%bs]*(n%bs>0)
    if n: assert torch.equal(torch.cat([b[0] for _,b in got])[:,0,0,0], torch.arange(n)/100)

def test_only_a_few_batches_are_in_memory():
    started,lock = [0],threading.Lock()
    def read(p, c=None):
        with lock: started[0] += 1
        return np.zeros((8,8,1), np.float32)
    bs,used,most = 4,0,0
    batches = read_batches(ImageDataset(table(range(200)), 8, read=read, cache_mb=0), bs, threads=4)
    for rows,_ in batches:
        time.sleep(.002)
        most,used = max(most, started[0]-used),used+len(rows)
        if used==100: break
    assert used==100 and bs <= most <= 4*bs
    batches.close()
    assert started[0] <= 100+4*bs                            # who stops early does not read the rest

# --- loaders

def epoch_of(dls, k):
    dls.train.set_epoch(k)
    return [torch.cat(o) for o in zip(*dls.train)]

@pytest.mark.parametrize('workers', [0,2])
def test_an_epoch_is_the_same_whenever_it_is_asked_for(synth, workers):
    make = lambda seed=0, w=workers: get_dls(synth, 32, 5, seed=seed, workers=w, device='cpu')
    dls = make()
    epochs = [epoch_of(dls, k) for k in range(3)]
    assert same(epoch_of(make(), 2), epochs[2])              # a run that resumes
    assert same(epoch_of(make(w=0), 1), epochs[1])           # whatever the workers
    assert same(epoch_of(dls, 0), epochs[0])
    for a,b in ((epochs[0],epochs[1]), (epochs[1],epochs[2]), (epochs[0],epoch_of(make(1), 0))): assert not torch.equal(a[0], b[0])

def test_each_image_once_an_epoch_and_in_another_order(synth):
    dls = get_dls(synth, 32, 5, augment=False, workers=0, device='cpu')
    key = lambda x: [o.numpy().tobytes() for o in x]
    want = sorted(key(ImageDataset(synth[synth.split=='train'], 32)[i][0] for i in range(10)))
    orders = [key(epoch_of(dls, k)[0]) for k in range(4)]
    assert all(sorted(o)==want for o in orders) and len({tuple(o) for o in orders})==4

def test_validation_is_not_varied(synth):
    dls = get_dls(synth, 32, 5, workers=0, device='cpu')
    ds = ImageDataset(synth[synth.split=='val'], 32)
    for k in (0,1):
        dls.train.set_epoch(k)
        assert same([torch.cat(o) for o in zip(*dls.valid)], [torch.stack(o) for o in zip(*(ds[i] for i in range(len(ds))))])

@pytest.mark.parametrize('bs,sizes', [(3,[3,3,3]), (10,[10]), (64,[10])])
def test_batch_sizes(synth, bs, sizes):
    dls = get_dls(synth, 32, bs, workers=0, device='cpu')
    assert [len(b[0]) for b in dls.train]==sizes

def test_loader_errors(synth):
    for s in ('train','val'):
        with pytest.raises(ValueError, match=f"no images in '{s}'"): get_dls(synth[synth.split!=s], 32)
    with pytest.raises(ValueError, match='20 training images are defective'): get_dls(synth.assign(split=synth.split.replace('test','train')), 32)

def test_loader_processes_after_threads_were_used(tmp_path):
    "OpenCV's pool of threads must not be inherited by a forked loader process, which would wait for it forever."
    code = '''if True:
        import numpy as np, pandas as pd, cv2
        from aead.data.loaders import get_dls
        cv2.remap(np.zeros((2000,2000), np.float32), *np.random.rand(2,2000,2000).astype(np.float32), 1)     # starts a pool, if there is one
        df = pd.DataFrame({'path': range(24), 'mask': '', 'label': 0, 'split': ['train']*16+['val']*8})
        dls = get_dls(df, size=256, bs=4, workers=2, augment={'elastic': 1.}, read=lambda i,c: np.random.default_rng(i).random((256,256,1), dtype='float32'))
        for e in range(3): dls.train.set_epoch(e); assert len(list(dls.train))==4
        assert cv2.getNumThreads()<=1
    '''
    import subprocess, sys
    subprocess.run([sys.executable, '-c', code], check=True, timeout=120, capture_output=True)

# --- synthetic defects and passes of any length

def test_defects_depend_on_image_epoch_and_seed_only(synth):
    df = synth[synth.split=='train'].reset_index(drop=True)
    a,b,c = (ImageDataset(df, 32, defects=1., seed=s, cache_mb=m) for s,m in ((0,64),(0,0),(1,64)))
    xs = [a[i] for i in range(6)]
    assert all(torch.equal(p, q) for i in reversed(range(6)) for p,q in zip(xs[i], b[i]))
    assert not all(torch.equal(xs[i][0], c[i][0]) for i in range(6))
    a.epoch = 1
    assert not all(torch.equal(xs[i][0], a[i][0]) for i in range(6))

@pytest.mark.parametrize('augment', [False,True])
def test_only_marked_pixels_differ_from_clean(synth, augment):
    df = synth[synth.split=='train'].reset_index(drop=True)
    ds = ImageDataset(df, 32, augment=augment, defects=1., seed=3)
    plain = ImageDataset(df, 32, augment=augment, seed=3)
    n = 0
    for i in range(8):
        x,clean,mask,valid = ds[i]
        assert torch.equal(clean, plain[i][0]) and torch.equal(x[:,mask==0], clean[:,mask==0]) and x.min()>=0 and x.max()<=1
        n += int(mask.any())
    assert n >= 6

def test_defects_stay_out_of_the_padding(tmp_path):
    import cv2
    rng = np.random.default_rng(0)
    for i in range(6): cv2.imwrite(str(tmp_path/f'{i}.png'), cv2.GaussianBlur(rng.integers(0, 256, (20,60), np.uint8), (0,0), 1.5))
    df = pd.DataFrame({'path': [str(tmp_path/f'{i}.png') for i in range(6)], 'mask': ''})
    ds = ImageDataset(df, 64, 'pad', defects=1.)
    for i in range(6):
        x,clean,mask,valid = ds[i]
        assert 0 < valid.mean() < 1 and not mask[valid==0].any() and torch.equal(x[:,valid==0], clean[:,valid==0])

@pytest.mark.parametrize('share', [0,.3,1])
def test_share_of_images_with_defects(synth, share):
    ds = ImageDataset(synth[synth.split=='train'].reset_index(drop=True), 32, defects=float(share))
    got = np.mean([bool(ds[i+k*len(ds)][2].any()) for k in range(40) for i in range(5)])
    assert abs(got-share) < .12

@pytest.mark.parametrize('batches', [1,3,11])
def test_a_pass_of_any_length(synth, batches):
    dl = get_dls(synth, 32, 4, workers=0, device='cpu', batches=batches).train
    dl.set_epoch(2)
    idxs,n = dl.get_idxs(),len(dl.dataset)
    assert len(dl)==batches and len(list(dl))==batches and len(idxs)==4*batches==len(set(idxs))
    rounds = [sorted(i%n for i in idxs[k:k+n]) for k in range(0, len(idxs), n)]
    assert all(len(set(o))==len(o) for o in rounds) and all(o==list(range(n)) for o in rounds[:-1] if len(o)==n)
    assert dl.get_idxs()==idxs

def test_rows_out_of_use(synth):
    df = synth[synth.split=='train'].reset_index(drop=True)
    ds,part = ImageDataset(df, 32),ImageDataset(df, 32)
    part.use = [3,1]
    assert len(part)==2 and torch.equal(part[0][0], ds[3][0]) and torch.equal(part[3][0], ds[1][0])
