import os, subprocess, sys

import matplotlib.pyplot as plt
import numpy as np, pandas as pd, pytest, torch

from aead.visualization import *


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
    code = ("import numpy as np; from aead.visualization import visualize_reconstructions as f; x = np.zeros((1,1,8,8));"
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
