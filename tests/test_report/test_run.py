"The report of a run: what is on it, in which order, and that it is written whatever a run lacks."
import re
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch

from aead.config import Config, DetectConfig, config_to_dict
from aead.metrics import METRICS, PixelMetrics
from aead.report.run import describe_map, get_verdict, get_warnings, metric_title, RunReport, write_report
from aead.viz.curves import get_pro_curve

from .pages import check, EVIL, example, metrics, Page, scores
from .test_interactive import read

CFG = config_to_dict(Config())

def report(tmp_path, interactive=True, **kw):
    history = pd.DataFrame(dict(epoch=[0,1], train_loss=[2,1.], valid_loss=[2,1.], lr=[1,2.]))
    examples = {'found':[example()], 'missed':[], 'false alarms':[], 'borderline':[]}
    a = dict(config=CFG, metrics=metrics(), scores=scores(), history=history, examples=examples, notes=['a note'])
    p = write_report(tmp_path/'my run'/'report.html', RunReport(**{**a, **kw}), interactive)
    return p,p.read_text(encoding='utf-8')

def test_order_and_content(tmp_path):
    p,page = report(tmp_path)
    o = check(page)
    assert p.name=='report.html' and [q.name for q in p.parent.iterdir()]==['report.html']
    assert re.findall('<h1>(.*?)</h1>', page)==['my run']
    assert re.findall('<h2>(.*?)</h2>', page)==[
        'Please note','Defects that were found','Metrics','Scores by class','Every possible threshold',
        'Move the threshold','By defect class','Defects that were missed','False alarms: good images that were flagged',
        'Training','Settings']
    assert '18 of 20 defective images are found, and 1 of 20 good images is flagged.' in o.text
    for text in ('Not available: no masks.', '0.900 to 0.990', 'a note', 'cnn_ae'): assert text in o.text
    assert ('Model cnn_ae · 64 × 64 pixels (height × width) · 100 images to train on · '
            '30 for the threshold from 12 parts · 20 good and 20 defective ones to test') in o.text
    assert page.count('data:image/png;base64,')==4                     # scores, ROC, precision-recall, training

def test_every_map_is_described(tiny_model):
    "Error maps, and the own maps of every family, with and without a head."
    from aead.losses import err_maps
    from aead.models.base import model_registry
    from aead.models.feature_head import HeadedFeatures
    from aead.models.head import HeadedAutoencoder
    bodies = {k: tiny_model(k) for k in model_registry}
    coarse = tiny_model('feature_ae', coder='linear', position=8, hw=[32,32])
    names = set(err_maps)
    for m in (*bodies.values(), HeadedAutoencoder(bodies['cnn_ae'], depth=2, memory=8), coarse, HeadedFeatures(bodies['feature_ae'])):
        x = torch.rand(2, 3, 32, 32)
        names |= set(m.eval().reconstruct(m.prepare(x), m.draw_noise((3,32,32), 0)).maps)
    assert {'head','head_8','memory','memory_8','gaussian_4','position_8','feature_16'} <= names
    assert not [k for k in names if not describe_map(k)]

@pytest.mark.parametrize('units,says', [('spread','standard deviations of good images'), ('quantiles','one pixel in two hundred of good images')])
def test_what_the_score_is_made_of(units, says, tmp_path):
    o = check(report(tmp_path, config=config_to_dict(Config(detect=DetectConfig(maps={'memory_8':1., 'head':.5}, units=units))))[1])
    assert says in o.text
    for text in ('memory_8', 'nearest good patch in the memory bank, at 8 pixels a place', '0.5', 'log-odds of a defect'): assert text in o.text

def test_metrics_are_called_by_their_labels(tmp_path):
    o = check(report(tmp_path)[1])
    for k in ('target_false_alarm_rate','image_auroc','pixel_f1_max','aupro_30'):
        assert metric_title(k) in o.text and METRICS[k].meaning in o.text
    assert '5 %' in o.text and 'Guaranteed false-alarm rate' in o.text

@pytest.mark.filterwarnings('ignore:Glyph')
def test_hostile_names(tmp_path):
    e = example(defect=EVIL, path=EVIL)
    s = scores().assign(defect=lambda d: d.defect.replace('crack', EVIL), path=EVIL)
    m = metrics(per_defect={EVIL:{'image_auroc':.9,'n':20}}, why={'pixel_auroc':EVIL,'threshold':EVIL}, threshold=None)
    config = {'name':EVIL, EVIL:EVIL, 'model':EVIL}
    o = check(report(tmp_path, config=config, metrics=m, scores=s, examples={'found':[e], EVIL:[e]}, notes=[EVIL])[1])
    assert '<script>alert(1)</script>' in o.text      # as text, in plain sight

UNDECIDED = metrics(threshold=None, false_alarm_rate=None, detection_rate=None, heat_max=None)
UNMASKED = [example(mask=None), example(mask=np.zeros((32,48))), example(amap=np.full((32,48), np.nan))]
PARTS = {
    'no examples': dict(examples={}), 'no example found': dict(examples={'found':[]}),
    'no history': dict(history=None), 'empty history': dict(history=pd.DataFrame()),
    'nothing trained by steps': dict(history=pd.DataFrame(columns=['epoch','train_loss','valid_loss','lr'])),
    'no notes': dict(notes=()), 'no metrics': dict(metrics={}), 'no settings': dict(config={}),
    'only good': dict(scores=scores()[:20]), 'only defective': dict(scores=scores()[20:]),
    'no rows': dict(scores=scores()[:0]), 'no table': dict(scores=pd.DataFrame()),
    'no decisions': dict(scores=scores().assign(decision=None)),
    'no p-values': dict(scores=scores().assign(p_value=np.nan)),
    'metrics None': dict(metrics={k:None for k in metrics()}),
    'metrics NaN': dict(metrics={k:np.nan if isinstance(v, float) else v for k,v in metrics().items()}),
    'no threshold': dict(metrics=UNDECIDED, scores=scores().assign(decision=np.nan)),
    'no masks': dict(examples={'found':UNMASKED}),
    'three channels': dict(examples={'missed':[example(c=3, decision=None, p_value=None)]}),
    'five channels': dict(examples={'missed':[example(c=5, decision='good')]}),
    'odd settings': dict(config={**CFG, 'size':(1,2), 'lr':np.float32(.5), 'p':Path('a')})}

@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('kw', PARTS.values(), ids=PARTS)
def test_whatever_is_missing(tmp_path, kw): check(report(tmp_path, **kw)[1])

def test_stays_small(tmp_path):
    "Of 16 large examples, and of three thousand thumbnails."
    many = [example((700,900), 3, seed=i) for i in range(16)]      # noise, which no format compresses
    p,page = report(tmp_path, examples={'found':many[:8], 'missed':many[8:]})
    assert p.stat().st_size<5_000_000
    thumbs = {i: b'\xff'*4000 for i in range(3000)}
    p,page = report(tmp_path, examples={'found':many[:8], 'missed':many[8:]}, scores=scores(3000), thumbs=thumbs)
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

def test_verdict():
    def verdict(**kw): return get_verdict(metrics(**kw))
    assert verdict(detection_rate=0., n={})==(
        'At a guaranteed false-alarm rate of 5 %, 0 % of defective images are found, and 5 % of good images are '
        'flagged.')
    assert verdict(target_false_alarm_rate=None).startswith('At the threshold in use, 18 of 20')
    assert 'not known (no good images)' in verdict(false_alarm_rate=None, why={'false_alarm_rate':'no good images'})
    none = verdict(false_alarm_rate=None, detection_rate=None, why={'threshold':'no groups'})
    assert 'No image is flagged or passed (no groups)' in none

def test_warnings():
    assert get_warnings(metrics())==[]
    assert get_warnings(metrics(), ['leaks, see audit'])==['leaks, see audit']
    def observed(far, *ci): return get_warnings(metrics(false_alarm_rate=far, ci95={'false_alarm_rate':list(ci)}))
    assert 'More false alarms' in observed(.3, .2, .4)[0]
    assert observed(.06, .01, .2)==[]                                      # chance explains as much
    assert '3 images' in get_warnings(metrics(n={'skipped':3}))[0]

def test_examples_lend_their_pictures(tmp_path):
    t = scores()
    rows = read(report(tmp_path, scores=t, examples={'found': [example(path=t.path[33])]})[1], 'live-rows')
    assert [i for i,o in enumerate(rows['picture']) if o]==[33]

def test_thumbnails_of_the_caller(tmp_path):
    rows = read(report(tmp_path, thumbs={5: b'123'})[1], 'live-rows')
    assert [i for i,o in enumerate(rows['picture']) if o]==[5]

def test_without_scripts_on_request(tmp_path):
    page = report(tmp_path, interactive=False)[1]
    assert '<script' not in page and 'Move the threshold' not in page

def test_missing_parts_are_named(tmp_path):
    poor = {'found': [example(recon=None), example(amap=None, mask=None)]}
    o = check(report(tmp_path, examples=poor, scores=scores().drop(columns=['group','p_value']))[1])
    assert 'no reconstruction' in o.text and 'no anomaly map' in o.text and 'No curve of the pixels' in o.text

def test_pro_curve_is_shown(tmp_path):
    e = [example(seed=i) for i in range(4)]
    pro = get_pro_curve(PixelMetrics().update([o['amap'] for o in e], [o['mask'] for o in e]))
    page = report(tmp_path, pro=pro)[1]
    assert page.count('data:image/png;base64,')==5 and 'PRO curve' in page and 'No curve of the pixels' not in page

# --- the pairs of the audit

def twin(i=0, **kw):
    return {**dict(kind='near-copy', path=f'good/{i}.png', other=f'good/{i+100}.png', label=0, similarity=.99871,
                   usual=.4235, limit=.8812, image=np.full((40,60,1), .5), twin=np.full((40,60,1), .4)), **kw}

def test_pairs_of_the_audit_are_shown(tmp_path):
    pairs = [twin(i) for i in range(7)] + [twin(7, kind='copy', usual=None, limit=None)]
    page = report(tmp_path, twins=pairs)[1]
    o = check(page)
    titles = re.findall('<h2>(.*?)</h2>', page)
    assert titles.index('Test images with a twin')==titles.index('Please note')+1
    shown = [at['alt'] for name,at in o.attrs if name=='img' and at['alt'].startswith(('test image','its twin'))]
    assert len(shown)==16 and shown[:2]==['test image good/0.png','its twin good/100.png']
    for text in ('likeness 0.9987', 'most like it 0.4235', 'hardly ever above 0.8812', 'copy: the same pixels'): assert text in o.text
    assert 'path,label,group\ngood/0.png,0,part-1\ngood/100.png,0,part-1' in o.text

def test_no_pairs_no_section(tmp_path):
    assert 'Test images with a twin' not in report(tmp_path)[1]

@pytest.mark.parametrize('kw', [dict(image=None), dict(image=None, twin=None), dict(label=1), dict(path=EVIL, other=EVIL),
    dict(kind='group', usual=None, limit=None), dict(image=np.zeros((9,9,3)), twin=np.zeros((9,200,5)))],
    ids=['one unreadable','both unreadable','defective','hostile names','of one group','other sizes and channels'])
def test_pairs_whatever_they_lack(tmp_path, kw):
    o = check(report(tmp_path, twins=[twin(**kw)])[1])
    assert o.text.count('no image')==sum(kw.get(k, 0) is None for k in ('image','twin'))
    if kw.get('label'): assert 'good/0.png,1,part-1' in o.text
