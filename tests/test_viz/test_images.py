import os, subprocess, sys

import matplotlib.pyplot as plt
import numpy as np, pandas as pd, pytest, torch

from aead.viz.curves import fig_curves, fig_distributions, get_curve, get_pro_curve, get_roc_points, plot_curves, plot_distributions, plot_history, plot_roc, plot_scores
from aead.viz.compare import fig_models, get_models, plot_models
from aead.viz.explain import fig_denoising, get_denoising, plot_denoising
from aead.viz.images import fig_gallery, get_example, get_gallery, get_missing
from aead.viz.latent import fig_latent, get_latent, plot_latent, project_latent
from aead.metrics import PixelMetrics
from aead.models.base import model_registry
from aead.viz.explain import fig_residuals, get_residuals, plot_residuals
from aead.stats import PixelHistograms
from aead.viz.images import *
from aead.viz.curves import *
from aead.viz.explain import visualize_attention_maps



@pytest.fixture
def rng(): return np.random.default_rng(0)

@pytest.fixture
def results(rng):
    n = 60
    label = np.repeat([0,1], n//2)
    score = rng.normal(3, 1, n) + 2*label
    defect = np.where(label==0, 'good', rng.choice(['crack','dent','hole'], n))
    return pd.DataFrame(dict(path=[f'{i}.png' for i in range(n)], label=label, defect=defect, split='test', score=score,
                             p_value=rng.random(n), decision=(score>4).astype(int)))

def drawn(fig):
    "The figure really renders, and pyplot was not touched."
    fig.canvas.draw()
    assert isinstance(fig, plt.Figure) and not plt.get_fignums()
    assert fig._repr_png_()[:4]==b'\x89PNG'
    return fig

@pytest.mark.parametrize('c', [1,2,3,5])
@pytest.mark.parametrize('kind', ['torch','half','grad','numpy'])
def test_batches_of_any_kind(c, kind, rng):
    x,xr,e,m = rng.random((2,c,12,9)),rng.random((2,c,12,9)),rng.random((2,1,12,9)),rng.random((2,12,9))>.8
    if kind!='numpy': x,xr,e,m = map(torch.tensor, (x,xr,e,m))
    if kind=='half': x,xr,e = x.bfloat16(),xr.half(),e.half()
    if kind=='grad': xr.requires_grad_()
    fig = drawn(visualize_reconstructions(x, xr, e, m))
    assert len(fig.axes)==9
    assert ('mean of' in fig.axes[0].get_title()) == (c not in (1,3))
    assert fig.axes[0].lines and not visualize_reconstructions(x, xr, e).axes[0].lines

def test_one_scale_in_all_rows(rng):
    x,e = rng.random((3,1,8,8)),rng.random((3,8,8))*np.array([1,10,100])[:,None,None]
    for kw,lim in (({},(0,e.max())), (dict(vmin=1,vmax=7),(1,7))):
        fig = visualize_reconstructions(x, x, e, **kw)
        assert {fig.axes[4*i+2].images[0].get_clim() for i in range(3)}=={lim}
        assert all((fig.axes[4*i+3].images[0].get_array()==overlay(x[i].transpose(1,2,0), e[i], *lim)).all() for i in range(3))

def test_flat_and_unfinished_maps():
    x = np.zeros((1,3,6,6))
    drawn(visualize_reconstructions(x, x, np.zeros((1,6,6))))
    drawn(visualize_reconstructions(x, x, np.full((1,6,6), np.nan)))

def test_overlay_never_depends_on_its_neighbours(rng):
    x,a = rng.random((8,8)),rng.random((8,8))*5
    b = a.copy(); b[0,0] = 500
    assert (overlay(x, a, 0, 5)[1:]==overlay(x, b, 0, 5)[1:]).all()
    assert overlay(x, a, 0, 5).dtype==np.uint8 and overlay(x, a, 0, 5).shape==(8,8,3)

def test_overlay_is_transparent_below_and_plain_at_alpha_zero(rng):
    x = rng.random((8,8,3))
    low = overlay(x, np.full((8,8), -1.), 0, 5)
    assert (low==low[...,:1]).all()
    assert (low==overlay(x, np.full((8,8), 9.), 0, 5, alpha=0)).all()

def test_contour_encloses_the_mask(rng):
    from matplotlib.path import Path
    m = np.zeros((20,20), int); m[4:9,6:15] = 1
    (c,) = mask_contour(m)
    inside = Path(c).contains_points([(x,y) for y in range(20) for x in range(20)]).reshape(20,20)
    assert (inside==m).all() and (c[0]==c[-1]).all()
    m[6,9] = 0
    assert len(mask_contour(torch.tensor(m)))==2

def test_picks_are_disjoint_and_right(results):
    p = pick_examples(results, 4)
    assert list(p)==['found','missed','false alarms','borderline']
    both = pd.concat(p).reset_index(drop=True)
    assert not both.path.duplicated().any()
    assert ((p['found'].label==1)&(p['found'].decision==1)).all()
    assert p['found'].defect.iloc[:3].nunique()==3
    assert ((p['missed'].label==1)&(p['missed'].decision==0)).all() and p['missed'].score.is_monotonic_increasing
    assert ((p['false alarms'].label==0)&(p['false alarms'].decision==1)).all() and p['false alarms'].score.is_monotonic_decreasing
    left = results.score[~results.path.isin(both.path)]
    assert (p['borderline'].score-4).abs().max() <= (left-4).abs().min()+.2

@pytest.mark.parametrize('none', [None, np.nan, pd.NA])
def test_picks_without_a_threshold(results, none):
    p = pick_examples(results.assign(decision=none), 4)
    assert [len(o) for o in p.values()]==[4,4,4,0]
    assert p['found'].score.max()==results.score[results.label==1].max()
    assert p['missed'].score.min()==results.score[results.label==1].min()

def test_picks_look_at_test_images_only_and_at_any_index(results):
    more = pd.concat([results, results.assign(split='cal', score=99.)])      # an index with doubles
    assert all((o.split=='test').all() for o in pick_examples(more).values())
    a,b = pick_examples(results.set_axis([0]*len(results))),pick_examples(results)
    assert all(a[k].path.tolist()==b[k].path.tolist() for k in b)
    assert len(get_tested(results.assign(split='')))==len(results)

@pytest.mark.parametrize('dtype', ['int64','float64','bool','object','Int64','boolean'])
def test_decisions_of_any_type(results, dtype):
    d = get_decisions(results.assign(decision=results.decision.astype(bool).astype(dtype) if 'bool' in dtype else results.decision.astype(dtype)))
    assert (d==results.decision).all()

@pytest.mark.filterwarnings('error')
def test_figures_of_a_run(results):
    drawn(fig_scores(results, 4.)); drawn(fig_scores(results)); drawn(fig_roc(results)); drawn(fig_pr(results))
    odd = results.assign(defect=results.defect.replace({'crack':'$\\frac{', 'dent':'a\nb\t'+'x'*200, 'hole':'<script>'}), decision=None)
    drawn(fig_scores(odd, -1.)); drawn(fig_roc(odd))
    drawn(fig_scores(results.assign(score=np.exp(3*results.score)), 1e3))
    drawn(fig_scores(results[results.label==0], 4.)); drawn(fig_scores(results[results.label==1]))
    for df in (results[results.label==0], results[results.label==1]):
        with pytest.raises(ValueError, match='good and defective'): fig_roc(df)
        with pytest.raises(ValueError, match='good and defective'): fig_pr(df)

def test_history_with_gaps():
    h = pd.DataFrame(dict(epoch=range(3), train_loss=[3,2,1], valid_loss=[None,2,None], lr=[1e-3]*3))
    drawn(fig_history(h)); drawn(fig_history(h[:1])); drawn(fig_history(h[['epoch','train_loss']])); drawn(fig_history(h[['epoch']]))

def test_gallery(rng):
    e = dict(image=rng.random((9,9,3)), recon=rng.random((9,9,3)), amap=rng.random((9,9)), mask=None, path='$a', defect='$a$_{', label=1, score=1., p_value=None, decision=None)
    drawn(fig_examples([e, {**e, 'mask':np.eye(9), 'p_value':.2, 'decision':'good'}], 1.))
    assert describe_example({**e, 'p_value':.2, 'decision':'good'})[1:]==['called good: missed','score 1','p-value 0.2']

def test_no_display_is_needed():
    code = ("import numpy as np; from aead.viz.images import visualize_reconstructions as f; x = np.zeros((1,1,8,8));"
            "print(len(f(x, x, x[:,0])._repr_png_())>1000)")
    env = {k:v for k,v in os.environ.items() if k not in ('DISPLAY','MPLBACKEND','WAYLAND_DISPLAY')}
    assert subprocess.run([sys.executable,'-c',code], env=env, capture_output=True, text=True).stdout.strip()=='True'

@pytest.mark.parametrize('c', [1,3])
def test_attention_figure(c, rng):
    "A panel for image, roll-out and each layer and head; one scale; sizes that patches do not divide; the model is left as it was."
    from aead.models.vit_ae import vit_ae
    m = vit_ae(ni=c, image_size=32, patch_size=8, dim=32, depth=2, heads=2, mlp_dim=32, decoder_dim=16, decoder_heads=2).train()
    x = torch.rand(c, 30, 37)
    before = {k:v.clone() for k,v in m.state_dict().items()}
    panels = lambda f: [o.get_title() for o in f.axes if o.get_title()]
    assert len(panels(visualize_attention_maps(m, x)))==2+4 and m.training
    assert len(panels(visualize_attention_maps(m, x[None], layer=1, at=(29,36))))==2+2
    assert all(torch.equal(v, before[k]) for k,v in m.state_dict().items()) and all(p.grad is None for p in m.parameters())
    for bad in (dict(layer=2), dict(head=-1), dict(at=(30,0))):
        with pytest.raises(ValueError, match='must be'): visualize_attention_maps(m, x, **bad)

# --- colours

# cones that are missing: Machado, Oliveira and Fernandes (2009), severity 1, on linear light
SIGHT = {'all': np.eye(3), 'no red': [[.152286,1.052583,-.204868],[.114503,.786281,.099216],[-.003882,-.048116,1.051998]],
         'no green': [[.367322,.860646,-.227968],[.280085,.672501,.047413],[-.01182,.04294,.968881]], 'no blue': [[1.255528,-.076749,-.178779],[-.078411,.930809,.147602],[.004733,.691367,.3039]]}

def lab(rgb, m):
    from skimage.color import rgb2lab
    lin = np.where(rgb<=.04045, rgb/12.92, ((rgb+.055)/1.055)**2.4)@np.transpose(m)
    return rgb2lab(np.where(lin<=.0031308, lin*12.92, 1.055*lin.clip(1e-9, 1)**(1/2.4)-.055)[None])[0]

@pytest.mark.parametrize('m', SIGHT.values(), ids=SIGHT)
def test_heat_colours_survive_grey_and_colour_blindness(m):
    "Lightness in CIELAB rises with each of the 256 colours; of jet it does not."
    from matplotlib import colormaps
    l = lab(colormaps[heat_colors](np.arange(256))[:,:3], m)[:,0]
    assert (np.diff(l)>.05).all() and l[0]<1 and l[-1]>95
    assert (np.diff(lab(colormaps['jet'](np.arange(256))[:,:3], m)[:,0])<0).any()

@pytest.mark.parametrize('m', SIGHT.values(), ids=SIGHT)
def test_colours_of_lines_are_told_apart(m):
    from matplotlib.colors import to_rgb as rgb
    from aead.viz.curves import colors
    c = lab(np.array([rgb(o) for o in colors]), m)
    apart = np.linalg.norm(c[:,None]-c, axis=-1)[np.triu_indices(len(c), 1)]
    assert apart.min()>15 and np.linalg.norm(c[0]-c[1])>80                # any two; good and bad

# --- curves

def parts(n=90, seed=0, lift=1.5):
    r = np.random.default_rng(seed)
    y = np.arange(n)//3%2
    return pd.DataFrame(dict(path=[f'{i}.png' for i in range(n)], label=y, defect=np.where(y, np.where(np.arange(n)%4, 'crack', 'dent'), 'good'), group=np.arange(n)//3,
                             score=lift*y+np.repeat(r.normal(size=n//3), 3)+.3*r.normal(size=n)))

def pixels(n=16, seed=0):
    r = np.random.default_rng(seed)
    masks = np.zeros((n,20,20), int); masks[:n//2,3:9,4:8] = masks[:n//4,13:15,13:16] = 1
    maps = r.normal(size=masks.shape)+1.2*masks
    return PixelMetrics().update(maps, masks), PixelHistograms().update(maps, masks), pd.DataFrame(dict(group=np.arange(n), label=(np.arange(n)<n//2).astype(int)))

@pytest.mark.parametrize('kind', ['roc','pr'])
def test_paper_and_screen_show_the_same_curve(kind):
    t = {'a': parts(), 'b': parts(seed=1, lift=.5)}
    fig,p = drawn(fig_curves(t, kind, 40)),plot_curves(t, kind, 40)
    lines = [o for o in p.data if o.name in t]
    for (k,o),l,q in zip(t.items(), fig.axes[0].lines, lines):
        want = get_curve(o, kind, 40)
        assert np.allclose(l.get_ydata(), want.y) and np.allclose(q.y, want.y) and l.get_label()==q.name==k
        assert l.get_color().lower()==q.line.color.lower()
    assert len(fig.axes[0].collections)==2 and len({o.get_color() for o in fig.axes[0].lines})==2
    assert len(fig_curves(t, kind, 0).axes[0].collections)==0

def test_band_is_wider_for_fewer_parts():
    wide = [(lambda c: (c.high-c.low).mean())(get_curve(parts(n), 'roc')) for n in (30,300)]
    assert wide[0]>2*wide[1]
    t = parts(60)
    few = get_curve(t.assign(group=np.arange(60)//6*2+t.label), 'roc')
    assert (few.high-few.low).mean()>(lambda c: (c.high-c.low).mean())(get_curve(t.assign(group=range(60)), 'roc'))

def test_pro_curve_is_the_one_of_the_figure():
    px,h,df = pixels()
    c = get_pro_curve(px, h, df, points=2001)
    assert np.isclose(np.trapezoid(c.y, c.x)/.3, px.compute()['aupro_30'], atol=1e-3) and c.x.iloc[-1]==.3
    assert ((c.low<=c.y+1e-9)&(c.y<=c.high+1e-9)).mean()>.9 and (c.high-c.low).max()>.02
    assert get_pro_curve(px).low.isna().all() and get_pro_curve(px, h, df.assign(group=df.label)).low.isna().all()
    fig = drawn(fig_curves({'m': c}, 'pro'))
    assert np.allclose(fig.axes[0].lines[0].get_ydata(), c.y) and fig.axes[0].get_xlim()==(0,.3)
    for bad,says in ((lambda: fig_curves(parts(), 'pro'), 'needs maps'), (lambda: get_pro_curve(PixelMetrics()), 'there are none'), (lambda: get_curve(parts().drop(columns='group')), 'lacks the column group')):
        with pytest.raises(ValueError, match=says): bad()

def test_points_of_the_roc():
    t = parts().sample(frac=1, random_state=0)
    p,fig = get_roc_points(t),plot_roc(t, 0)
    for o in fig.data[1:]:
        i = np.array(o.customdata, int)
        assert (t.label.to_numpy()[i]==(o.name=='defective')).all() and np.allclose(o.x, p.x.to_numpy()[i]) and list(o.text)==t.path.iloc[i].tolist()
    worst = t.score.idxmax()
    assert np.isclose(p.loc[worst, ['x','y']].sum(), 1/(t.label==t.label[worst]).sum())

def test_scores_by_class():
    t = parts()
    c = get_class_scores(t, 1.)
    assert c.defect.tolist()==['good','crack','dent'] and c.n.sum()==len(t)
    for r in c.itertuples():
        s = t.score[t.defect==r.defect]
        assert r.above==(s>1).sum() and np.isclose(r.median, s.median())
    fig = drawn(fig_scores(t, 1.))
    assert sorted(np.concatenate([o.get_offsets()[:,0] for o in fig.axes[0].collections]))==sorted(t.score)
    assert sum(len(o.x) for o in plot_scores(t, 1.).data)==len(t) and plot_scores(t, 1.).layout.shapes[0].x0==1.

def test_spread_and_history():
    from aead.stats import describe_scores
    t = parts(); d = describe_scores(t, 20)
    for o,q,k in zip(fig_distributions(t, 20).axes[0].patches, plot_distributions(t, 20).data, ('good','defective')):
        assert np.allclose(o.get_data().values, d['histogram'][k]) and np.allclose(q.y, d['histogram'][k])
    h = pd.DataFrame(dict(epoch=range(4), train_loss=[4,3,2,1], valid_loss=[4,None,2,2], lr=[.1]*4))
    fig,p = fig_history(h),plot_history(h)
    assert np.allclose(fig.axes[0].lines[1].get_ydata(), h.valid_loss.astype(float), equal_nan=True) and np.allclose(p.data[0].y, h.train_loss)
    assert [o.name for o in p.data]==['train','valid','learning rate'] and fig.axes[1].lines[0].get_ydata()[0]==.1

def test_quality_against_cost():
    f = pd.DataFrame(dict(run=['a','b','c'], image_auroc=[.7,.9,.8], image_auroc_low=[.6,.8,np.nan], image_auroc_high=[.8,.95,np.nan]))
    m = get_models(f, pd.DataFrame(dict(name=['c','b','a'], median_ms=[3.,20.,5.], file_mib=[1.,9.,4.])))
    fig,p = drawn(fig_models(m, area='file_mib')),plot_models(m, area='file_mib')
    assert [o.get_offsets()[0].tolist() for o in fig.axes[0].collections]==[[3,.8],[5,.7],[20,.9]]==[[o.x[0],o.y[0]] for o in p.data]
    assert len(fig.axes[0].lines)==2 and [o.get_text() for o in fig.axes[0].texts]==['c','a','b']
    size = [o.get_sizes()[0] for o in fig.axes[0].collections]
    assert size[0]<size[1]<size[2] and fig.axes[0].get_xscale()=='log'

# --- galleries

@pytest.fixture(scope='session')
def run_table(synth, tmp_path_factory):
    "A table of scores, and a folder of maps in which one is missing."
    d = tmp_path_factory.mktemp('run'); (d/'maps').mkdir()
    t = synth[synth.split=='test'].reset_index(drop=True)
    r = np.random.default_rng(0)
    for i in range(1, len(t)): np.save(d/'maps'/f'{i}.npy', r.random((24,24)).astype(np.float16))
    return t.assign(score=r.random(len(t)), decision=r.integers(0, 2, len(t)), p_value=.5, amap=[f'maps/{i}.npy' for i in range(len(t))]), d

def test_examples_of_a_run_folder(run_table):
    t,d = run_table
    bad = t.index[t.label==1][-1]
    e = get_example(t.loc[bad], d)
    assert e['missing']==[] and e['amap'].shape==e['image'].shape[:2]==e['mask'].shape and 0<=e['amap'].min() and e['mask'].any()
    assert get_example(t.loc[0], d)['missing'][0]=='anomaly map'
    assert get_example(t.loc[bad], None)['amap'] is None and get_example({**t.loc[bad], 'mask': 'gone.png'}, d)['missing']==['mask']
    (d/'maps'/'bad.npy').write_bytes(b'not an array')
    assert get_example({**t.loc[bad], 'amap': 'maps/bad.npy'}, d)['missing']==['anomaly map']

def test_gallery_side_by_side(run_table):
    t,d = run_table
    g = get_gallery(t, d, 2)
    fig = drawn(fig_gallery(g, 1.))
    shown = [e for k in ('missed','false alarms','borderline') for e in g[k]]
    assert [o.get_title(loc='left') for o in fig.axes if o.get_title(loc='left')]==[f'{e["defect"]}, {e["score"]:.3g}' for e in shown]
    assert get_missing(get_gallery(t, None, 2))[0].endswith('no anomaly map')
    assert len([o for ax in fig_gallery(get_gallery(t, None, 2), 1.).axes for o in ax.texts if o.get_text()=='no map'])==len(shown)
    with pytest.raises(ValueError, match='lack the column path'): get_gallery(t.drop(columns='path'))

# --- what is inside a model

@pytest.mark.parametrize('name', model_registry)
def test_looks_into_every_family(name, tiny_model, pictures):
    m,x = tiny_model(name, ni=1).train(),pictures(5, 1)
    before = {k:v.clone() for k,v in m.state_dict().items()}
    r = get_residuals(m, x[0])
    assert len(r['maps']['gradients'])==3 and all(o.shape==(32,32) for o in r['maps']['gradients'].values())     # 32, 16, 8 pixels
    drawn(fig_residuals(r)); assert len(plot_residuals(r).data)==sum(map(len, r['maps'].values()))
    if name=='diffusion_ae':
        w = get_denoising(m, x[0], steps=4)
        drawn(fig_denoising(w)); assert w['t'][-1]==0 and len(plot_denoising(w).frames)==5
        with pytest.raises(ValueError, match='has no latent space'): get_latent(m, x)
    else:
        with pytest.raises(ValueError, match='does not walk out of noise'): get_denoising(m, x[0])
        z = get_latent(m, x, bs=2)
        assert z.shape[0]==5 and np.allclose(z, get_latent(m, x), atol=1e-5) and get_latent(m, x, 'mean').shape[1]<z.shape[1]
    if not hasattr(m, 'attention_maps'):
        with pytest.raises(ValueError, match='has no attention to show'): visualize_attention_maps(m, x[0])
    assert m.training and all(torch.equal(v, before[k]) for k,v in m.state_dict().items()) and all(p.grad is None for p in m.parameters())

def test_a_head_changes_nothing_of_the_latent(tiny_model, pictures):
    from aead.models.head import HeadedAutoencoder
    m,x = tiny_model('cnn_ae', ni=1),pictures(3, 1)
    assert np.array_equal(get_latent(HeadedAutoencoder(m, nf=4, depth=1), x), get_latent(m, x))

def test_scale_of_residuals_is_shared_and_fixed():
    r = {'image': np.zeros((8,8,1)), 'xr': np.zeros((8,8,1)), 'maps': {'gradients': {'1/1': np.full((8,8), .2), '1/2': np.full((8,8), .8)}, 'feature': {'feature_1': np.full((8,8), 5.)}}}
    clims = lambda **kw: [ax.images[0].get_clim() for ax in fig_residuals(r, **kw).axes if ax.images and ax.get_title() not in ('image','reconstruction') and ax.get_title()]
    assert clims()==[(0,.8),(0,.8),(0,5)] and clims(vmax={'gradients': 2.})==[(0,2),(0,2),(0,5)]

def test_latent_by_pca_and_umap(rng, monkeypatch):
    import sys, types
    z,c = rng.normal(size=(30,6))*[9,4,1,1,1,1],np.repeat(['good','b','a'], 10)
    t = project_latent(z, c)
    assert t.x[:10].var()>t.y[:10].var() and abs(np.corrcoef(t.x, z[:,0])[0,1])>.95
    fig,p = drawn(fig_latent(t)),plot_latent(t.assign(path='x'))
    assert [o.get_label() for o in fig.axes[0].collections]==['good (10)','a (10)','b (10)']==[o.name for o in p.data]
    for o,q in zip(fig.axes[0].collections, p.data): assert np.allclose(o.get_offsets()[:,1], q.y) and np.allclose(q.x, t.x.to_numpy()[np.array(q.customdata, int)])
    monkeypatch.setitem(sys.modules, 'umap', None)
    with pytest.raises(ValueError, match='pip install umap-learn'): project_latent(z, c, 'umap')
    class UMAP:
        def __init__(self, n_components, random_state, n_jobs): assert (n_components,random_state,n_jobs)==(2,7,1)         # a seed allows one job only, else UMAP warns
        def fit_transform(self, z): return z[:,:2]
    monkeypatch.setitem(sys.modules, 'umap', types.SimpleNamespace(UMAP=UMAP))
    t = project_latent(z, c, 'umap', 7)
    assert np.allclose(t.x, z[:,0]) and t.attrs['axes']==['UMAP 1','UMAP 2']
