"The latent space: what each family encodes to, and its two axes."
import sys, types

import numpy as np, pytest, torch

from aead.models.base import model_registry
from aead.models.head import HeadedAutoencoder
from aead.viz.latent import fig_latent, get_latent, plot_latent, project_latent

@pytest.mark.parametrize('name', list(model_registry))
def test_latent_of_every_family(name, tiny_model, pictures):
    m,x = tiny_model(name, ni=1).train(),pictures(5, 1)
    before = {k: v.clone() for k,v in m.state_dict().items()}
    if name=='diffusion_ae':
        with pytest.raises(ValueError, match='has no latent space'): get_latent(m, x)
    else:
        z = get_latent(m, x, bs=2)
        assert z.shape[0]==5 and np.allclose(z, get_latent(m, x), atol=1e-5)
        assert get_latent(m, x, 'mean').shape[1]<z.shape[1]
    assert m.training and all(torch.equal(v, before[k]) for k,v in m.state_dict().items())
    assert all(p.grad is None for p in m.parameters())

def test_a_head_changes_nothing_of_the_latent(tiny_model, pictures):
    m,x = tiny_model('cnn_ae', ni=1),pictures(3, 1)
    assert np.array_equal(get_latent(HeadedAutoencoder(m, nf=4, depth=1), x), get_latent(m, x))

def test_image_sizes_that_the_stride_does_not_divide(tiny_model, pictures):
    m = tiny_model('cnn_ae', ni=1)
    assert get_latent(m, pictures(2, 1, (30,37))).shape[0]==2

@pytest.fixture
def latents(rng): return rng.normal(size=(30,6))*[9,4,1,1,1,1], np.repeat(['good','b','a'], 10)

def test_axes_by_pca(latents, drawn):
    z,c = latents
    t = project_latent(z, c)
    assert t.x[:10].var()>t.y[:10].var() and abs(np.corrcoef(t.x, z[:,0])[0,1])>.95
    fig,p = drawn(fig_latent(t)),plot_latent(t.assign(path='x'))
    assert [o.get_label() for o in fig.axes[0].collections]==['good (10)','a (10)','b (10)']==[o.name for o in p.data]
    for o,q in zip(fig.axes[0].collections, p.data):
        assert np.allclose(o.get_offsets()[:,1], q.y) and np.allclose(q.x, t.x.to_numpy()[np.array(q.customdata, int)])

def test_umap_is_asked_for_when_missing(latents, monkeypatch):
    monkeypatch.setitem(sys.modules, 'umap', None)
    with pytest.raises(ValueError, match='pip install umap-learn'): project_latent(*latents, 'umap')

def test_axes_by_umap(latents, monkeypatch):
    z,c = latents
    class UMAP:
        def __init__(self, n_components, random_state, n_jobs):
            assert (n_components,random_state,n_jobs)==(2,7,1)         # a seed allows one job only, else UMAP warns
        def fit_transform(self, z): return z[:,:2]
    monkeypatch.setitem(sys.modules, 'umap', types.SimpleNamespace(UMAP=UMAP))
    t = project_latent(z, c, 'umap', 7)
    assert np.allclose(t.x, z[:,0]) and t.attrs['axes']==['UMAP 1','UMAP 2']
