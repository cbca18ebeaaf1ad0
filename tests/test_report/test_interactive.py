"Parts that react to the mouse: what their scripts read, that pictures fit, and that no name can do harm."
import gzip, re
from base64 import b64decode
from io import BytesIO

import numpy as np, pandas as pd, pytest
from PIL import Image

from aead.calibration import Calibration
from aead.report.html import html_page, read_asset
from aead.report.interactive import (
    calibrate_command, card_tag, fit_pictures, gallery_tag, make_picture, page_scripts, Picture, picture_side, plot_tag,
    threshold_plots, threshold_rows, threshold_section)
from aead.viz.curves import colors, fig_scores, plot_roc

from .pages import check, EVIL, Page, picture, pictures, read, scores

def section(t, thr=5., **kw):
    return threshold_section(t, thr, plot_tag('scores', fig_scores(t, thr), 'scores'), 'said', 'run', .05, **kw)

def scripts(t, thr=5., far=.05): return page_scripts(threshold_plots(t, thr), threshold_rows(t, thr, 'run', far))

def test_what_the_script_reads():
    t = scores()
    page = html_page('t', section(t), scripts=scripts(t))
    check(page)
    rows,figs = read(page, 'page-rows'),read(page, 'page-figures')
    assert rows['score']==t.score.tolist() and rows['label']==t.label.tolist() and rows['p']==t.p_value.tolist()
    assert (rows['threshold'],rows['far'],rows['command'])==(5., .05, 'aead calibrate --run run --far RATE')
    assert set(figs)=={'scores','roc','pr'} and figs['scores']['layout']['shapes'][0]['x0']==5.

def test_plotly_is_there_once():
    html = scripts(scores())
    js = gzip.decompress(b64decode(re.search('id="page-plotly">(.*?)</script>', html)[1])).decode()
    from plotly.offline import get_plotlyjs
    assert js==get_plotlyjs() and html.count('page-plotly')==2            # once, and where it is unpacked

def test_scripts_find_their_elements():
    "Every id that a script names is on the page."
    t = scores()
    page = html_page('t', section(t), scripts=scripts(t))
    made = set(re.findall(r'id="([\w-]+)"', page))
    code = ''.join(map(read_asset, ('tools.js','plots.js','live.js')))
    named = set(re.findall(r"(?:byId|readData|fill)\('([\w-]+)'", code))
    assert len(named)>=12 and named<=made
    for o in ('tools.js','page.js','plots.js','live.js'): assert read_asset(o) in page

def test_counts_stand_in_the_page():
    "Without a script the confusion matrix has its numbers."
    t = scores()
    o = section(t)
    for key,y,above in (('hit',1,True), ('miss',1,False), ('alarm',0,True), ('pass',0,False)):
        assert f'id="live-{key}">{((t.label==y) & ((t.score>5)==above)).sum()}<' in o

def test_strangers_cannot_end_a_script():
    evil = '</script><img src=x onerror=alert(1)>'
    t = scores().assign(defect=lambda d: d.defect.replace('crack', evil), path=evil)
    page = html_page('t', section(t), scripts=scripts(t))
    check(page)
    assert '<' not in ''.join(read(page, 'page-figures')['scores']['layout']['yaxis']['ticktext'])

CHANGES = {'no p-values': dict(p_value=np.nan), 'p-values None': dict(p_value=None), 'one group': dict(group=1),
           'no labels': dict(label=np.nan)}

@pytest.mark.parametrize('change', CHANGES.values(), ids=CHANGES)
def test_what_a_table_may_lack(change):
    t = scores().assign(**change)
    rows = read(page_scripts({'roc': plot_roc(scores(), 0)}, threshold_rows(t, 1., 'run', None)), 'page-rows')
    assert rows['far'] is None
    if 'p_value' in change: assert rows['p']==[None]*40
    if 'label' in change: assert rows['label']==[None]*40

def test_colours_mean_the_same_in_every_plot():
    "Blue circles are good, vermilion diamonds defective, whatever their class; no curve has one of these colours."
    t = scores().assign(defect=lambda d: np.where(d.label==0, 'good', np.where(d.index%2, 'crack', 'dent')))
    plots = threshold_plots(t, 5., pd.DataFrame({'x': [0.,.3], 'y': [0.,1], 'low': np.nan, 'high': np.nan}))
    marks = [o for p in plots.values() for o in p.data if o.marker.symbol in ('circle','diamond')]
    assert len(marks)==5
    for o in marks: assert o.marker.color==colors[int(o.marker.symbol=='diamond')]
    lines = {o.line.color for p in plots.values() for o in p.data if o.mode=='lines' and o.line.color}
    assert lines and not lines & set(colors[:2])
    assert plots['scores'].layout.yaxis.autorange=='reversed'               # good images above, as in the picture

def test_many_images_are_fewer_dots():
    "The points of a large table carry the numbers of their images."
    t = scores(20_000)
    fig = threshold_plots(t.drop(columns='group'), 5.)['scores']
    at = np.concatenate([np.asarray(o.customdata, int) for o in fig.data])
    assert len(at)==len(set(at))==6000
    x = np.concatenate([np.asarray(o.x, float) for o in fig.data])
    np.testing.assert_allclose(x, t.score.to_numpy()[at])
    assert abs(t.score.to_numpy()-5).argmin() in at

def test_the_command_keeps_what_is_flagged(rng):
    "A rate of the p-value of the lowest flagged score, rounded up to four digits, flags just these scores."
    c = Calibration(rng.normal(size=200), np.arange(200)//2)
    s = np.sort(rng.normal(size=50))
    p = c.p_value(s)
    for k in (1,10,25,40):
        far = np.ceil(p[k]*1e4-1e-9)/1e4                                     # as `roundUp` of live.js, for these rates
        if far>=1: continue
        flagged = s>c.threshold(far)[0]
        assert flagged[k:].all() and (p[flagged]<=far).all() and not flagged[p>far].any()

@pytest.mark.parametrize('run,says', [('runs/first','runs/first'), ('my run',"'my run'"), ('a;b',"'a;b'")], ids=['plain','blank','shell'])
def test_command(run, says): assert calibrate_command(run, .05)==f'aead calibrate --run {says} --far 0.05'

# --- pictures

def opened(uri): return Image.open(BytesIO(b64decode(uri.split(',')[1])))

@pytest.mark.parametrize('sz,side,wh', [((40,60),30,(90,20)), ((60,40),30,(60,30)), ((20,20),384,(60,20)), ((1,900),90,(270,1))],
    ids=['wide','high','small','a line'])
def test_panels_have_one_size(sz, side, wh):
    p = picture(sz, side=side)
    im = Image.open(BytesIO(p.data))
    assert im.size==wh and im.mode=='RGB' and p.names==('image','reconstruction','heat map')

def test_panels_that_are_missing_are_named():
    p = picture(lacks=('reconstruction',))
    assert p.names==('image','heat map') and p.lacks==('reconstruction',)
    o = Page(card_tag(p, 'data:,', 'a/b.png', 'words'))
    assert 'a/b.png, no reconstruction' in o.text and o.attrs[0][1]['data-panels']=='image|heat map'

def test_outline_is_where_the_defect_is():
    "In thousandths of the sides; the outer edge of the pixels 5 to 19 of 32 and of 48."
    x,y = np.array([o.split(',') for o in picture().outline[0].split()], float).T
    np.testing.assert_allclose([x.min(),x.max()], [5/48*1000,20/48*1000], atol=2)
    np.testing.assert_allclose([y.min(),y.max()], [5/32*1000,20/32*1000], atol=2)

def test_outline_of_noise_is_short(rng):
    p = make_picture({'image': np.zeros((256,256,3), np.uint8)}, rng.random((256,256))>.5)
    assert sum(map(len, p.outline))<20_000

def test_pictures_fit_the_budget():
    "Those of mistakes are larger, and the least important are left out."
    many = pictures(60, sz=(200,300))
    fitted = fit_pictures(many, list(range(5)), list(range(5,60)), 250_000)
    assert sum(map(len, fitted.values()))+700*len(fitted)<=250_000 and list(fitted)==list(range(len(fitted)))
    assert 20<len(fitted)<60 and opened(fitted[0]).size[0]>opened(fitted[59 if 59 in fitted else 10]).size[0]
    assert opened(fitted[0]).format=='WEBP'

def test_all_pictures_where_there_is_room():
    many = pictures(6, sz=(20,30))
    fitted = fit_pictures(many, [5], [0,1,2,3,4,99])
    assert list(fitted)==[5,0,1,2,3,4] and {opened(o).size for o in fitted.values()}=={(90,20)}

def test_no_pictures(): assert fit_pictures({}, [1], [2])=={}

def test_memory_is_bounded():
    "A JPEG of noise has at most three bytes a pixel, a photograph a sixth of it."
    for n in (10, 1500, 5000, 30_000): assert n*3*picture_side(n)**2/6*3<1.2e9 and picture_side(n)>=96
    assert picture_side(600)==384

def test_gallery():
    cards = [card_tag(p, 'data:image/webp;base64,', EVIL, EVIL, f'image-{i}') for i,p in pictures(3).items()]
    o = Page(gallery_tag(cards, page=2, brief=True))
    assert o.attrs[0][1]=={'class': 'cards brief', 'data-page': '2'} and o.seen.count('button')==3 and 'script' not in o.seen
    assert [at['aria-label'] for k,at in o.attrs if k=='button']==[f'enlarge {EVIL}']*3
    assert isinstance(pictures(1)[0], Picture)
