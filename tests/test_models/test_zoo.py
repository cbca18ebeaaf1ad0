"""Models from names and from the settings of a run."""
import pytest, torch

from aead.config import make_config
from aead.models.base import BaseAutoencoder, model_registry
from aead.models.cnn_ae import CNNAutoencoder, cnn_ae
from aead.models.head import HeadedAutoencoder
from aead.models.zoo import build_model, create_autoencoder

from ..helpers import TINY

every_model = pytest.mark.parametrize('name', sorted(model_registry))

def equal(a, b): return a.keys()==b.keys() and all(torch.equal(v, b[k]) for k,v in a.items())

def seeded(f, *args, **kw):
    torch.manual_seed(0)
    return f(*args, **kw)

# --- by name

def test_default_is_the_plain_autoencoder():
    m = create_autoencoder()
    assert type(m) is CNNAutoencoder and m.settings==cnn_ae().settings

def test_name_builder_and_class_make_the_same_model():
    ms = [seeded(create_autoencoder, o, ni=1, nf=4) for o in ('cnn_ae', cnn_ae, CNNAutoencoder)]
    assert all(m.settings==ms[0].settings and equal(m.state_dict(), ms[0].state_dict()) for m in ms)

def test_a_plain_function_is_a_builder_too():
    "Without `builds`: a function of one's own that makes a model."
    def small_ae(ni=3): return cnn_ae(ni, 4, 2, 2)
    assert create_autoencoder(small_ae, ni=1).settings==dict(ni=1, nf=4, depth=2, nz=2)
    with pytest.raises(KeyError, match="unknown setting 'nii' of model 'small_ae'. Did you mean 'ni'"):
        create_autoencoder(small_ae, nii=1)

@pytest.mark.parametrize('name,hint', [('cnn', "'cnn_ae'"), ('vit', "'vit_ae'"), ('resnet', "'resnet_ae'")])
def test_unknown_names_suggest_the_nearest(name, hint):
    with pytest.raises(KeyError, match=f"unknown model '{name}'. Did you mean {hint}"): create_autoencoder(name)

# --- from settings

@every_model
@pytest.mark.parametrize('head', [False,True], ids=['alone','with head'])
def test_settings_of_a_run_make_the_model(name, head):
    settings = {**TINY.get(name, {}), 'ni':1}
    m = seeded(build_model, make_config(model=name, models={name: settings}, head=head, defects=.5))
    alone = seeded(create_autoencoder, name, **settings)
    assert isinstance(m, HeadedAutoencoder)==head and m.name==name and m.settings==alone.settings
    assert equal((m.body if head else m).state_dict(), alone.state_dict())

def test_other_families_settings_are_left_alone():
    m = build_model(make_config(model='cnn_ae', models={'cnn_ae': {'nf':4}, 'vit_ae': {'depth':1}}))
    assert m.settings['nf']==4 and m.settings['depth']==4

def test_the_head_has_its_settings():
    head = dict(nf=8, depth=2, weight=.5, memory=7)
    m = build_model(make_config(model='cnn_ae', models={'cnn_ae': {'nf':4}}, defects=.5, head=head))
    assert m.weight==.5 and len(m.memory.bank)==7
    want = HeadedAutoencoder(cnn_ae(nf=4), nf=8, depth=2)
    assert m.head.state_dict().keys()==want.head.state_dict().keys() and m.n_params()==want.n_params()

def test_a_head_needs_defects_to_learn_from():
    with pytest.raises(ValueError, match='data.defects is 0'): build_model(make_config(model='cnn_ae', head=True))

def test_wrong_settings_of_a_run_are_named():
    with pytest.raises(KeyError, match="unknown setting 'dept' of model 'cnn_ae'. Did you mean 'depth'"):
        build_model(make_config(model='cnn_ae', models={'cnn_ae': {'dept':1}}))
    assert isinstance(build_model(make_config()), BaseAutoencoder)
