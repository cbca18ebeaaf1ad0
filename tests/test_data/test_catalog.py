"""From folders to a catalog: every layout, what it reads, the masks it finds, and what it says of a wrong folder."""
from pathlib import Path

import numpy as np, pandas as pd, pytest

from aead.files import SCHEMA
from aead.data.catalog import check_catalog, columns, layouts, list_images, load_catalog, read_catalog, save_catalog
from aead.data.preprocessing import read_image, read_mask
from aead.data.splits import split_catalog
from ..helpers import draw, generators, whole

every_layout = pytest.mark.parametrize('layout', sorted(layouts))

def test_every_layout_has_a_generator(): assert set(generators)==set(layouts)

def test_layouts_are_not_exported_by_their_names():
    import aead.data.catalog as c
    assert not set(layouts) & set(c.__all__)

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
    stuff,errors = tmp_path/'stuff',(ValueError, FileNotFoundError)
    stuff.mkdir()
    (stuff/'readme.txt').write_text('nothing here')
    with pytest.raises(errors) as e: load_catalog(stuff, layout)
    assert layout in str(e.value) and str(stuff) in str(e.value) and '\n' not in str(e.value)
    with pytest.raises(FileNotFoundError, match='nowhere'): load_catalog(tmp_path/'nowhere', layout)
    if layout!='csv':
        with pytest.raises(errors, match='readme.txt'): load_catalog(stuff/'readme.txt', layout)

@pytest.mark.parametrize('layout', ['mvtec','btad','visa'])
def test_layout_with_categories(layout, made):
    root,truth = made(layout)
    df = load_catalog(root, layout)
    assert set(df.category)=={'nut'}
    assert sorted(load_catalog(root, layout, 'nut').path)==sorted(truth)
    assert sorted(load_catalog(root/'nut', layout).path)==sorted(truth)
    with pytest.raises(KeyError, match="nut"): load_catalog(root, layout, 'nuts')
    train = df.path[df.split=='train']
    if layout=='visa': assert dict(df.split.value_counts())==dict(train=12, test=8)
    else: assert {Path(p).parent.parent.name for p in train}=={'train'} and len(train)==12

@every_layout
def test_relative_paths_become_absolute(layout, made, monkeypatch):
    root,truth = made(layout)
    monkeypatch.chdir(root.parent)
    assert sorted(load_catalog(root.name, layout).path)==sorted(truth)

@every_layout
def test_a_catalog_survives_saving(layout, made, tmp_path):
    root = made(layout)[0]
    df = split_catalog(load_catalog(root, layout))
    save_catalog(df, tmp_path/'c.csv', root)
    raw = pd.read_csv(tmp_path/'c.csv', dtype=str, keep_default_na=False)
    assert set(raw.schema)=={str(SCHEMA)} and not raw.path.map(lambda p: Path(p).is_absolute()).any()
    again = read_catalog(tmp_path/'c.csv', root)
    assert again[columns].astype(str).equals(df[columns].astype(str))

# --- single layouts

def test_mtd_groups_are_the_tiles(made):
    df = load_catalog(made('mtd')[0], 'mtd')
    tile = df.path.map(lambda p: int(Path(p).stem.split('_')[-1])//1000).where(df.label==0, -df.index)
    good = df.label==0
    assert pd.crosstab(df.group[good], tile[good]).gt(0).sum(axis=1).max()==1   # no group mixes tiles
    assert df.group[good].nunique()==12                                         # nor is a tile torn
    assert set(df.exposure)=={1,2,3,6}

def test_synthetic_reads_as_mvtec_and_as_csv(synth):
    root = Path(synth.path[0]).parents[3]
    for layout in ('mvtec','csv'):
        df = load_catalog(root, layout).set_index('path').loc[synth.path]
        for c in ('label','mask','defect','category'): assert df[c].tolist()==synth[c].tolist(), c
    whole(synth)
    assert not synth.label[synth.split!='test'].any()

def test_hidden_files_are_no_images(made):
    root = made('mvtec')[0]
    good = root/'nut'/'train'/'good'
    draw(good/'._000.png', 0)
    try: assert len(load_catalog(root, 'mvtec'))==22
    finally: (good/'._000.png').unlink()

def test_list_images_counts_masks_apart(made):
    root,truth = made('folder')
    images,masks = list_images(root)
    assert sorted(map(str, images))==sorted(truth)
    assert len(masks)==sum(m is not None for _,m in truth.values())

# --- errors

def test_catalog_errors(made, tmp_path):
    df = load_catalog(made('folder')[0], 'folder')
    with pytest.raises(ValueError, match="'group' is missing"): check_catalog(df.drop(columns='group'))
    with pytest.raises(ValueError, match='no images'): check_catalog(df[:0])
    with pytest.raises(ValueError, match='listed twice'): check_catalog(pd.concat([df, df[:1]]))
    for c in ('path','mask'):
        gone = df.assign(**{c: [str(tmp_path/'gone.png'), *df[c][1:]]})
        with pytest.raises(FileNotFoundError, match='gone.png'): check_catalog(gone)
    with pytest.raises(KeyError, match="mvtec"): load_catalog(tmp_path, 'mvtek')

@pytest.mark.parametrize('text,says', [('path,label\na.png,2\n', 'labels must be 0'),
                                       ('file,label\na.png,1\n', "no column 'path'"),
                                       ('', 'is not a table')], ids=['label 2','no path','empty'])
def test_errors_of_a_table(tmp_path, text, says):
    (tmp_path/'catalog.csv').write_text(text)
    with pytest.raises(ValueError, match=says): load_catalog(tmp_path, 'csv')
