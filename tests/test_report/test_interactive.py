"Sections that react to the mouse: what their scripts read, and that no name can do harm."
import gzip, json, re
from base64 import b64decode
from io import BytesIO

import numpy as np, pandas as pd, pytest
from PIL import Image

from aead.report.html import html_page, read_asset
from aead.report.interactive import dots_section, fit_thumbnails, get_thumbnail, live_section
from aead.viz.curves import plot_roc

from .pages import check, example, scores

def read(html, name): return json.loads(re.search(f'id="{name}">(.*?)</script>', html, re.S)[1])

def test_what_the_script_reads():
    t = scores()
    e = example()
    thumbs = {i: get_thumbnail(example(seed=i)['image'], e['amap'], 8., e['mask']) for i in t.index[::2]}
    html = live_section(t, 5., thumbs)
    check(html_page('t', html))
    rows,figs = read(html, 'live-rows'),read(html, 'live-figures')
    assert rows['score']==t.score.tolist() and rows['label']==t.label.tolist() and rows['p']==t.p_value.tolist()
    assert rows['threshold']==5.
    assert [o is not None for o in rows['picture']]==[i%2==0 for i in range(40)] and rows['path'][7]=='x/y/7.png'
    assert b64decode(rows['picture'][2].split(',')[1])==thumbs[2]
    assert set(figs)=={'scores','roc'} and figs['scores']['layout']['shapes'][0]['x0']==5.
    assert '20 of 40 images have a picture here' in html

def test_plotly_is_there_once():
    html = live_section(scores(), 5.)
    js = gzip.decompress(b64decode(re.search('id="live-plotly">(.*?)</script>', html)[1])).decode()
    from plotly.offline import get_plotlyjs
    assert js==get_plotlyjs() and html.count('live-plotly')==2            # once, and where it is unpacked

@pytest.mark.parametrize('name', ['live','dots'])
def test_scripts_find_their_elements(name):
    "Every id that a script names is on the page."
    t = scores()
    if name=='live': html = live_section(t, 5.)
    else: html = dots_section({'roc': plot_roc(t, 0)}, [['a']]*len(t), {}, 'T', 'how')
    made = set(re.findall(r'id="([\w-]+)"', html))
    named = set(re.findall(rf"'({name}(?:-\w+)*)'", read_asset(f'{name}.js')))
    assert len(named)>=4 and named<=made
    assert read_asset('tools.js') in html and read_asset(f'{name}.js') in html

def test_strangers_cannot_end_a_script():
    evil = '</script><img src=x onerror=alert(1)>'
    html = live_section(scores().assign(defect=lambda d: d.defect.replace('crack', evil), path=evil), 5.)
    check(html_page('t', html))
    assert evil in read(html, 'live-rows')['defect']
    assert '<' not in ''.join(read(html, 'live-figures')['scores']['layout']['yaxis']['ticktext'])

CHANGES = {'no p-values': dict(p_value=np.nan), 'p-values None': dict(p_value=None), 'one group': dict(group=1)}

@pytest.mark.parametrize('change', CHANGES.values(), ids=CHANGES)
def test_what_a_table_may_lack(change):
    rows = read(live_section(scores().assign(**change), None), 'live-rows')
    assert rows['threshold']==scores().score[:20].max()                    # the highest good one
    if 'p_value' in change: assert rows['p']==[None]*40

def test_tables_that_have_no_section():
    assert live_section(pd.DataFrame())==live_section(scores()[:0])==live_section(scores().drop(columns='path'))==''

@pytest.mark.parametrize('c', [1,3,5])
def test_thumbnails(c):
    e = example((40,60), c)
    im = Image.open(BytesIO(get_thumbnail(e['image'], e['amap'], 8., e['mask'], 30)))
    assert im.size==(61,20) and im.mode=='RGB'

def test_nearest_thumbnails_stay(rng):
    score = pd.Series(rng.normal(size=50))
    thumbs = {i: b'x'*rng.integers(100, 900) for i in range(50)}
    kept = fit_thumbnails(thumbs, score, .3, 9000)
    assert 4*sum(map(len, kept.values()))/3<=9000<4*sum(map(len, thumbs.values()))/3
    assert max(abs(score[k]-.3) for k in kept) < min(abs(score[k]-.3) for k in set(thumbs)-set(kept))
