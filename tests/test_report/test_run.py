"The report of a run: what is on it, in which order, and that it is written whatever a run lacks."
import re
from base64 import b64decode
from io import BytesIO
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch

from aead.calibration import outcome
from aead.config import Config, DetectConfig, config_to_dict
from aead.metrics import METRICS, PixelMetrics
from aead.report.interactive import fit_pictures, make_picture
from aead.report.run import describe_map, get_verdict, get_warnings, metric_title, RunReport, write_report
from aead.viz.curves import colors, get_pro_curve

from .pages import check, EVIL, metrics, Page, picture, pictures, read, scores, titles

CFG = config_to_dict(Config())

def report(tmp_path, interactive=True, **kw):
    history = pd.DataFrame(dict(epoch=[0,1], train_loss=[2,1.], valid_loss=[2,1.], lr=[1,2.]))
    a = dict(config=CFG, metrics=metrics(), scores=scores(), history=history, pictures=pictures(), notes=['a note'])
    p = write_report(tmp_path/'my run'/'report.html', RunReport(**{**a, **kw}), interactive)
    return p,p.read_text(encoding='utf-8')

def mixed():
    "Scores with images of all four outcomes."
    t = scores().assign(score=lambda d: d.score-1.5*d.label)
    return t.assign(decision=(t.score>3.8).astype(int))

def galleries(page):
    "Names of the images in each gallery of a page, by the id of its section."
    out = {}
    for key,part in re.findall(r'<section id="(\w+)"(.*?)</section>', page, re.S):
        out[key] = re.findall(r'aria-label="enlarge ([^"]*)"', part)
    return out

def test_order_and_content(tmp_path):
    t = mixed()
    p,page = report(tmp_path, scores=t)
    o = check(page)
    assert p.name=='report.html' and [q.name for q in p.parent.iterdir()]==['report.html']
    assert re.findall('<h1>(.*?)</h1>', page)==['my run']
    n = {(y,d): ((t.label==y)&(t.decision==d)).sum() for y in (0,1) for d in (0,1)}
    assert titles(page)==[
        'Please note', f'Defects found: {n[1,1]} of 20 defective images', f'Missed defects: {n[1,0]} of 20 defective images',
        f'False alarms: {n[0,1]} of 20 good images', f'Good images that passed: {n[0,0]} of 20 good images',
        'Scores and threshold', 'Every possible threshold', 'Metrics', 'By defect class and size',
        'Leaks between training and test', 'Training', 'Settings']
    assert '18 of 20 defective images are found, and 1 of 20 good images is flagged.' in o.text
    for text in ('Not available: no masks.', '0.900 to 0.990', 'a note', 'cnn_ae'): assert text in o.text
    assert ('Model cnn_ae · 64 × 64 pixels (height × width) · 100 images to train on · '
            '30 for the threshold from 12 parts · 20 good and 20 defective ones to test') in o.text

def test_every_plot_is_there_once(tmp_path):
    "Scores, ROC, precision-recall and training: a picture each, and one of plotly in its place."
    page = report(tmp_path)[1]
    assert re.findall('id="plot-(.*?)"', page)==['scores','roc','pr','history']==[*read(page, 'page-figures')]
    assert page.count('data:image/png;base64,')==4

def test_every_image_is_in_one_gallery(tmp_path):
    "In the order of the scores: the surest finds, the worst misses and false alarms come first."
    t = mixed().assign(path=[f'x/y/{i}.png' for i in range(40)])
    g = galleries(report(tmp_path, scores=t)[1])
    for key,y,d,up in (('found',1,1,False), ('missed',1,0,True), ('alarms',0,1,False), ('passed',0,0,False)):
        rows = t[(t.label==y)&(t.decision==d)].sort_values('score', ascending=up)
        assert g[key]==rows.path.tolist() and len(rows)

def test_cards_have_the_number_of_their_image(tmp_path):
    "The points of the plots find their card, whatever the labels of the rows."
    t = scores().set_axis([f'r{i}' for i in range(40)])
    page = report(tmp_path, scores=t, pictures={k: picture(seed=i) for i,k in enumerate(t.index)})[1]
    for i in (0,7,39): assert f'id="image-{i}"' in page and f'{i}.png' in page.split(f'id="image-{i}"')[1][:120_000].split('<small>')[1][:20]

EMPTY = {'all found': (dict(decision=1, label=1), 'missed', 'None: every defective image was found.'),
         'no false alarm': (dict(decision=0), 'alarms', 'None: no good image was flagged.'),
         'none found': (dict(decision=0), 'found', 'None at this threshold.'),
         'no good images': (dict(label=1), 'passed', 'The test has no good images.'),
         'no defects': (dict(label=0), 'missed', 'The test has no defective images.')}

def test_a_class_without_images_is_one_sentence(tmp_path):
    "Neither found, nor missed, nor of any class or size."
    page = report(tmp_path, scores=scores().assign(label=0))[1]
    assert set(galleries(page))=={'missed','alarms','passed','scores','curves','metrics','audit','training','settings'}
    assert Page(page).text.count('no defective images')==1

@pytest.mark.parametrize('change,key,says', EMPTY.values(), ids=EMPTY)
def test_an_empty_gallery_is_one_sentence(tmp_path, change, key, says):
    page = report(tmp_path, scores=scores().assign(**change))[1]
    part = re.search(f'<section id="{key}".*?</section>', page, re.S)[0]
    assert Page(part).text.endswith(says) and part.count('<p>')==1 and 'class="cards' not in part

def test_without_threshold(tmp_path):
    "Nothing was found or missed: two galleries, by class, and a slider that begins above the good images."
    t = scores().assign(decision=None)
    page = report(tmp_path, scores=t, metrics=metrics(threshold=None, false_alarm_rate=None, detection_rate=None))[1]
    assert set(galleries(page))>={'defective','good'} and not set(galleries(page))&{'found','missed','alarms','passed'}
    rows = read(page, 'page-rows')
    assert rows['threshold']==t.score[:20].max() and rows['far'] is None
    assert 'There is no threshold in use.' in page and 'No rate follows' in page and 'class="bars"' not in page

def test_without_labels(tmp_path):
    "Flagged or not is all that is known."
    t = scores().assign(label=np.nan)
    page = report(tmp_path, scores=t, metrics=dict(threshold=5., target_false_alarm_rate=.05))[1]
    o = check(page)
    n = int(t.decision.sum())
    assert f'{n} of 40 images are flagged; how many of them are defective is not known' in o.text
    assert [len(galleries(page)[k]) for k in ('flagged','unflagged')]==[n, 40-n]
    assert 'Curves need both good and defective test images.' in o.text and 'class="counts"' not in page
    assert 'Good images' not in o.text and not [k for k in titles(page) if 'defect' in k.lower()]
    plot = read(page, 'page-figures')['scores']
    assert plot['layout']['yaxis']['ticktext']==['all'] and not {m['marker']['color'] for m in plot['data']} & set(colors[:2])
    assert metric_title('image_auroc') not in o.text
    assert f'{n} of 40 images are flagged.' in o.text and set(read(page, 'page-figures'))=={'scores','history'}

def test_sizes_of_defects(tmp_path):
    t = scores().assign(area=[np.nan]*20+[.0005]*5+[.03]*15)
    o = check(report(tmp_path, scores=t)[1])
    for rows,name in ((t[20:25],'below 0.1 % of the image'), (t[25:],'2 to 5 %')):
        assert f'{name}{len(rows)}{int(rows.decision.sum())} of {len(rows)} (' in o.text
    assert 'there are no masks' in report(tmp_path)[1]
    per = {'2 to 5 %': {'n': 15, 'detection_rate': .8, 'ci95': [.55,.925]}}
    assert '55 % to 92.5 %' in check(report(tmp_path, scores=t, metrics=metrics(per_size=per))[1]).text

def test_the_command_of_the_run(tmp_path):
    page = report(tmp_path, config={**CFG, 'name': 'screws, cnn_ae', 'run': 'first'})[1]
    assert 'aead calibrate --run first --far 0.05' in check(page).text
    assert read(page, 'page-rows')['far']==.05

def test_scores_can_be_saved(tmp_path):
    t = scores()
    at = next(at for k,at in Page(report(tmp_path)[1]).attrs if k=='a' and 'download' in at)
    table = pd.read_csv(BytesIO(b64decode(at['href'].split('base64,')[1])))
    assert at['download']=='my-run-scores.csv' and table.score.tolist()==pytest.approx(t.score.tolist())
    assert table.outcome.value_counts().to_dict()==pd.Series([outcome(*o) for o in zip(t.label, t.decision)]).value_counts().to_dict()
    assert not table.image.str.startswith('/').any()                      # where the images lie is not shown

def test_the_audit_is_told(tmp_path):
    assert 'No leak found: none.' in report(tmp_path, metrics=metrics(audit={'text': 'no leak found: none.'}))[1]
    assert 'There was no audit' in report(tmp_path, metrics=metrics(audit=None))[1]

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
    o = check(report(tmp_path, metrics=metrics(guaranteed_false_alarm_rate=.1))[1])
    for k in ('target_false_alarm_rate','image_auroc','pixel_f1_max','aupro_30'):
        assert metric_title(k) in o.text and METRICS[k].meaning in o.text
    assert '5 %' in o.text and 'Guaranteed false-alarm rate' in o.text

def test_a_rate_is_not_said_twice(tmp_path):
    same = check(report(tmp_path, metrics=metrics(guaranteed_false_alarm_rate=.05))[1]).text
    assert metric_title('guaranteed_false_alarm_rate') in same and metric_title('target_false_alarm_rate') not in same

@pytest.mark.filterwarnings('ignore:Glyph')
def test_hostile_names(tmp_path):
    s = scores().assign(defect=lambda d: d.defect.replace('crack', EVIL), path=EVIL)
    m = metrics(per_defect={EVIL:{'image_auroc':.9,'n':20}}, why={'pixel_auroc':EVIL,'threshold':EVIL}, threshold=None)
    config = {'name':EVIL, EVIL:EVIL, 'model':EVIL}
    o = check(report(tmp_path, config=config, metrics=m, scores=s, notes=[EVIL])[1])
    assert '<script>alert(1)</script>' in o.text      # as text, in plain sight

UNDECIDED = metrics(threshold=None, false_alarm_rate=None, detection_rate=None, heat_max=None)
PARTS = {
    'no pictures': dict(pictures={}), 'one picture': dict(pictures={3: picture()}),
    'pictures of other rows': dict(pictures={'x': picture()}),
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
    'images alone': dict(pictures=pictures(lacks=('reconstruction','heat map'))),
    'no labels': dict(scores=scores().drop(columns=['label','defect'])),
    'no labels, no decisions': dict(scores=scores().assign(label=None, decision=None)),
    'scores alone': dict(scores=scores()[['score']]), 'one image': dict(scores=scores()[:1]),
    'odd settings': dict(config={**CFG, 'size':(1,2), 'lr':np.float32(.5), 'p':Path('a')})}

@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('kw', PARTS.values(), ids=PARTS)
def test_whatever_is_missing(tmp_path, kw): check(report(tmp_path, **kw)[1])

BIG = {'six hundred': (600, 256, 600), 'three thousand': (3000, 128, 900)}

@pytest.mark.parametrize('n,side,least', BIG.values(), ids=BIG)
def test_stays_small(tmp_path, rng, n, side, least):
    "Photographs with grain, as many as a large test has; all mistakes have a picture."
    grain = [picture_of_grain(rng, side) for _ in range(8)]
    p,page = report(tmp_path, scores=scores(n), pictures={i: grain[i%8] for i in range(n)})
    assert p.stat().st_size<10_000_000
    g = galleries(page)
    assert sum(map(len, g.values()))>=least
    t = scores(n)
    assert len(g['missed'])==((t.label==1)&(t.decision==0)).sum() and len(g['alarms'])==((t.label==0)&(t.decision==1)).sum()
    check(page)

def picture_of_grain(rng, side):
    "Smooth shapes and the noise of a camera."
    from scipy.ndimage import gaussian_filter
    a = gaussian_filter(rng.normal(size=(side,side,3)), (6,6,0))
    a = np.uint8(np.clip(128+40*a/a.std()+rng.normal(size=a.shape)*6, 0, 255))
    mask = np.zeros((side,side), np.uint8)
    mask[10:30,20:60] = 1
    return make_picture({'image': a, 'reconstruction': gaussian_filter(a, (2,2,0)), 'heat map': gaussian_filter(a, (9,9,0))}, mask)

def test_pictures_that_do_not_fit_are_counted(tmp_path, monkeypatch):
    "The page says how many are shown, and where the others are."
    import aead.report.run as module
    few = fit_pictures
    monkeypatch.setattr(module, 'fit_pictures', lambda p, first, rest, budget: few(p, first, rest, 40_000))
    page = report(tmp_path, pictures=pictures(sz=(120,120)))[1]
    shown = {k: len(o) for k,o in galleries(page).items()}
    assert 0<sum(shown.values())<40
    t = scores()
    n = ((t.label==0)&(t.decision==0)).sum()
    o = check(page)
    if shown['passed']: assert f'{shown["passed"]} of {n} are shown; the others are in scores.csv' in o.text
    else: assert f'No pictures of these {n} images are in this file' in o.text

def test_other_splits_are_left_out(tmp_path):
    more = pd.concat([scores(), scores(seed=1).assign(split='train', defect='elsewhere')])
    assert report(tmp_path, scores=more)[1]==report(tmp_path, scores=scores())[1]

def test_failure_leaves_the_old_report(tmp_path):
    p,page = report(tmp_path)
    with pytest.raises(ValueError): report(tmp_path, scores=scores().assign(score=np.nan))
    assert p.read_text(encoding='utf-8')==page and len(list(p.parent.iterdir()))==1

def test_the_scale_of_the_heat_maps_is_told(tmp_path):
    assert '8 and more; in standard deviations of good images' in check(report(tmp_path)[1]).text
    assert 'and more' not in report(tmp_path, pictures=pictures(lacks=('heat map',)))[1]

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

def test_without_scripts_on_request(tmp_path):
    page = report(tmp_path, interactive=False)[1]
    assert '<script' not in page and page.count('hidden=""')==page.count('live screen')+1>=4

def test_missing_parts_are_named(tmp_path):
    poor = {1: picture(lacks=('reconstruction',)), 2: picture(lacks=('heat map',))}
    o = check(report(tmp_path, pictures=poor, scores=scores().drop(columns=['group','p_value']))[1])
    assert 'no reconstruction' in o.text and 'no heat map' in o.text and 'No curve of the pixels' in o.text

def test_pro_curve_is_shown(tmp_path):
    maps = np.random.default_rng(0).random((4,32,48))
    pro = get_pro_curve(PixelMetrics().update(maps, (maps>.9).astype(int)))
    page = report(tmp_path, pro=pro)[1]
    assert page.count('data:image/png;base64,')==5 and 'pro' in read(page, 'page-figures')
    assert 'PRO' in page and 'No curve of the pixels' not in page

# --- the pairs of the audit

def twin(i=0, **kw):
    return {**dict(kind='near-copy', path=f'good/{i}.png', other=f'good/{i+100}.png', label=0, similarity=.99871,
                   usual=.4235, limit=.8812, image=np.full((40,60,1), .5), twin=np.full((40,60,1), .4)), **kw}

def test_pairs_of_the_audit_are_shown(tmp_path):
    pairs = [twin(i) for i in range(7)] + [twin(7, kind='copy', usual=None, limit=None)]
    page = report(tmp_path, twins=pairs)[1]
    o = check(page)
    g = galleries(page)['audit']
    assert len(g)==8 and g[0]=='good/0.png and good/100.png'
    assert 'data-panels="test image good/0.png|its twin good/100.png"' in page
    for text in ('likeness 0.9987', 'most like it 0.4235', 'hardly ever above 0.8812', 'copy: the same pixels'): assert text in o.text
    assert 'path,label,group\ngood/0.png,0,part-1\ngood/100.png,0,part-1' in o.text

def test_no_pairs_no_gallery(tmp_path): assert galleries(report(tmp_path)[1])['audit']==[]

@pytest.mark.parametrize('kw', [dict(image=None), dict(image=None, twin=None), dict(label=1), dict(path=EVIL, other=EVIL),
    dict(kind='group', usual=None, limit=None), dict(image=np.zeros((9,9,3)), twin=np.zeros((9,200,5)))],
    ids=['one unreadable','both unreadable','defective','hostile names','of one group','other sizes and channels'])
def test_pairs_whatever_they_lack(tmp_path, kw):
    o = check(report(tmp_path, twins=[twin(**kw)])[1])
    assert ('one of them cannot be read' in o.text)==(kw.get('image', 0) is None and kw.get('twin', 0) is not None)
    assert ('which cannot be read' in o.text)==(kw.get('twin', 0) is None)
    if kw.get('label'): assert 'good/0.png,1,part-1' in o.text
