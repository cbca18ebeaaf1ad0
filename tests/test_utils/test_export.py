"""Exported detectors give the scores of the run, in every family; and a run loads without fastai."""
import json, subprocess, sys

import numpy as np, pandas as pd, pytest, torch

from aead.detect import AnomalyDetector, load_detector

from ..makers import TINY, make_layout, picture

pytest.importorskip('onnxruntime'); pytest.importorskip('onnxscript')

from aead.export import DetectionGraph, export_run, limit, load_exported

FEW = {**TINY, 'diffusion_ae': {**TINY['diffusion_ae'], 'draws': 1}}

@pytest.mark.parametrize('name,extra', [('cnn_ae', dict(head={'nf':8, 'depth':2, 'memory':20}, defects=.5, maps={'head':1., 'memory':1.}, flips=True)), ('resnet_ae', dict(maps={'ssim':1., 'l1':.5}, size=(32,64), resize='pad')),
                                        ('vit_ae', dict(maps={'msgms':1.})), ('diffusion_ae', {})])
def test_every_family(name, extra, synth, tmp_path):
    torch.set_num_threads(2)
    data,detect = ({k: extra[k] for k in keys if k in extra} for keys in (('size','resize','defects'), ('maps','flips')))
    from aead.config import config_from_dict
    cfg = config_from_dict({'model': name, 'models': {name: FEW[name]}, 'data': {'size':32, 'layout':'csv', 'workers':0, **data}, 'train': dict(epochs=1, bs=8), 'detect': dict(far=.2, **detect),
                            **({'head': extra['head']} if 'head' in extra else {})})
    det = AnomalyDetector(cfg, 'cpu').fit(synth)
    det.save(tmp_path/'run')
    cert = export_run(tmp_path/'run', tmp_path/'m.onnx', 4)
    assert max(cert['score'], cert['map'])<=limit and cert['images']==4
    ex,some = load_exported(tmp_path/'m.onnx'),synth[synth.split=='test'].iloc[::6].reset_index(drop=True)
    a,b = ex.predict(some),det.predict(some)
    assert np.allclose(a.score, b.score, atol=limit) and np.allclose(a.p_value, b.p_value, atol=1e-6)
    sure = (b.score-det.threshold).abs()>2*limit
    assert (a.decision==b.decision)[sure].all()
    odd = picture(1, (50,41))                                        # an image of another size
    assert np.allclose(ex.score_map(odd), det.score_map(odd), atol=2*limit) and ex.score_map(odd).shape==(50,41)
    torch.set_num_threads(1)

def test_decisions_as_the_detector_makes_them(detector):
    g,s = DetectionGraph(detector),torch.rand(6, detector.graph.model.settings['ni'], 32, 32)
    with torch.no_grad(): score,_,p,defect = g(s, torch.ones(6,32,32))
    want = detector.decide(score.numpy())
    assert np.allclose(p.numpy(), want.p_value, atol=1e-6) and defect.tolist()==want.decision.astype(float).tolist()
    at = torch.tensor(detector.calibration.scores[:3])                  # ties with calibration scores count
    del g.scoring; g.scoring = lambda x,v: (at.float(), x[:3,0])
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
    with pytest.raises(ValueError, match=r"aead\[export\]"): export_run(tmp_path/'run', tmp_path/'m.onnx')
    with pytest.raises(ValueError, match=r"aead\[export\]"): load_exported(tmp_path/'m.onnx')
