"""Exported detectors give the scores of the run, in every family; and a run loads without fastai."""
import subprocess, sys
from pathlib import Path
from importlib.util import find_spec

import numpy as np, pytest, torch

from safetensors.torch import load_file, save_file

from aead.config import config_from_dict
from aead.data.preprocessing import tile_boxes
from aead.detect import fit_detector
from aead.models.head import DefectHead, window_contrast_normalize, instance_normalize

from ..helpers import TINY, picture

pytest.importorskip('onnxruntime')
onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxscript')

from aead import load_exported                                  # with its pictures
from aead.export import DetectionGraph, export_run, max_difference
from aead.exported import answer_words, open_session, run_session
from aead.quantize import quantize_detector, trained_nodes

FEW = {**TINY, 'diffusion_ae': {**TINY['diffusion_ae'], 'dim_mults': [1], 'steps': 2}}              # which are unrolled

FAMILIES = { # settings beside the defaults; the first sees a frame in two tiles, and what is padded holds empty tiles
    'cnn_ae': dict(head={'nf':8, 'depth':2}, defects=.5, maps={'head':1., 'ssim':1.}, size=(32,56), tile=32, resize='pad'),
    'resnet_ae': dict(head={'nf':8, 'depth':2, 'memory':20, 'gated':False}, defects=.5, maps={'head':1., 'memory':1., 'ssim':1., 'l1':.5}, size=(32,64), resize='pad'),
    'feature_ae': dict(head={'reads':'features', 'nf':8}, defects=.5, flips=True,
                       maps={'head':1., 'memory_4':1., 'gaussian_8':.5, 'feature_16':1.}),
    'vit_ae': dict(head={'nf':8, 'depth':2, 'gated':True}, defects=.5, maps={'head':1., 'l2':1.}),
    'diffusion_ae': {},
}

@pytest.mark.parametrize('name,extra', FAMILIES.items(), ids=FAMILIES)
def test_every_family(name, extra, synth, tmp_path):
    data,detect = ({k: extra[k] for k in keys if k in extra} for keys in (('size','tile','resize','defects'), ('maps','flips')))
    cfg = config_from_dict({'model': name, 'models': {name: FEW[name]}, 'data': {'size':32, 'layout':'csv', 'workers':0, **data}, 'train': dict(epochs=1, bs=8), 'detect': dict(far=.2, **detect),
                            **({'head': extra['head']} if 'head' in extra else {})})
    assert len(tile_boxes(cfg.data.hw, cfg.data.tile or max(cfg.data.hw)))==(2 if name=='cnn_ae' else 1)
    det = fit_detector(cfg, synth, 'cpu')
    if name!='vit_ae': det.kind = None              # as in runs of early versions
    det.save(tmp_path/'run')
    cert = export_run(tmp_path/'run', tmp_path/'m.onnx', 4)
    assert str(Path(__file__).parents[2]).encode() not in (tmp_path/'m.onnx').read_bytes()     # no folder of this machine
    assert max(cert['score'], cert['map'])<=max_difference and cert['images']==4
    ex,some = load_exported(tmp_path/'m.onnx'),synth[synth.split=='test'].iloc[::6].reset_index(drop=True)
    a,b = ex.predict(some),det.predict(some)
    assert np.allclose(a.score, b.score, atol=max_difference) and np.allclose(a.p_value, b.p_value, atol=1e-6)
    if find_spec('openvino') and 'ssim' not in det.graph.maps: assert np.allclose(load_exported(tmp_path/'m.onnx', providers='openvino').predict(some).score, a.score, atol=max_difference)
    assert (a.answer==b.answer).all() or (b.score-det.threshold).abs().min()<2*max_difference
    sure = (b.score-det.threshold).abs()>2*max_difference
    assert (a.decision==b.decision)[sure].all()
    for hw in ((50,41), (50,131)):                                   # images of another size
        odd = picture(1, hw)
        assert np.allclose(ex.score_map(odd), det.score_map(odd), atol=2*max_difference) and ex.score_map(odd).shape==hw
    check_int8(name, det, synth, tmp_path/'m.onnx')
    if name=='cnn_ae': check_pictures(ex, some)

def check_pictures(ex, some):
    "What an exported file shows of images: a column each, and one explained."
    assert sum('score' in o.get_title() for o in ex.show_results(some, n=2).axes)==2
    said = ex.explain(some[:1])._suptitle.get_text()
    assert f"score {ex.predict(some[:1]).score[0]:.3g}" in said

def check_int8(name, det, synth, file):
    "What is quantised holds nearly all trained weights; the quantised file keeps the false-alarm rate, in batches of any size."
    model,params = onnx.load(file),{k: o.detach().numpy() for k,o in DetectionGraph(det).named_parameters()}
    nodes = trained_nodes(model, params)
    sizes = {o.name: np.prod(o.dims) for o in model.graph.initializer}
    found = sum({n.input[1]: sizes.get(n.input[1], 0) for n in model.graph.node if n.name in nodes and len(n.input)>1}.values())
    part = .6 if name=='feature_ae' else .8                         # its pretrained network is used in part
    assert found > part*sum(o.size for o in params.values() if o.ndim>1), found
    if name!='cnn_ae': return
    small,own,cost = quantize_detector(model, det, synth[synth.split!='test'], params)   # no test image is read
    assert small.ByteSize() < model.ByteSize() and 0 <= cost['auroc_int8'] <= 1 and own.threshold!=det.threshold
    session,cal = open_session(small.SerializeToString()),synth[synth.split=='cal'].reset_index(drop=True)
    ds = det.dataset(cal)
    x,valid = (torch.stack([ds[i][k] for i in range(len(cal))]).numpy() for k in (0,3))
    whole,single = (run_session(session, x, valid, ['score','defect'], bs) for bs in (16,1))
    assert np.abs(whole[0]-single[0]).max() < max_difference
    assert np.allclose(whole[0], own.calibration.scores[np.argsort(np.argsort(whole[0], kind='stable'))], atol=max_difference)
    assert whole[1].mean() <= own.limits.guaranteed

def test_what_the_head_sees_does_not_depend_on_the_runtime():
    "A shift of the brightness by a number that single precision cannot add exactly changes nothing that the memory could see."
    x = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    xr = x.clone()
    head = DefectHead(1, 8, 2)
    want = torch.cat([instance_normalize(x.double())[0], window_contrast_normalize(x.double()), 0*x.double()], 1)
    assert (head.get_inputs(x, xr)-want).abs().max() < 1e-6

def test_broken_weights_are_not_exported(detector, tmp_path):
    detector.save(tmp_path/'run')
    w = load_file(tmp_path/'run'/'model.safetensors')
    k = next(o for o in w if w[o].ndim==4)
    save_file({**w, k: w[k]*float('nan')}, tmp_path/'run'/'model.safetensors')
    detector.save_calibration(tmp_path/'run')                           # of these weights
    with pytest.raises(ValueError, match='not finite'): export_run(tmp_path/'run', tmp_path/'m.onnx', 2)
    assert not (tmp_path/'m.onnx').exists()

@pytest.mark.parametrize('name', ['onnx','onnxruntime','onnxscript'])
def test_a_missing_package_is_named(name, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=rf"needs the package {name};.*pip install '\.\[export\]'"):
        export_run(tmp_path/'run', tmp_path/'m.onnx')

def test_only_a_runtime_is_needed_to_read(monkeypatch, tmp_path):
    (tmp_path/'m.onnx').write_bytes(b'')
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(ValueError, match='needs the package onnxruntime'): load_exported(tmp_path/'m.onnx')
    monkeypatch.setitem(sys.modules, 'openvino', None)
    with pytest.raises(ValueError, match=r"openvino needs the package openvino;.*pip install '\.\[openvino\]'"):
        load_exported(tmp_path/'m.onnx', providers='openvino')

def test_decisions_as_the_detector_makes_them(detector):
    g,s = DetectionGraph(detector),torch.rand(6, detector.graph.model.settings['ni'], 32, 32)
    with torch.no_grad(): score,_,p,defect,answer,kind,kind_p,odd = g(s, torch.ones(6,32,32))
    want = detector.decide(score.numpy(), kind.numpy())
    assert np.allclose(kind_p.numpy(), want.kind_p, atol=1e-6) and odd.tolist()==want.odd.astype(float).tolist()
    assert [answer_words[int(o)] for o in answer]==want.answer.tolist()
    assert np.allclose(p.numpy(), want.p_value, atol=1e-6) and defect.tolist()==want.decision.astype(float).tolist()
    at = torch.tensor(detector.calibration.scores[:3])                  # ties with calibration scores count
    del g.scoring
    g.scoring,g.kind = (lambda x,v: (at.float(), x[:3,0])),None
    assert np.allclose(g(s, None)[2].numpy(), detector.calibration.p_value(at.float().double()), atol=1e-6)

def test_a_run_loads_without_fastai(detector, tmp_path):
    detector.save(tmp_path/'run')
    code = ("import sys; sys.modules['fastai'] = None\nimport numpy as np\nfrom aead.detect import load_detector\n"
            f"d = load_detector({str(tmp_path/'run')!r}, 'cpu')\nprint(float(d.predict(np.full((40,40,{detector.graph.model.settings['ni']}), .5)).score[0]))")
    p = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert p.returncode==0, p.stderr
    assert np.isclose(float(p.stdout), detector.predict(np.full((40,40,detector.graph.model.settings['ni']), .5)).score[0], atol=1e-5)

def test_without_the_packages(detector, tmp_path, monkeypatch):
    detector.save(tmp_path/'run')
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(ValueError, match=r"pip install '\.\[export\]'"): export_run(tmp_path/'run', tmp_path/'m.onnx')
