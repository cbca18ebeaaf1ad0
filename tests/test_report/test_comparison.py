"The page about several runs: tables of scores alone, with images, with names that would do harm."
import re
from base64 import b64decode
from io import BytesIO

import numpy as np, pandas as pd, pytest
from PIL import Image

from aead.compare import compare_models
from aead.report.comparison import describe_comparison, ImageSource, RunParts, write_comparison

from ..helpers import made_up_decisions
from .pages import check, EVIL, Page, read, titles

def scores(seed=0, lift=1., **kw): return made_up_decisions(seed, lift).assign(**kw)

def page_of(tmp_path, *args, **kw):
    p = write_comparison(tmp_path/'c.html', *args, **kw)
    return p.read_text(encoding='utf-8')

def test_numbers_are_those_of_the_comparison(tmp_path):
    t = {'a': scores(0, .2), 'b': scores(1, 3.)}
    rows = compare_models(t)
    o = check(page_of(tmp_path, t))
    for r in rows: assert f'{r["value"]:.3f}' in o.text and f'{r["low"]:.3f} to {r["high"]:.3f}' in o.text
    assert describe_comparison(rows) in o.text
    assert titles((tmp_path/'c.html').read_text())==[
        'Metrics','Differences','Curves','Images on which they disagree','Image by image','Quality against cost']

def test_every_plot_is_there_once(tmp_path):
    page = page_of(tmp_path, {'a': scores(0, .2), 'b': scores(1, 3.)})
    assert sorted(re.findall('id="plot-(.*?)"', page))==sorted(read(page, 'page-figures'))==['pairs','pr','roc']

def test_ranking_can_be_saved(tmp_path):
    t = {'a': scores(0, .2), 'b': scores(1, 3.)}
    at = next(at for k,at in Page(page_of(tmp_path, t)).attrs if k=='a' and 'download' in at)
    table = pd.read_csv(BytesIO(b64decode(at['href'].split('base64,')[1])))
    assert table.model.tolist()==[r['model'] for r in compare_models(t)] and table['rank'].tolist()==[1,2]

@pytest.mark.filterwarnings('ignore:Glyph')
def test_hostile_names(tmp_path):
    name = EVIL.replace('$', '').replace('\udcff', '')
    paths = [f'{name}{i}' for i in range(80)]
    t = {name: scores(0, defect=name, path=paths), 'b': scores(1, path=paths)}
    assert name in check(page_of(tmp_path, t)).text

def test_several_folds_are_not_one_curve(tmp_path):
    folds = {k: pd.concat([scores(i+s, 2., fold=i) for i in (0,1)]) for k,s in (('a',0),('b',5))}
    page = page_of(tmp_path, folds)
    assert 'scores of different folds are never pooled' in page and 'id="plot-roc"' not in page
    assert set(read(page, 'page-figures'))=={'pairs'}

def test_one_model_is_no_comparison(tmp_path):
    page = page_of(tmp_path, {'a': scores()})
    check(page)
    assert 'There is one model' in page and 'id="page-plotly' not in page and 'A single model has no differences.' in page

def test_a_column_that_is_missing_is_named(tmp_path):
    t = {'a': scores().drop(columns='group'), 'b': scores()}
    with pytest.raises(ValueError, match="'a' lack the column group"): page_of(tmp_path, t)
    assert not (tmp_path/'c.html').exists()

def test_no_metric_has_its_reason(tmp_path):
    page = page_of(tmp_path, {k: scores(i).assign(label=0) for i,k in enumerate('ab')})
    assert 'No metric can be computed on the images that the models share: no fold has both good and defective' in page

@pytest.fixture
def images(tmp_path):
    "Images and maps of two runs; `b` lacks a map."
    t,rng = scores(),np.random.default_rng(0)
    (tmp_path/'images').mkdir()
    for p in t.path: Image.fromarray(rng.integers(0, 255, (16,20), np.uint8)).save(tmp_path/'images'/p)
    out = {}
    for k in 'ab':
        (tmp_path/k).mkdir()
        for i in range(len(t)-(k=='b')): np.save(tmp_path/k/f'{i}.npy', rng.random((8,8)).astype(np.float32))
        paths = [str(tmp_path/'images'/p) for p in t.path]
        out[k] = ImageSource(t.assign(path=paths, amap=[f'{i}.npy' for i in t.index], mask=''), tmp_path/k)
    return out

def test_images_of_runs(tmp_path, images):
    t = {'a': scores(0, .2), 'b': scores(1, 3.)}
    page = page_of(tmp_path, t, parts=RunParts(images=images))
    o = check(page)
    assert page.count('class="card"')==page.count('class="strip"')==o.text.count('flagged by')==80
    panels = {at['data-panels'] for _,at in o.attrs if 'data-panels' in at}
    assert panels<={f'image|b: {x}|a: {y}' for x in ('good','defective') for y in ('good','defective')} and len(panels)>1

def test_points_open_their_image(tmp_path, images):
    "The number that a point carries is that of the card with the same file."
    t = {'a': scores(0, .2), 'b': scores(1, 3.)}
    page = page_of(tmp_path, t, parts=RunParts(images=images))
    traces = [o for o in read(page, 'page-figures')['pairs']['data'] if 'customdata' in o]
    numbers = [np.frombuffer(b64decode(o['customdata']['bdata']), o['customdata']['dtype']) for o in traces]
    assert sorted(np.concatenate(numbers))==list(range(80))
    for o,at in zip(traces, numbers):
        for k in (0,-1): assert f'<small>{o["text"][k]}' in page.split(f'id="image-{at[k]}"')[1].split('</figure>')[0]

def test_paths_are_not_shown(tmp_path, images):
    o = check(page_of(tmp_path, {'a': scores(0, .2), 'b': scores(1, 3.)}, parts=RunParts(images=images)))
    shown = [o.text, *[v for _,at in o.attrs for v in at.values() if v]]
    assert not [v for v in shown if str(tmp_path) in v]                    # where the images lay is not shown

def test_a_map_that_is_missing_is_a_gap(tmp_path, images):
    one = [0]*79+[1]                                          # the decisions differ on the image without a map
    t = {'a': scores(0, .2, decision=0), 'b': scores(1, 3., decision=one)}
    assert 'no anomaly map' in page_of(tmp_path, t, parts=RunParts(images=images))

def test_images_only_where_all_runs_have_them(tmp_path, images):
    t = {'a': scores(0, .2), 'b': scores(1, 3.)}
    page = page_of(tmp_path, t, parts=RunParts(images={'a': images['a']}))
    assert 'class="strip"' not in page and '<th scope="col">Flagged by</th>' in page

def test_costs_are_shown(tmp_path):
    costs = pd.DataFrame({'name': ['a','b'], 'median_ms': [3.,40.], 'file_mib': [.5,9.], 'parameters': [1000,2000000]})
    page = page_of(tmp_path, {'a': scores(0, .2), 'b': scores(1, 3.)}, parts=RunParts(costs=costs))
    assert '40.0' in page and '2,000,000' in page and 'No costs' not in page
