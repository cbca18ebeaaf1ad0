"""Whole images of another kind are odd; good images are not, at the guaranteed rate; runs without the test still load."""
import json

import numpy as np, pandas as pd, pytest, torch

from aead.calibration import Calibration
from aead.detect import KindTest, inspect_odd, load_detector
from aead.kind import fit_kind, image_statistics
from aead.report.run import odd_note
from aead.runs.score import score_images

from ..helpers import picture, save

def good(n, seed=0, c=1, hw=(64,64), per=1):
    "Images of `n` parts, `per` each at its own exposure, `b c h w`; their groups."
    r = np.random.default_rng(seed)
    x = np.stack([picture(1000*seed+i//per, hw, c, np.float32).reshape(*hw, c) for i in range(n*per)])
    x = np.clip(x*r.uniform(.8, 1.2, (n*per,1,1,1)) + r.normal(0, .02, x.shape), 0, 1)
    return torch.tensor(x.transpose(0,3,1,2).copy(), dtype=torch.float32), np.arange(n*per)//per

def ones(x): return torch.ones_like(x[:,0])

def fitted(c=1, n=60, n_cal=30):
    x,_ = good(n, 1, c)
    kind = fit_kind([(x,ones(x))])
    y,g = good(n_cal, 2, c)
    return KindTest(kind, Calibration(kind(y, ones(y)).numpy(), g))

def odd_share(test, x): return test.judge(test.kind(x, ones(x)).numpy()).odd.astype(float).mean()

def blurred(x, times=12):
    for _ in range(times): x = torch.nn.functional.avg_pool2d(x, 5, 1, 2, count_include_pad=False)
    return x

PHOTO = torch.tensor(np.indices((64,64)).sum(0)//8%2, dtype=torch.float32)[None,None]*.5+.2       # a chessboard
SPOILED = {'flat': lambda x: x*0+x.mean((1,2,3), keepdim=True), 'black': lambda x: 0*x, 'white': lambda x: 0*x+1,
           'blurred': blurred, 'negative': lambda x: 1-x, 'another thing': lambda x: PHOTO.expand(len(x),x.shape[1],-1,-1),
           'noise': lambda x: (x+.3*torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0,1),
           'underexposed': lambda x: .2*x, 'half hidden': lambda x: x*(torch.arange(64)<32)}

@pytest.mark.parametrize('c', [1,3,5])
@pytest.mark.parametrize('spoil', SPOILED)
def test_what_is_odd(spoil, c):
    test = fitted(c)
    x,_ = good(20, 3, c)
    assert odd_share(test, x) <= .1 and odd_share(test, SPOILED[spoil](x)) >= (.8 if spoil=='negative' else 1)

def test_colours_in_the_wrong_order_are_odd():
    def tint(x): return torch.cat([.9*x, .6*x, .4*x], 1)
    (x,_),(y,g),(z,_) = (good(n, i) for n,i in ((60,1), (30,2), (20,3)))
    kind = fit_kind([(tint(x),ones(x))])
    test = KindTest(kind, Calibration(kind(tint(y), ones(y)).numpy(), g))
    assert odd_share(test, tint(z)) <= .1 and odd_share(test, tint(z).flip(1))==1 and odd_share(test, z.repeat(1,3,1,1))==1

@pytest.mark.parametrize('n,per', [(8,3), (40,3), (120,1)])
def test_false_alarms_keep_the_guarantee(n, per):
    "Real statistics, many assignments of groups to fitting, calibration and test; a group's images are alike."
    x,g = good(3*n, 5, per=per)
    t = torch.stack(list(image_statistics(x, ones(x)).values()), 1)
    rng,shares = np.random.default_rng(0),[]
    for _ in range(40):
        part = rng.permutation(3*n)%3
        kind = fit_kind([(x[part[g]==0],ones(x[part[g]==0]))])
        s = ((t-kind.mean)@kind.white).square().mean(1).sqrt().log1p().numpy()
        test = KindTest(kind, Calibration(s[part[g]==1], g[part[g]==1]))
        shares.append(test.judge(s[part[g]==2]).odd.astype(float).mean())
    assert test.rate==max(.01, 1/(n+1)) and np.mean(shares) <= test.rate+3*np.sqrt(test.rate/(40*n))

def test_few_images_or_one_do_not_break_it():
    x,_ = good(2, 1)
    for n in (1,2):
        kind = fit_kind([(x[:n],ones(x[:n]))])
        s = kind(x, ones(x)).numpy()
        test = KindTest(kind, Calibration(s[:1], ['a']))
        assert np.isfinite(s).all() and test.rate==.5 and odd_share(test, 0*x)==1

@pytest.mark.parametrize('hw', [(8,8), (16,200), (33,65), (5,5)])
def test_any_size(hw):
    x = torch.rand(3, 2, *hw)
    kind = fit_kind([(x,ones(x))])
    assert torch.isfinite(kind(x, ones(x))).all() and torch.isfinite(kind(x, 0*ones(x))).all()
    assert torch.allclose(kind(x, ones(x))[1:], kind(x[1:], ones(x)[1:]), atol=1e-5)

def test_odd_images_are_not_accepted(detector):
    c = detector.graph.model.settings['ni']
    t = detector.predict(np.stack([np.full((40,48,c), .5), np.zeros((40,48,c)), np.ones((40,48,c))]))
    assert t.odd.tolist()==[1,1,1] and 'accept' not in set(t.answer)
    assert inspect_odd(['accept','reject',None,'accept'], pd.array([1,1,1,None], 'Int64')).tolist()==['inspect','reject','inspect','accept']

def test_the_defect_test_does_not_depend_on_it(detector, synth):
    kind,rows = detector.kind,synth[synth.split=='test'].reset_index(drop=True)
    want = detector.predict(rows)
    detector.kind = None
    try: bare = detector.predict(rows)
    finally: detector.kind = kind
    same = ['path','score','p_value','decision']
    assert bare[same].equals(want[same]) and bare.kind_p.isna().all() and bare.odd.isna().all()
    assert list(bare.columns)==list(want.columns) and want.odd[rows.label==0].mean() <= .2

def test_saved_and_loaded_or_missing(detector, synth, tmp_path):
    rows = synth[synth.split=='test'].iloc[:9].reset_index(drop=True)
    detector.save(tmp_path/'run')
    want = detector.predict(rows)
    assert load_detector(tmp_path/'run', 'cpu').predict(rows).equals(want)
    file = tmp_path/'run'/'calibration.json'
    cal = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k,v in cal.items() if k!='kind'}))     # as early versions wrote it
    old = load_detector(tmp_path/'run', 'cpu')
    assert old.predict(rows).odd.isna().all() and old.predict(rows).score.equals(want.score)
    assert old.calibrate(rows[rows.label==0], far=.3).kind is None
    old.save_calibration(tmp_path/'run')
    assert load_detector(tmp_path/'run', 'cpu').kind is None
    file.write_text(json.dumps({**cal, 'kind': {'mean': [0]}}))
    with pytest.raises(ValueError, match='is not what aead writes'): load_detector(tmp_path/'run', 'cpu')

def test_new_images_calibrate_it_too(detector, synth, tmp_path):
    detector.save(tmp_path/'run')
    det,rows = load_detector(tmp_path/'run', 'cpu'),synth[(synth.split=='test') & (synth.label==0)].reset_index(drop=True)
    limit = det.kind.limit
    assert det.calibrate(far=.3).kind.limit==limit
    det.calibrate(rows, far=.3)
    assert det.kind.calibration.n_groups==rows.group.nunique() and det.kind.limit!=limit

@pytest.mark.filterwarnings('ignore:1 of 3 images cannot be read')
def test_in_the_table_of_the_command_and_in_the_report(detector, synth, tmp_path, capsys):
    from aead.cli import main
    detector.save(tmp_path/'run')
    files = [save(tmp_path/'in'/f'{i}.png', a) for i,a in enumerate((np.zeros((40,48)), np.full((40,48), 128)))]
    (tmp_path/'in'/'2.png').write_text('no image')
    t = score_images(tmp_path/'run', tmp_path/'in', tmp_path/'s.csv', device='cpu')
    back = pd.read_csv(tmp_path/'s.csv')
    assert back.odd.tolist()[:2]==[1,1] and pd.isna(back.odd[2]) and back.kind_p.notna().sum()==2 and 'accept' not in set(t.answer)
    main(['score','--run',str(tmp_path/'run'),'--input',str(tmp_path/'in'),'--out',str(tmp_path/'t.csv'),'--device','cpu'])
    assert '2 unlike the training images' in capsys.readouterr().out
    good = score_images(tmp_path/'run', files[0], tmp_path/'f.csv', fdr=.5, device='cpu')
    assert good.answer[0] in ('inspect','reject')
    assert '2 images are unlike' in odd_note(t.assign(label=0))[0] and odd_note(t.drop(columns='odd'))==[]

def test_a_threshold_is_not_set_on_defective_images(detector, synth):
    from copy import copy
    from aead.detector import AnomalyDetector
    rows,det = synth[synth.split=='test'].reset_index(drop=True),AnomalyDetector(model='cnn_ae', device='cpu')
    det._detector = copy(detector)
    limits = detector.limits
    with pytest.raises(ValueError, match=f'{int(rows.label.sum())} of the {len(rows)} images are labelled defective'): det.calibrate(rows)
    assert det._detector.limits==limits

def test_an_export_of_an_early_version_has_no_test_of_the_kind(detector):
    from types import SimpleNamespace
    from aead.exported import ExportedDetector
    ex,c = object.__new__(ExportedDetector),detector.graph.model.settings['ni']
    def run(names, inputs): return [np.zeros(1, np.float32), np.zeros((1,32,32), np.float32), np.ones(1, np.float32), -np.ones(1, np.float32)]
    ex.session,ex.cfg,ex.channels,ex.outputs = SimpleNamespace(run=run),detector.cfg,c,['score','amap','p_value','defect']
    t = ex.predict([np.zeros((40,48,c)), 'gone.png'], errors='skip')
    assert t.odd.isna().all() and t.kind_p.isna().all() and t.decision.isna().all() and t.score.tolist()[0]==0
    assert [bool(o) for o in t.error]==[False,True] and list(t.columns)==['path','score','p_value','decision','answer','kind_p','odd','error']
