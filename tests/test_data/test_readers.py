"""Public data sets: which layout a folder has, groups and splits of each, and what odd trees get."""
import json, shutil, warnings
from pathlib import Path

import pytest

from aead.data.catalog import load_catalog, unused_masks
from aead.data.readers import find_layout, read_boxes, read_elpv
from aead.data.splits import split_catalog
from ..helpers import draw, fails, generators, whole

PUBLIC = ['mvtec','mvtec_loco','mvtec_ad2','btad','visa','mtd','ksdd2','dagm','real_iad','deeppcb','elpv']

def load(root, layout, category=None):
    "A catalog and the warnings that came with it."
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        df = load_catalog(root, layout, category)
    return df, [str(o.message) for o in said]

@pytest.fixture
def copy(made, tmp_path):
    "A copy of a folder in a layout, to be spoilt."
    def make(layout): return Path(shutil.copytree(made(layout)[0], tmp_path/'copy'))
    return make

# --- which layout it is

@pytest.mark.parametrize('layout', PUBLIC)
def test_a_tree_is_recognised(layout, made, capfd):
    root,truth = made(layout)
    assert find_layout(root)==layout
    df,said = load(root, 'auto')
    assert sorted(df.path)==sorted(truth) and not said
    assert f"is read as the layout '{layout}'" in capfd.readouterr().err
    df,said = load(root, 'folder')
    assert sorted(df.path)==sorted(truth) and len(said)==1 and layout in said[0]

def test_a_tree_that_is_none(made, tmp_path):
    for layout in ('folder','csv'): assert find_layout(made(layout)[0]) is None
    draw(tmp_path/'box 1'/'a.png', 0)
    text = str(pytest.raises(ValueError, load_catalog, tmp_path, 'auto').value)
    assert 'found box 1/' in text and 'Put good images into good/' in text and '\n' not in text
    assert all(f'{o}: ' in text for o in PUBLIC)
    text = fails(lambda: load_catalog(made('visa')[0], 'mvtec'))
    assert 'looked for train/good/' in text and "looks like the layout 'visa'" in text
    root = made('ksdd2')[0]
    text = fails(lambda: load_catalog(root.parent, 'ksdd2'))
    assert f"{root.name}/ looks like the layout 'ksdd2', so give that folder" in text

# --- groups and splits

def test_validation_is_shared(made):
    for layout,n in (('mvtec_loco',2),('mvtec_ad2',1)):
        df = load_catalog(made(layout)[0], layout)
        assert df.category.nunique()==n
        for _,o in df.groupby('category'): assert (o.split=='val').sum()==2 and (o.split=='cal').sum()==4
        s = split_catalog(df)
        assert s.split.equals(df.split) and set(df.split)=={'train','val','cal','test'}

def test_scenes_under_several_lights_are_one_group(made):
    df = load_catalog(made('mvtec_ad2')[0], 'mvtec_ad2')
    t = df[df.split=='test']
    assert (t.groupby('group').light.nunique()==2).all() and t.group.nunique()==4
    assert not df.path.str.contains('test_private').any()
    assert set(df.light)=={'regular','underexposed'}

def test_views_of_a_part_are_one_group(made):
    df = load_catalog(made('real_iad')[0], 'real_iad')
    assert (df.groupby('group').path.count()==2).all() and set(df.view)=={'C1','C2'}
    assert df.path.str.contains('realiad_512').all()
    bad = df[df.group==df.group[df.label==1].iloc[0]]
    assert sorted(bad.defect)==['AK','good'] and set(bad.split)=={'test'}
    whole(split_catalog(df, 'grouped'))
    only = load_catalog(made('real_iad')[0], 'real_iad', 'toy_brick')
    assert set(only.category)=={'toy_brick'} and len(only)*2==len(df)
    assert len(load_catalog(made('real_iad')[0]/'realiad_jsons'/'realiad_jsons', 'real_iad'))==len(df)

def test_pairs_of_a_board_are_one_group(made):
    df = load_catalog(made('deeppcb')[0], 'deeppcb')
    assert df.group.nunique()==6 and (df.groupby('group').label.sum()==2).all()
    s = split_catalog(df)
    assert not s.label[s.split.isin(['train','val','cal'])].any() and s.split[df.label==1].isin(['','test']).all()
    assert 'of groups that also show a defect' in fails(lambda: split_catalog(df, 'grouped'))

def test_split_folders_of_single_sets(made):
    for layout in ('ksdd2','dagm'):
        df = load_catalog(made(layout)[0], layout)
        folder = df.path.map(lambda p: Path(p).parent.name.lower())
        assert folder.equals(df.split) and df.group.nunique()==len(df)
        assert not split_catalog(df).query("split in ('train','val','cal')").label.any()
    assert set(load_catalog(made('dagm')[0], 'dagm', 'Class10').category)=={'Class10'}

def test_a_probability_becomes_a_label(made):
    root = made('elpv')[0]
    df = load_catalog(root, 'elpv')
    assert df.label.tolist()==[int(o>=.5) for o in df.probability] and df.probability.between(.3, .4).sum()==1
    assert read_elpv(root, threshold=.2).label.sum()==3 and set(read_elpv(root, 'mono').category)=={'mono'}
    with pytest.raises(KeyError, match='mono'): read_elpv(root, 'momo')
    assert 'came without a split' in fails(lambda: split_catalog(df, 'published'))

# --- odd trees

def test_upper_case_and_system_files(copy):
    root = copy('ksdd2')
    n = len(load_catalog(root, 'ksdd2'))
    for p in [*root.glob('*/10002*.png'), *root.glob('*/20004*.png')]: p.rename(p.with_suffix('.PNG'))
    for p in root.glob('*/20009_GT.png'): p.rename(p.with_name('20009_gt.png'))
    for d in ('train','test'):
        (root/d/'Thumbs.db').write_bytes(b'x')
        draw(root/d/'._10000.png', 0)
    df,said = load(root, 'ksdd2')
    assert len(df)==n and not said and df.label.sum()==4

MISSING = {'mvtec_loco': 'ground_truth', 'mvtec_ad2': 'test_public/ground_truth', 'mpdd': 'ground_truth'}

@pytest.mark.parametrize('layout', MISSING)
def test_masks_that_are_missing_are_counted(layout, copy):
    root = copy(layout)
    for d in root.glob(f'*/{MISSING[layout]}'): shutil.rmtree(d)
    df,said = load(root, layout)
    bad = int(df.label.sum())
    assert bad and (df['mask']=='').all() and len(said)==1 and f'{bad} of {bad} defective images' in said[0]

def test_masks_without_their_suffix(copy):
    for layout,pattern,end in (('mvtec_ad2','*_mask.png','_mask'), ('dagm','*_label.PNG','_label')):
        root = copy(layout)
        want = load_catalog(root, layout)['mask'].ne('').sum()
        for p in root.rglob(pattern): p.rename(p.with_name(p.name.replace(end, '')))
        df,said = load(root, layout)
        assert df['mask'].ne('').sum()==want and not said
        shutil.rmtree(root)

def test_an_image_without_a_label_is_left_out(copy):
    root = copy('ksdd2')
    (root/'train'/'10000_GT.png').unlink()
    (root/'test'/'20004_GT.png').write_bytes(b'no image')
    df,said = load(root, 'ksdd2')
    assert len(df)==18 and len(said)==1 and '2 files' in said[0] and 'no label' in said[0]
    shutil.rmtree(root)
    root = copy('deeppcb')
    next(root.rglob('*_not/*.txt')).unlink()
    df,said = load(root, 'deeppcb')
    assert len(df)==23 and len(said)==1 and 'no file of boxes' in said[0]

def test_without_masks_no_image_of_dagm_is_good(copy):
    root = copy('dagm')
    shutil.rmtree(root/'Class1'/'Test'/'Label')
    assert 'nobody knows what is good' in fails(lambda: load_catalog(root, 'dagm'))

def spoil(root, change):
    "Changes the lists of a category of Real-IAD."
    file = root/'realiad_jsons'/'realiad_jsons'/'audiojack.json'
    d = json.loads(file.read_text())
    change(d)
    file.write_text(json.dumps(d))

def no_labels(d):
    for o in d['train'][:2]: del o['anomaly_class']
def twice(d): d['test'] += d['train'][:3]
def gone(d): d['train'][0]['image_path'] = 'OK/S0000/none.jpg'
def nameless(d): d['train'] += [{'anomaly_class': 'OK'}, 'nothing']
def no_mask(d): d['test'][2]['mask_path'] = 'NG/none.png'

@pytest.mark.parametrize('change,left,says', [(no_labels,2,'no label'), (twice,0,'listed twice'), (gone,1,'do not exist'),
    (nameless,0,'have no name'), (no_mask,0,'1 of 2 defective images')], ids=lambda o: getattr(o, '__name__', None))
def test_lists_with_gaps(change, left, says, copy):
    root = copy('real_iad')
    n = len(load_catalog(root, 'real_iad'))
    spoil(root, change)
    df,said = load(root, 'real_iad')
    assert len(df)==n-left and len(said)==1 and says in said[0], said

def escape(d): d['train'][0]['image_path'] = '../../../far.jpg'
def no_lists(d): d.clear()

@pytest.mark.parametrize('change,says', [(escape,'leads out of the data set'), (no_lists,"neither a list 'train'")],
                         ids=lambda o: getattr(o, '__name__', None))
def test_lists_that_are_wrong(change, says, copy):
    root = copy('real_iad')
    spoil(root, change)
    assert says in fails(lambda: load_catalog(root, 'real_iad'))
    (root/'realiad_jsons'/'realiad_jsons'/'audiojack.json').write_text('{')
    assert 'is not JSON' in fails(lambda: load_catalog(root, 'real_iad'))
    for d in root.glob('realiad_[25]*'): shutil.rmtree(d)
    assert 'a folder of images' in fails(lambda: load_catalog(root, 'real_iad', 'toy_brick'))

@pytest.mark.parametrize('text', ['1 2 3 4', '1 2 3 4 five', '-1 2 3 4 5', '1.5 2 3 4 5'])
def test_boxes_that_are_wrong(text, tmp_path):
    (tmp_path/'b.txt').write_text(f'1 2 3 4 5\n\n{text}\n')
    assert 'x1 y1 x2 y2 type' in fails(lambda: read_boxes(tmp_path/'b.txt'))

def test_labels_that_are_wrong(copy):
    root = copy('elpv')
    lines = (root/'labels.csv').read_text().splitlines()
    (root/'labels.csv').write_text('\n'.join([*lines, 'images/none.png 0.0 mono']))
    df,said = load(root, 'elpv')
    assert len(df)==len(lines) and len(said)==1 and 'do not exist' in said[0]
    (root/'labels.csv').write_text('\n'.join(['path,probability,type', *(','.join(o.split()) for o in lines)]))
    assert len(load_catalog(root, 'elpv'))==len(lines)
    (root/'labels.csv').write_text('\n'.join([*lines, 'images/none.png often mono']))
    assert 'a probability from 0 to 1' in fails(lambda: load_catalog(root, 'elpv'))

def test_masks_of_other_categories_are_not_unused(made):
    root = made('mvtec_loco')[0]
    assert unused_masks(load_catalog(root, 'mvtec_loco', 'screw_bag'), root)==[]
    assert unused_masks(load_catalog(root, 'mvtec_loco'), root)==[]

def test_every_public_layout_is_tried(): assert set(PUBLIC) <= set(generators)
