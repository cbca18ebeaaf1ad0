"""Splits leak nothing: on every layout, on random catalogs, and by hand."""
import hashlib, os

import numpy as np, pandas as pd, pytest

from aead.data.catalog import layouts, load_catalog
from aead.data.splits import group_fold, hold_out, split_catalog, splits
from ..helpers import whole

def random_catalog(seed, n=150):
    rng = np.random.default_rng(seed)
    group = [f'part {g}' for g in rng.integers(0, rng.integers(20, 90), n)]
    label = (rng.random(n)<.15).astype(int)
    return pd.DataFrame(dict(path=[f'/d/{i}.png' for i in range(n)], label=label, mask='', group=group, split='',
                             defect=np.where(label, 'crack', 'good')))

def sha_fold(g): return int(hashlib.sha1(g.encode()).hexdigest(), 16) % 5

def fits(s): return s.split.isin(['train','val','cal'])

def test_splits_are_not_exported_by_their_names():
    import aead.data.splits as m
    assert not set(splits) & set(m.__all__)

@pytest.mark.parametrize('layout', sorted(layouts))
@pytest.mark.parametrize('split', sorted(splits))
def test_splits_of_every_layout(layout, split, made):
    df = load_catalog(made(layout)[0], layout)
    if split=='published' and 'train' not in set(df.split):
        with pytest.raises(ValueError, match='grouped'): split_catalog(df, split)
        return
    if split=='grouped' and set(df.group[df.label==0]) <= set(df.group[df.label==1]):     # each board shows a defect
        with pytest.raises(ValueError, match='of groups that also show a defect'): split_catalog(df, split)
        return
    for fold in range(1 if split=='published' else 5):
        s = split_catalog(df, split, fold)
        assert s.path.tolist()==df.path.tolist() and s.group.tolist()==df.group.tolist()
        assert {'train','val','cal'} <= set(s.split) <= {'train','val','cal','test',''}
        assert not s.label[fits(s)].any()
        if split!='published': assert (s.split[s.label==1]=='test').all()
        if split=='grouped': whole(s)

# --- grouped

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
    more = pd.concat([more, df[::-1]], ignore_index=True)
    for fold in range(5):
        a,b = (split_catalog(o, 'grouped', fold).set_index('path').split for o in (df, more))
        b = b.loc[a.index]
        assert ((a=='test')==(b=='test')).all() and ((a=='')==(b=='')).all()

def test_order_of_rows_does_not_matter():
    df = random_catalog(0)
    shuffled = df.sample(frac=1, random_state=0)
    a,b = (split_catalog(o, 'grouped', 2).set_index('path').split for o in (df, shuffled))
    assert a.equals(b.loc[a.index])

# --- random and published

def test_random_split_keeps_names_of_groups():
    df = random_catalog(1)
    s = split_catalog(df, 'random', 3)
    assert s.group.tolist()==df.group.tolist()
    root = os.path.commonpath(df.path.tolist())
    for r in s.itertuples(): assert (r.split=='test')==(r.label==1 or sha_fold(os.path.relpath(r.path, root))==3)

def test_published_split_fits_on_good_images_only():
    came = ['train','train','train','val','cal','test']
    df = random_catalog(2).assign(split=lambda o: np.resize(came, len(o)))
    s = split_catalog(df, 'published')
    assert not s.label[fits(s)].any()
    assert (s.split[s.label==0]==df.split[s.label==0]).all() and (s.split[df.split=='test']=='test').all()

def test_split_errors():
    df = random_catalog(0)
    for fold in (-1, 5, 1.5, '0'):
        with pytest.raises(ValueError, match='from 0 to 4'): split_catalog(df, 'grouped', fold)
    with pytest.raises(KeyError, match="'grouped'"): split_catalog(df, 'groupd')
    with pytest.raises(ValueError, match='fold'): split_catalog(df.assign(split='train'), 'published', 1)

# --- what is held out

def of_groups(groups, **kw):
    return pd.DataFrame(dict(path=[f'{i}' for i in range(len(groups))], group=groups, label=0, **kw))

@pytest.mark.parametrize('n', [3,4,5,9,10,30,101])
def test_hold_out_takes_whole_groups(n):
    s = hold_out(of_groups([f'g{i//3}' for i in range(3*n)], split='train'))
    count = s.groupby('split').group.nunique()
    assert count.val==max(1, round(.1*n)) and count.cal==max(1, round(.2*n))
    assert count.train==n-count.val-count.cal>0
    assert s.groupby('group').split.nunique().max()==1

@pytest.mark.parametrize('val,cal', [(.5,.5), (.9,.9), (0,1), (1,0)])
def test_hold_out_leaves_some_to_train_on(val, cal):
    try: s = hold_out(of_groups(list('abcdefgh'), split='train'), val, cal)
    except ValueError as e: assert 'to train on' in str(e)
    else: assert {'train','val','cal'} <= set(s.split)

def test_hold_out_takes_from_train_alone():
    df = of_groups(list('abcdefgh'), split=['test']*3+['train']*5)
    assert (hold_out(df).split[:3]=='test').all()
    with pytest.raises(ValueError, match='at least 3 groups'): hold_out(df[:5])
