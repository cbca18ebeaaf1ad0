import gzip, json, re
from base64 import b64decode
from html.parser import HTMLParser

import numpy as np, pandas as pd, pytest

from aead.config import Config, config_to_dict
from aead.report.interactive import get_thumbnail
from aead.report.html import Markup, tag
from aead.report.run import get_verdict, get_warnings, write_report

EVIL = '"\'><script>alert(1)</script><img src=x onerror=alert(1)>&amp; $x$ \udcff 裂纹'
CFG = config_to_dict(Config())

class Page(HTMLParser):
    "Checks that tags nest, and collects what is on the page."
    def __init__(self, text):
        super().__init__()
        self.open,self.seen,self.attrs,self.text = [],[],[],''
        self.feed(text); self.close()
        assert not self.open
    def handle_starttag(self, name, attrs):
        self.seen.append(name); self.attrs.append((name, dict(attrs)))
        if name not in ('img','meta','input'): self.open.append(name)
    def handle_endtag(self, name): assert self.open.pop()==name
    def handle_data(self, s): self.text += s

def scores(n=40, seed=0):
    rng = np.random.default_rng(seed)
    label = np.repeat([0,1], n//2)
    s = rng.normal(3,1,n)+3*label
    return pd.DataFrame(dict(path=[f'/x/y/{i}.png' for i in range(n)], label=label, defect=np.where(label==0,'good','crack'), group='', split='test',
                             score=s, p_value=rng.random(n), decision=(s>5).astype(int)))

def metrics(**kw):
    return {**dict(image_auroc=.97, image_ap=.95, pixel_auroc=None, false_alarm_rate=.05, detection_rate=.9, target_false_alarm_rate=.05, threshold=5., size=[64,64],
                   why={'pixel_auroc':'no masks'}, ci95={'image_auroc':[.9,.99]}, per_defect={'crack':{'image_auroc':.97,'n':20}},
                   n=dict(test_good=20, test_defective=20, train=100, val=10, cal=30, cal_groups=12, skipped=0), heat_max=8.), **kw}

def example(sz=(32,48), c=1, seed=0, **kw):
    rng = np.random.default_rng(seed)
    mask = np.zeros(sz, np.uint8); mask[5:20,5:20] = 1
    return {**dict(image=rng.random((*sz,c)), recon=rng.random((*sz,c)), amap=rng.random(sz)*8, mask=mask, path='/x/y/1.png', defect='crack', label=1,
                   score=7., p_value=.01, decision=1), **kw}

def report(tmp_path, **kw):
    a = {**dict(config=CFG, metrics=metrics(), scores=scores(), history=pd.DataFrame(dict(epoch=[0,1], train_loss=[2,1.], valid_loss=[2,1.], lr=[1,2.])),
                examples={'found':[example()], 'missed':[], 'false alarms':[], 'borderline':[]}, notes=['a note']), **kw}
    p = write_report(tmp_path/'my run'/'report.html', **a)
    return p,p.read_text(encoding='utf-8')

SCRIPTS = [('application/json','live-rows'), ('application/json','live-figures'), ('text/plain','live-plotly'), (None,None)]

def check(page):
    "Well formed, self-contained, with no scripts but the page's own."
    o = Page(page)
    own = [(at.get('type'), at.get('id')) for name,at in o.attrs if name=='script']
    assert own in ([], SCRIPTS) and not [at for name,at in o.attrs if name=='script' and set(at)-{'type','id'}]
    assert 'link' not in o.seen and 'iframe' not in o.seen
    for name,at in o.attrs:
        assert not [k for k in at if k.startswith('on')]
        if name=='img': assert at['alt'] and at['src'].startswith('data:image/')
    assert '@import' not in page and 'url(' not in page
    return o

def live(page):
    "What the page's script reads: rows and figures."
    return [json.loads(re.search(f'id="live-{k}">(.*?)</script>', page, re.S)[1]) for k in ('rows','figures')]

def test_order_and_content(tmp_path):
    p,page = report(tmp_path)
    o = check(page)
    assert p.name=='report.html' and [q.name for q in p.parent.iterdir()]==['report.html']
    assert re.findall('<h1>(.*?)</h1>', page)==['my run']
    assert re.findall('<h2>(.*?)</h2>', page)==['Please note','Defects that were found','Figures','Scores by class','Every possible threshold','Move the threshold','By kind of defect',
        'Defects that were missed','False alarms: good images called defective','Training','Settings']
    assert '18 of 20 defective images are found, and 1 of 20 good ones is called defective.' in o.text
    assert 'Not available: no masks.' in o.text and '0.900 to 0.990' in o.text and 'a note' in o.text and 'cnn_ae' in o.text
    assert page.count('data:image/png;base64,')==4                     # scores, ROC, precision-recall, training

@pytest.mark.filterwarnings('ignore:Glyph')
def test_hostile_names(tmp_path):
    e = example(defect=EVIL, path=EVIL)
    s = scores().assign(defect=lambda d: d.defect.replace('crack', EVIL), path=EVIL)
    m = metrics(per_defect={EVIL:{'image_auroc':.9,'n':20}}, why={'pixel_auroc':EVIL,'threshold':EVIL}, threshold=None)
    _,page = report(tmp_path, config={'name':EVIL, EVIL:EVIL, 'model':EVIL}, metrics=m, scores=s, examples={'found':[e], EVIL:[e]}, notes=[EVIL])
    o = check(page)
    assert '<script>alert(1)</script>' in o.text      # as text, in plain sight

@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('kw', [
    dict(examples={}), dict(examples={'found':[]}), dict(history=None), dict(history=pd.DataFrame()), dict(notes=()),
    dict(metrics={}), dict(config={}), dict(scores=scores()[:20]), dict(scores=scores()[20:]), dict(scores=scores()[:0]), dict(scores=pd.DataFrame()),
    dict(scores=scores().assign(decision=None)), dict(scores=scores().assign(p_value=np.nan)), dict(metrics={k:None for k in metrics()}),
    dict(metrics={k:np.nan if isinstance(v, float) else v for k,v in metrics().items()}),
    dict(metrics=metrics(threshold=None, false_alarm_rate=None, detection_rate=None, heat_max=None), scores=scores().assign(decision=np.nan)),
    dict(examples={'found':[example(mask=None), example(mask=np.zeros((32,48))), example(amap=np.full((32,48), np.nan))]}),
    dict(examples={'missed':[example(c=3, decision=None, p_value=None), example(c=5, decision='good')]}),
    dict(config={**CFG, 'size':(1,2), 'lr':np.float32(.5), 'p':__import__('pathlib').Path('a')}),
])
def test_whatever_is_missing(tmp_path, kw): check(report(tmp_path, **kw)[1])

def test_stays_small(tmp_path):
    "Of 16 large examples, and of three thousand thumbnails."
    many = [example((700,900), 3, seed=i) for i in range(16)]      # noise, which no format compresses
    p,page = report(tmp_path, examples={'found':many[:8], 'missed':many[8:]})
    assert p.stat().st_size<5_000_000
    p = report(tmp_path, examples={'found':many[:8], 'missed':many[8:]}, scores=scores(3000), thumbs={i: b'\xff'*4000 for i in range(3000)})[0]
    assert 7_000_000<p.stat().st_size<10_000_000
    check(page)

def test_other_splits_are_left_out(tmp_path):
    more = pd.concat([scores(), scores(seed=1).assign(split='train', defect='elsewhere')])
    assert report(tmp_path, scores=more)[1]==report(tmp_path, scores=scores())[1]

def test_failure_leaves_the_old_report(tmp_path):
    p,page = report(tmp_path)
    with pytest.raises(ValueError): report(tmp_path, scores=scores().assign(score=np.nan))
    assert p.read_text(encoding='utf-8')==page and len(list(p.parent.iterdir()))==1

def test_heat_maps_share_one_scale(tmp_path):
    a,b = example(),example(amap=example()['amap']/100)
    page = report(tmp_path, examples={'found':[a,b]}, metrics=metrics(heat_max=None))[1]
    assert f'{a["amap"].max():.3g} and more' in page
    uris = [at['src'] for name,at in Page(page).attrs if name=='img' and 'heat map' in at['alt']]
    assert len(uris)==2 and uris[0]!=uris[1]

def test_verdict_and_warnings():
    assert get_verdict(metrics(detection_rate=0., n={}))=='At a promised false-alarm rate of 5 %, 0 % of defective images are found, and 5 % of good ones are called defective.'
    assert get_verdict(metrics(target_false_alarm_rate=None)).startswith('At the threshold in use, 18 of 20')
    assert 'not known (no good images)' in get_verdict(metrics(false_alarm_rate=None, why={'false_alarm_rate':'no good images'}))
    assert get_warnings({'data':{'split':'published'}}, metrics())==[]         # a published split is not leaky by itself: the audit says so
    assert get_warnings({}, metrics(), ['leaks, see audit'])==['leaks, see audit']
    assert 'More false alarms' in get_warnings({}, metrics(false_alarm_rate=.3, ci95={'false_alarm_rate':[.2,.4]}))[0]
    assert '3 images' in get_warnings({}, metrics(n={'skipped':3}))[0]

def test_text_is_escaped_unless_marked():
    assert tag('p', '<', Markup('<br>'), title='"')=='<p title="&quot;">&lt;<br></p>'

def test_what_the_script_reads(tmp_path):
    t = scores()
    thumbs = {i: get_thumbnail(example(seed=i)['image'], example()['amap'], 8., example()['mask']) for i in t.index[::2]}
    page = report(tmp_path, scores=t, thumbs=thumbs)[1]
    check(page)
    rows,figs = live(page)
    assert rows['score']==t.score.tolist() and rows['label']==t.label.tolist() and rows['threshold']==5. and rows['p']==t.p_value.tolist()
    assert [o is not None for o in rows['picture']]==[i%2==0 for i in range(40)] and rows['path'][7]=='x/y/7.png'
    assert b64decode(rows['picture'][2].split(',')[1])==thumbs[2]
    assert set(figs)=={'scores','roc'} and figs['scores']['layout']['shapes'][0]['x0']==5.
    assert '20 of 40 images have a picture here' in page
    js = gzip.decompress(b64decode(re.search('id="live-plotly">(.*?)</script>', page)[1])).decode()
    from plotly.offline import get_plotlyjs
    assert js==get_plotlyjs() and page.count('live-plotly')==2            # once, and where it is unpacked

def test_examples_lend_their_pictures(tmp_path):
    t = scores()
    rows = live(report(tmp_path, scores=t, examples={'found': [example(path=t.path[33])]})[1])[0]
    assert [i for i,o in enumerate(rows['picture']) if o]==[33]

def test_without_scripts_on_request(tmp_path):
    page = report(tmp_path, interactive=False)[1]
    assert '<script' not in page and 'Move the threshold' not in page

def test_strangers_cannot_end_a_script(tmp_path):
    evil = '</script><img src=x onerror=alert(1)>'
    page = report(tmp_path, scores=scores().assign(defect=lambda d: d.defect.replace('crack', evil), path=evil))[1]
    check(page)
    rows,figs = live(page)
    assert evil in rows['defect'] and '<' not in ''.join(figs['scores']['layout']['yaxis']['ticktext'])

def test_missing_parts_are_named(tmp_path):
    page = report(tmp_path, examples={'found': [example(recon=None), example(amap=None, mask=None)]}, scores=scores().drop(columns=['group','p_value']))[1]
    o = check(page)
    assert 'no reconstruction' in o.text and 'no anomaly map' in o.text and 'No curve of the pixels' in o.text

def test_pro_curve_is_shown(tmp_path):
    from aead.viz.curves import get_pro_curve
    from aead.metrics import PixelMetrics
    e = [example(seed=i) for i in range(4)]
    pro = get_pro_curve(PixelMetrics().update([o['amap'] for o in e], [o['mask'] for o in e]))
    page = report(tmp_path, pro=pro)[1]
    assert page.count('data:image/png;base64,')==5 and 'PRO curve' in page and 'No curve of the pixels' not in page
