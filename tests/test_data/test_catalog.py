"""From folders to a catalog: every layout, what it reads, the masks it finds, and what it says of a wrong folder."""
import shutil, warnings
from pathlib import Path

import numpy as np, pandas as pd, pytest
from PIL import Image

from aead.files import SCHEMA
from aead.data.catalog import check_catalog, columns, layouts, load_catalog, read_catalog, save_catalog
from aead.data.listing import list_images
from aead.data.preprocessing import read_image, read_mask
from aead.data.splits import split_catalog
from ..helpers import draw, generators, picture, whole

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

# --- what people's folders hold

def put(root, *names):
    "Pictures in files `names`; those in a folder of masks, or called so, are masks."
    for i,n in enumerate(names):
        (root/n).parent.mkdir(parents=True, exist_ok=True)
        x = 255*np.uint8(picture(i)>100) if 'mask' in n.lower() or 'truth' in n else picture(i)
        Image.fromarray(x).save(root/n)

def kinds(df): return {Path(p).stem: (d, s) for p,d,s in zip(df.path, df.defect, df.split)}

def test_a_defective_image_in_a_folder_of_training_is_not_good(tmp_path):
    put(tmp_path, 'train/good/1.png', 'train/bad/2.png', 'test/good/3.png', 'test/bad/4.png')
    for layout in ('folder','mvtec'):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            df = load_catalog(tmp_path, layout)
        assert kinds(df)=={'1': ('good','train'), '2': ('bad','train'), '3': ('good','test'), '4': ('bad','test')}
        assert not split_catalog(df.loc[df.index.repeat(9)].reset_index(drop=True).assign(group=range(36)))\
            .query("split in ('train','val','cal')").label.any()

@pytest.mark.parametrize('layout', ['mvtec','btad','visa','folder'])
def test_hidden_folders_are_no_classes(layout, made, tmp_path):
    root = tmp_path/'copy'
    shutil.copytree(made(layout)[0], root)
    n = len(load_catalog(root, layout))
    for d in [o for o in root.rglob('*') if o.is_dir()]:
        put(d, '.ipynb_checkpoints/000-checkpoint.png', '._000.png', '__MACOSX/1.png')
    assert len(load_catalog(root, layout))==n

@pytest.mark.parametrize('mask', ['ground_truth/crack/2_mask.jpg', 'ground_truth/crack/2_mask.PNG', 'Masks/crack/2.png',
                                  'crack/masks/2.png', 'masks/crack/2.jpg', 'crack/2_mask.png', 'masks/2.png',
                                  'ground_truth/crack/2/000.png', 'defect masks/crack/2.bmp', 'Ground Truth/2.tif'])
def test_masks_are_found_where_people_keep_them(mask, tmp_path):
    put(tmp_path, 'good/1.png', 'crack/2.png', mask)
    df = load_catalog(tmp_path)
    assert df.defect.tolist()==['crack','good']
    found = Path(df['mask'][0])
    assert found==tmp_path/mask or found==(tmp_path/mask).parent
    assert read_mask(found).any()

def test_a_photograph_is_no_mask(tmp_path):
    put(tmp_path, 'good/1.png', 'crack/0.jpg', 'crack/0.png')
    Image.fromarray(picture(7)).save(tmp_path/'good'/'gas_mask.png')
    assert len(load_catalog(tmp_path))==4

def test_labels_may_be_masks_or_a_class(tmp_path):
    put(tmp_path, 'good/1.png', 'labels/2.png')
    assert set(load_catalog(tmp_path).defect)=={'good','labels'}
    put(tmp_path, 'crack/2.png')
    Image.fromarray(255*np.uint8(picture(1)>100)).save(tmp_path/'labels'/'2.png')
    df = load_catalog(tmp_path)
    assert set(df.defect)=={'good','crack'} and df['mask'].ne('').sum()==1

def test_links_are_followed_once(tmp_path):
    put(tmp_path/'far', 'a.png', 'deep/er/b.png')
    put(tmp_path/'data', 'good/1.png', 'good/2.png')
    for name,target in {'far': 'far', 'up': 'data', 'gone.png': 'nothing'}.items():
        (tmp_path/'data'/'good'/name).symlink_to(tmp_path/target)
    with pytest.warns(UserWarning, match='lead'): df = load_catalog(tmp_path/'data')
    assert sorted(Path(p).name for p in df.path)==['1.png','2.png','a.png','b.png']

def test_names_come_in_natural_order(tmp_path):
    put(tmp_path, 'good/10.png', 'good/2.png', 'good/1, old.png')
    df = load_catalog(tmp_path)
    assert [Path(p).name for p in df.path]==['1, old.png','2.png','10.png']
    save_catalog(df, tmp_path/'c.csv', tmp_path)
    assert read_catalog(tmp_path/'c.csv', tmp_path).path.tolist()==df.path.tolist()

def test_a_mask_of_a_good_image_is_said(tmp_path):
    put(tmp_path, 'good/1.png', 'good/1_mask.png', 'crack/2.png')
    with pytest.warns(UserWarning, match='mask that marks a defect'): load_catalog(tmp_path)

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

@pytest.mark.parametrize('text', ['path;label\na.png;0.0\n', 'Path\tLabel\na.png\t0\n', 'path, label\na.png, 0\n',
                                  '\ufeffpath,label,group\n a.png ,0,\n'], ids=['semicolons','tabs','blanks','mark'])
def test_tables_of_spreadsheets_are_read(tmp_path, text):
    put(tmp_path, 'a.png')
    (tmp_path/'catalog.csv').write_text(text, encoding='utf-8')
    df = load_catalog(tmp_path, 'csv')
    assert df[['label','group']].values.tolist()==[[0, 'a.png']]

@pytest.mark.parametrize('text,says', [('path,label\na.png,2\n', 'labels must be 0'),
                                       ('path,label\na,b.png,0\n', 'is not a table'),
                                       ('path,label,Label\na.png,0,1\n', 'twice'),
                                       ('path,label\n,0\n', 'row 1 has no path'),
                                       ('file,label\na.png,1\n', "no column 'path'"),
                                       ('', 'is not a table')], ids=['label 2','comma','twice','blank path','no path','empty'])
def test_errors_of_a_table(tmp_path, text, says):
    (tmp_path/'catalog.csv').write_text(text)
    with pytest.raises(ValueError, match=says): load_catalog(tmp_path, 'csv')
