"What loggers write and do not write, a training that is resumed, and loggers that fail."
import socket

import numpy as np, pytest

from aead.detect import fit_detector, validate
from aead.loggers import loggers, log_results, RunLog
from aead.config import public_settings
from aead.runs.train import train_run

from ..helpers import make_layout

SECRET = 'k0' + 'Secret' + 'x'*32

def texts(folder): return {o.relative_to(folder).as_posix(): o.read_bytes() for o in folder.rglob('*') if o.is_file()}

def events(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    return EventAccumulator(str(run/'logs'/'tensorboard'), {'images': 0, 'scalars': 0}).Reload()

@pytest.mark.parametrize('name', ['tensorboard','wandb','mlflow'])
def test_nothing_is_sent_and_no_secret_is_kept(name, tmp_path, cfg, monkeypatch):
    "Nor any folder, but for the file store of MLflow, which holds its own address."
    pytest.importorskip(name)
    monkeypatch.setenv('WANDB_API_KEY', SECRET)
    monkeypatch.setenv('MLFLOW_TRACKING_TOKEN', SECRET)
    asked = []
    connect = socket.socket.connect
    def watch(self, address):
        if self.family!=socket.AF_UNIX and address[0] not in ('127.0.0.1','localhost','::1'): asked.append(address)
        return connect(self, address)
    monkeypatch.setattr(socket.socket, 'connect', watch)
    settings = cfg(data=dict(path=str(tmp_path/'parts')))
    for step in (1, 2):                                        # two sessions of one log
        log = RunLog(tmp_path/'run', name, public_settings(settings) if step==1 else None)
        log.scalars({'train/loss': 1/step}, step)
        log.each('picture', 'worst cases', np.zeros((8,8,3), np.uint8), step)
        log.close()
        assert name in log.opened
    found = texts(tmp_path/'run'/'logs')
    assert not asked and not [k for k,v in found.items() if SECRET.encode() in v]
    assert not [k for k,v in found.items() if str(tmp_path).encode() in v and not k.endswith('meta.yaml')]
    marks = {'tensorboard': 'events.out', 'wandb': '.wandb', 'mlflow': 'metrics/train/loss'}
    assert any(marks[name] in k for k in found)
    if name=='wandb': assert len({k.split('-')[-1] for k in found if k.endswith('.wandb')})==1      # of one run

def test_a_resumed_training_goes_on_with_its_log(tmp_path, cfg, synth, monkeypatch):
    "Steps that were lost are there once, and the weights are those of a training without a log."
    from aead.learner import Checkpoint
    pytest.importorskip('tensorboard')
    logged = cfg(train=dict(log='tensorboard', epochs=3, bs=3, save_every=0))
    after = Checkpoint.after_batch
    def stop(self):
        after(self)
        if self.epoch==1 and self.training and self.iter==1: raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(Checkpoint, 'after_batch', stop)
        with pytest.raises(KeyboardInterrupt): fit_detector(logged, synth, 'cpu', tmp_path)
    det = fit_detector(logged, synth, 'cpu', tmp_path, resume=True)
    plain = fit_detector(cfg(train=dict(epochs=3, bs=3)), synth, 'cpu')
    assert all((a==b).all() for a,b in zip(det.graph.state_dict().values(), plain.graph.state_dict().values()))
    scalars = {k: [o.step for o in events(tmp_path).Scalars(k)] for k in ('train/loss','train/batch_loss')}
    n = scalars['train/loss'][0]
    assert scalars['train/loss']==[n, 2*n, 3*n]
    assert scalars['train/batch_loss']==sorted(set(scalars['train/batch_loss'])) and scalars['train/batch_loss'][-1] <= 3*n

def test_a_logger_that_fails_ends_no_training(tmp_path, cfg, synth, monkeypatch):
    pytest.importorskip('tensorboard')
    class Broken:
        def __init__(self, *a): raise OSError('no space left')
    monkeypatch.setitem(loggers, 'tensorboard', Broken)
    c = cfg(train=dict(log='tensorboard', epochs=1))
    with pytest.warns(UserWarning, match=r'the logger tensorboard failed and is left out \(OSError: no space left\)'):
        det = fit_detector(c, synth, 'cpu', tmp_path)
    assert det.threshold is not None
    def draw(): raise ValueError('no picture')
    with pytest.warns(UserWarning, match='no pictures are logged'): log_results(c, tmp_path, {'image_auroc': .9}, draw)
    with pytest.warns(UserWarning, match='needs a folder'): fit_detector(c, synth, 'cpu')

def test_a_missing_package_and_an_unknown_logger_are_one_line(cfg, monkeypatch):
    with pytest.raises(ValueError, match='train.log must be some of tensorboard, wandb'): cfg(train=dict(log='tensorbord'))
    monkeypatch.setattr('aead.files.find_spec', lambda o: None)
    with pytest.raises(ValueError, match=r"the logger mlflow needs the package mlflow.*\.\[loggers\]"): validate(cfg(train=dict(log='mlflow')))

def test_online_without_an_account_stays_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip('wandb')
    monkeypatch.setattr(wandb, 'login', lambda prompt=True: False)
    modes = []
    monkeypatch.setattr(wandb, 'init', lambda **kw: modes.append(kw['mode']))
    with pytest.warns(UserWarning, match='knows no account'): RunLog(tmp_path, 'wandb:online').open()
    monkeypatch.delenv('MLFLOW_TRACKING_URI', raising=False)
    with pytest.warns(UserWarning, match='MLFLOW_TRACKING_URI'): RunLog(tmp_path, 'mlflow:online').open()
    assert modes==['offline']

def test_a_run_logs_metrics_curves_and_worst_cases(tmp_path, cfg):
    pytest.importorskip('tensorboard')
    make_layout(tmp_path/'parts', 'folder')
    c = cfg(data=dict(layout='folder', path=str(tmp_path/'parts')), train=dict(epochs=1, log='tensorboard'))
    m = train_run(tmp_path/'run', c, device='cpu')
    found = events(tmp_path/'run')
    assert found.Scalars('test/image_auroc')[0].value==pytest.approx(m['image_auroc'])
    assert {'roc','pr','worst cases'} <= set(found.Tags()['images'])
