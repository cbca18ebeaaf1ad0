"""Settings: round trips, errors at every level, nothing executed, files whole or absent; the registry's rules."""
import os, stat
from dataclasses import FrozenInstanceError, replace
from math import inf, nan

import numpy as np, pytest, yaml

from aead.files import SCHEMA, atomic_write, load_yaml, save_yaml
from aead.config import (
    Config, DataConfig, DetectConfig, Registry, config_from_dict, config_to_dict, did_you_mean, fit_frame, list_recipes, load_recipe,
    make_config, settle_size)

from ..helpers import field_cases

# --- round trips

def random_settings(seed):
    rng = np.random.default_rng(seed)
    def pick(*o): return o[rng.integers(len(o))]
    d = dict(schema=SCHEMA, model=pick('cnn_ae','other'), models=pick({}, {'cnn_ae': {'nf':8,'depth':2}}, {'a': {}, 'b': {'x': [1,2]}}), loss=pick({'l1':1}, {'ssim':.5,'l2':3.}),
             data=dict(path=pick('', '/données/裂纹 #1', 'a: b'), layout='mvtec', category=pick(None,'nut'), split='grouped', fold=int(rng.integers(5)), size=pick(8, 64, [32,48], [4096,8]),
                       resize=pick('pad','crop'), channels=pick(None,1,3,5), augment=pick(True, False, {}, {'hflip':0}), workers=pick(None,0,4)),
             train=dict(epochs=int(rng.integers(1,99)), bs=int(rng.integers(1,99)), lr=float(rng.uniform(1e-6,1)), warmup=.3, wd=pick(0,1e-8), clip=pick(0,1), ema=pick(0,.999), fast=pick(True,False), seed=int(rng.integers(2**31))),
             detect=dict(maps=pick({'l1':1}, {'ssim':2.,'own':.1}), sigma=pick(0,1.5), pool=pick('max','mean','top'), top=pick(1,.01), far=pick(.01,.5)))
    for s in ('data','train','detect'): d[s] = {k:v for k,v in d[s].items() if rng.random()<.8}
    return {k:v for k,v in d.items() if rng.random()<.9}

@pytest.mark.parametrize('seed', range(40))
def test_round_trips(seed, tmp_path):
    given = random_settings(seed)
    cfg = config_from_dict(given)
    d = config_to_dict(cfg)
    assert config_from_dict(d)==cfg and list(d)[0]=='schema'
    save_yaml(d, tmp_path/'sub'/'c.yaml')
    assert load_yaml(tmp_path/'sub'/'c.yaml')==d and config_from_dict(load_yaml(tmp_path/'sub'/'c.yaml'))==cfg
    for k,v in given.items():                       # what was given is what is there
        for kk,vv in (v.items() if k in ('data','train','detect') else [(None,v)]):
            assert (d[k] if kk is None else d[k][kk])==vv
    assert given==random_settings(seed)             # and what was given is left alone

def test_defaults_are_not_shared():
    a,b = Config(),Config()
    a.loss['l2'] = 1.
    a.detect.maps['l2'] = 1.
    a.models['x'] = {}
    assert b==Config() and 'l2' not in b.loss and 'l2' not in b.detect.maps
    d = config_to_dict(b)
    d['loss']['l2'] = 1.
    d['detect']['maps'].clear()
    assert b==Config()

def test_settings_are_frozen():
    with pytest.raises(FrozenInstanceError): Config().model = 'x'
    with pytest.raises(FrozenInstanceError): Config().data.size = 3
    assert replace(DataConfig(), size=[32,48]).hw==(32,48) and DataConfig(size=40).hw==(40,40)

# --- errors

UNKNOWN = [
    ({'dta':{}}, 'dta', 'data'), ({'modle':'x'}, 'modle', 'model'), ({'data':{'sise':3}}, 'sise', 'size'),
    ({'train':{'epoch':3}}, 'epoch', 'epochs'), ({'detect':{'sigmas':1.}}, 'sigmas', 'sigma'),
    ({'data':{'epochs':1}}, 'epochs', "section 'data'"), ({'epochs':1}, 'epochs', 'the settings'),
    ({1:2}, '1', 'the settings'), ({'train':{None:1}}, 'None', "section 'train'"),
]

@pytest.mark.parametrize('d,word,near', UNKNOWN, ids=[str(d) for d,_,_ in UNKNOWN])
def test_unknown_keys(d, word, near):
    with pytest.raises(KeyError) as e: config_from_dict(d)
    assert f"'{word}'" in str(e.value) and near in str(e.value)

WRONG_TYPES = {
    'data.size': ['128', True, 64., {}], 'data.tile': [[64], '64', 64., True], 'data.max_size': [None, [64]], 'data.fill': [0],
    'train.bs': [[8]], 'data.path': [3], 'data.fold': [True, '1'],
    'data.augment': ['yes', 1], 'data.category': [1], 'data.workers': [1.], 'train.epochs': [3., True, None],
    'train.lr': ['1e-3', [1.], True], 'train.fast': [1], 'train.seed': ['0'], 'detect.far': ['5%'],
    'detect.pool': [1], 'detect.maps': [['l1'], 'l1'], 'detect.sigma': [{}],
}

@pytest.mark.parametrize('section,field,value', field_cases(WRONG_TYPES))
def test_wrong_types(section, field, value):
    with pytest.raises(ValueError) as e: config_from_dict({section: {field: value}})
    assert f'{section}.{field}' in str(e.value) and repr(value) in str(e.value)

OUT_OF_RANGE = {
    'data.size': [7, [64], [64,64,3], [64,'64'], [True,64], 5000, 20000], 'data.max_size': [31, 0, 20000],
    'data.tile': [16, 500, 4112, 0, -64], 'data.fill': ['white', ''], 'detect.pixels': ['frame'], 'data.fold': [5, -1], 'data.channels': [0],
    'data.resize': ['squeeze'], 'data.workers': [-1], 'train.epochs': [0], 'train.bs': [0],
    'train.lr': [0, -1., nan, inf], 'train.warmup': [0, 1.], 'train.wd': [-1, nan, inf], 'train.clip': [-1],
    'train.ema': [1, -.1], 'train.seed': [-1, 2**31], 'detect.far': [0, 1, nan], 'detect.top': [0, 1.1],
    'detect.sigma': [-1, nan], 'detect.pool': ['median'],
    'detect.maps': [{}, {'l1':0}, {'l1':'1'}, {'l1':True}, {'l1':nan}, {'l1':inf}],
}

@pytest.mark.parametrize('section,field,value', field_cases(OUT_OF_RANGE))
def test_values_out_of_range(section, field, value):
    with pytest.raises(ValueError, match=rf'{section}\.{field}'): config_from_dict({section: {field: value}})

WRONG_SECTIONS = [
    ({'data':None}, "section 'data'"), ({'train':3}, "section 'train'"), ({'detect':['l1']}, "section 'detect'"),
    ({'loss':{}}, 'loss'), ({'loss':{'l1':-1}}, 'loss'), ({'loss':'l1'}, 'loss'), ({'model':3}, 'model'),
    ({'models':{'cnn_ae':3}}, 'models'), ({'models':[]}, 'models'), ([], 'the settings'), ({'schema':99}, 'schema'),
    ({'schema':None}, 'schema'),
]

@pytest.mark.parametrize('d,what', WRONG_SECTIONS, ids=[str(d) for d,_ in WRONG_SECTIONS])
def test_wrong_sections(d, what):
    with pytest.raises(ValueError, match=what): config_from_dict(d)

# --- size

@pytest.mark.parametrize('side', [20, 32, 40, 64, 100, 127, 128, 129, 200, 1000])
def test_square_images_get_the_frame_they_always_had(side):
    assert fit_frame((side,side), 128)==(min(128, max(32, side//16*16)),)*2
    assert settle_size(replace(Config(), data=DataConfig(size=None)), side).data.size==min(128, max(32, side//16*16))

def test_frames_follow_the_photograph(rng):
    for _ in range(500):
        h,w = (int(o) for o in rng.integers(32, 5000, 2))
        top = int(rng.integers(32, 1100))
        fh,fw = fit_frame((h,w), top)
        step = 32 if min(h, w, top)>=128 else 16
        assert fh%step==fw%step==0 and min(fh, fw)<=max(32, top)
        assert (fh,fw)==fit_frame((w,h), top)[::-1]
        assert (fh<=h or fh==32) and (fw<=w or fw==32)                   # never enlarged
        short,long = sorted((fh,fw))
        exact = max(h, w)*short/min(h, w)
        assert long <= exact+step/2 and (long >= exact-step/2 or long>=max(h, w)//step*step)

def test_a_tile_settles_batch_and_frame():
    data = DataConfig(size=None, max_size=4096, tile=512)
    cfg = Config(data=data, train=replace(Config().train, bs=None))
    c = settle_size(cfg, (3000,4000))
    assert c.data.size==(3000,4000) and c.data.seen_hw==(512,512) and c.train.bs==1
    assert settle_size(cfg, (100,120)).data.hw==(96,112) and settle_size(cfg, (100,120)).data.seen_hw==(96,112)
    assert config_from_dict(config_to_dict(c))==c

def test_old_settings_stay_as_they_were():
    "A resolved file from before frames and tiles."
    d = config_to_dict(Config())
    for k in ('max_size','tile','fill'): del d['data'][k]
    del d['detect']['pixels']
    old = config_from_dict(d)
    assert old==Config() and (old.data.tile, old.data.fill, old.detect.pixels)==(None, 'black', 'model')
    assert old.data.hw==old.data.seen_hw==(128,128)

def test_large_sizes_ask_for_tiles():
    for data in ({'size': [3000,5000]}, {'size': None, 'max_size': 5000}):
        with pytest.raises(ValueError, match='set data.tile') as e: config_from_dict({'data': data})
        assert '\n' not in str(e.value)
        assert config_from_dict({'data': {**data, 'tile': 512}}).data.seen_hw==(512,512)
    for tile,near in ((500,496), (505,512), (1,32), (9999,4096)):
        with pytest.raises(ValueError, match=f'the nearest is {near}'): DataConfig(tile=tile)

# --- YAML

CODE = {
    'command': '!!python/object/apply:os.system ["touch {}"]',
    'process': 'model: !!python/object/apply:subprocess.check_output [["touch", "{}"]]',
    'name': 'model: !!python/name:os.system',
    'object': 'data: !!python/object/new:pathlib.Path ["{}"]',
    'file': '!!python/object/apply:builtins.open ["{}", "w"]',
}

@pytest.mark.parametrize('text', CODE.values(), ids=CODE)
def test_yaml_runs_no_code(text, tmp_path):
    f = tmp_path/'c.yaml'
    f.write_text(text.replace('{}', str(tmp_path/'bad')))
    for read in (load_yaml, lambda o: make_config(file=o)):
        with pytest.raises(ValueError, match='c.yaml is not plain YAML'): read(f)
    assert not (tmp_path/'bad').exists()

DAMAGED = {
    'cut': (b'a: [1, 2', 'not plain YAML'), 'no text': (b'\xff\xfe\x00bad', 'not plain YAML'),
    'a list': (b'- 1\n- 2', 'got list'), 'a word': (b'hello', 'got str'), 'a number': (b'3', 'got int'),
    'wrong indent': (b'a: 1\n b: 2', 'not plain YAML'), 'a tab': (b'\tx: 1', 'not plain YAML'),
}

@pytest.mark.parametrize('raw,what', DAMAGED.values(), ids=DAMAGED)
def test_damaged_yaml(raw, what, tmp_path):
    (tmp_path/'c.yaml').write_bytes(raw)
    with pytest.raises(ValueError, match=what) as e: load_yaml(tmp_path/'c.yaml')
    assert '\n' not in str(e.value) and 'c.yaml' in str(e.value)

def test_missing_and_empty_yaml(tmp_path):
    for p in (tmp_path/'no.yaml', tmp_path):
        with pytest.raises(FileNotFoundError, match='no settings file'): load_yaml(p)
    (tmp_path/'c.yaml').write_text('')
    assert load_yaml(tmp_path/'c.yaml')=={}

def test_saved_yaml_is_plain_values_only(tmp_path):
    with pytest.raises(yaml.YAMLError): save_yaml({'x': object()}, tmp_path/'c.yaml')
    assert not list(tmp_path.iterdir())

# --- layers

@pytest.mark.parametrize('name', list_recipes())
def test_every_recipe(name):
    cfg = make_config(name)
    assert config_from_dict(load_recipe(name))==cfg==config_from_dict(config_to_dict(cfg))

def test_layers(tmp_path):
    save_yaml({'train':{'epochs':7,'lr':.1}, 'loss':{'l2':1.}, 'models':{'cnn_ae':{'nf':8}}}, tmp_path/'c.yaml')
    demo = make_config('demo')
    c = make_config('demo', tmp_path/'c.yaml', epochs=9, far=None, size=32)
    assert (c.train.epochs, c.train.lr, c.data.size, c.detect.far)==(9, .1, 32, demo.detect.far)
    assert c.loss=={'l2':1.} and c.models=={**demo.models, 'cnn_ae':{'nf':8}} and c.data.category==demo.data.category       # weights are replaced, the rest is merged
    assert make_config('demo', model='other').data==demo.data and make_config(model='other').model=='other'
    assert make_config()==make_config('default')
    save_yaml({'model':'vit_ae', 'data':{'size':64}}, tmp_path/'family.yaml')
    assert make_config(file=tmp_path/'family.yaml')==make_config(model='vit_ae', size=64)                     # no recipe below
    with pytest.raises(KeyError, match="'epochs'"): make_config(epoch=3)
    with pytest.raises(KeyError, match="'demo'"): make_config('demos')
    with pytest.raises(ValueError, match='train.epochs'): make_config(epochs='3')

@pytest.mark.parametrize('recipe', list_recipes())
def test_a_recipe_with_another_family(recipe):
    "The head reads images, and the maps are those of any family; settings of the user's own stay."
    own = make_config(recipe)
    c = make_config(recipe, model='vit_ae')
    assert c.model=='vit_ae' and (c.data, c.train, c.loss)==(own.data, own.train, own.loss)
    assert (c.head is None)==(own.head is None) and (c.head is None or c.head.reads=='images' and c.head.loss==own.head.loss)
    assert c.detect==replace(own.detect, maps=DetectConfig().maps)
    assert make_config(recipe, model=own.model)==own
    assert make_config(recipe, model='vit_ae', maps={'l2':1.}).detect.maps=={'l2':1.}

# --- files

def test_atomic_write(tmp_path):
    f = tmp_path/'a'/'b'/'x.txt'
    with atomic_write(f) as p:
        assert p.parent==f.parent and p.suffix=='.txt' and p!=f
        p.write_text('one')
        assert not f.exists()
    assert f.read_text()=='one' and list(f.parent.iterdir())==[f]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(f.stat().st_mode)==0o666 & ~umask

@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
def test_a_failed_write_leaves_the_old_file(tmp_path, error):
    f = tmp_path/'x.txt'
    for old in (None,'old'):
        if old: f.write_text(old)
        with pytest.raises(error):
            with atomic_write(f) as p:
                p.write_text('half')
                raise error
        assert (f.read_text() if old else None)==old and sorted(tmp_path.iterdir())==[f]*bool(old)

def test_a_failed_replace_leaves_nothing_behind(tmp_path, monkeypatch):
    f = tmp_path/'x.txt'
    f.write_text('old')
    def full(*a): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, 'replace', full)
    with pytest.raises(OSError):
        with atomic_write(f) as p: p.write_text('new')
    assert f.read_text()=='old' and list(tmp_path.iterdir())==[f]

# --- registries

def function(name, module):
    def f(): return module
    f.__name__,f.__module__ = name,module
    return f

def test_registry():
    reg = Registry('thing')
    a = function('apple','fruit')
    assert reg(a) is a and reg['apple'] is a and list(reg)==['apple'] and 'pear' not in reg and reg.get('pear') is None
    again = reg(function('apple','fruit'))
    assert reg['apple'] is again                                        # a cell run twice
    book = reg(function('apple','__main__'))
    assert reg['apple'] is book                                         # an open notebook
    reg = Registry('thing')
    reg(a)
    with pytest.raises(ValueError, match="thing 'apple' of computers is already taken by fruit"): reg(function('apple','computers'))
    assert reg['apple'] is a
    with pytest.raises(KeyError, match="unknown thing 'aple'.*Did you mean 'apple'.*There is: apple"): reg['aple']
    with pytest.raises(KeyError, match='nothing yet'): Registry('thing')['x']
    assert reg.get_fn('apple') is a and reg.get_fn(len) is len
    with pytest.raises(KeyError): reg.get_fn('pear')

def test_nearest():
    assert "Did you mean 'size'" in did_you_mean('sise', ['size','fold']) and 'Did you' not in did_you_mean('zzz', ['size','fold'])
    assert did_you_mean('a', []).endswith('nothing yet.')
