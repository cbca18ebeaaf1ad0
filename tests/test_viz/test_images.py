"Pictures of images: batches, overlays, outlines, examples and galleries."
import os, subprocess, sys

import numpy as np, pandas as pd, pytest, torch
from matplotlib import colormaps
from matplotlib.colors import to_rgb as parse_color
from matplotlib.path import Path
from skimage.color import rgb2lab

from aead.calibration import get_decisions, get_tested
from aead.viz.curves import colors
from aead.viz.images import (contour_color, describe_example, draw_contour, fig_examples, fig_gallery, get_example, get_gallery,
                             get_missing, get_pictures, heat_colors, mask_contour, overlay, paint_contour, pick_examples, to_rgb,
                             visualize_reconstructions)

# --- batches

@pytest.mark.parametrize('c', [1,2,3,5], ids=lambda c: f'{c} channels')
@pytest.mark.parametrize('kind', ['torch','half','grad','numpy'])
def test_batches_of_any_kind(c, kind, rng, drawn):
    x,xr,e,m = rng.random((2,c,12,9)),rng.random((2,c,12,9)),rng.random((2,1,12,9)),rng.random((2,12,9))>.8
    if kind!='numpy': x,xr,e,m = map(torch.tensor, (x,xr,e,m))
    if kind=='half': x,xr,e = x.bfloat16(),xr.half(),e.half()
    if kind=='grad': xr.requires_grad_()
    fig = drawn(visualize_reconstructions(x, xr, e, m))
    assert len(fig.axes)==9
    assert ('mean of' in fig.axes[0].get_title()) == (c not in (1,3))
    assert fig.axes[0].lines and not visualize_reconstructions(x, xr, e).axes[0].lines

@pytest.mark.parametrize('limits', [{}, dict(vmin=1, vmax=7)], ids=['own limits','fixed limits'])
def test_one_scale_in_all_rows(limits, rng):
    x,e = rng.random((3,1,8,8)),rng.random((3,8,8))*np.array([1,10,100])[:,None,None]
    lim = (limits.get('vmin', 0), limits.get('vmax', e.max()))
    fig = visualize_reconstructions(x, x, e, **limits)
    assert {fig.axes[4*i+2].images[0].get_clim() for i in range(3)}=={lim}
    for i in range(3):
        assert (fig.axes[4*i+3].images[0].get_array()==overlay(x[i].transpose(1,2,0), e[i], *lim)).all()

@pytest.mark.parametrize('value', [0.,np.nan], ids=['flat','not finite'])
def test_maps_without_a_scale(value, drawn):
    x = np.zeros((1,3,6,6))
    drawn(visualize_reconstructions(x, x, np.full((1,6,6), value)))

def test_no_display_is_needed():
    code = ("import numpy as np; from aead.viz.images import visualize_reconstructions as f; x = np.zeros((1,1,8,8));"
            "print(len(f(x, x, x[:,0])._repr_png_())>1000)")
    env = {k:v for k,v in os.environ.items() if k not in ('DISPLAY','MPLBACKEND','WAYLAND_DISPLAY')}
    assert subprocess.run([sys.executable,'-c',code], env=env, capture_output=True, text=True).stdout.strip()=='True'

# --- heat maps

def test_overlay_never_depends_on_its_neighbours(rng):
    x,a = rng.random((8,8)),rng.random((8,8))*5
    b = a.copy()
    b[0,0] = 500
    assert (overlay(x, a, 0, 5)[1:]==overlay(x, b, 0, 5)[1:]).all()
    assert overlay(x, a, 0, 5).dtype==np.uint8 and overlay(x, a, 0, 5).shape==(8,8,3)

def test_overlay_is_transparent_below_and_plain_at_alpha_zero(rng):
    x = rng.random((8,8,3))
    low = overlay(x, np.full((8,8), -1.), 0, 5)
    assert (low==low[...,:1]).all()
    assert (low==overlay(x, np.full((8,8), 9.), 0, 5, alpha=0)).all()

def test_overlay_of_many_channels_shows_their_mean(rng):
    x,a = rng.random((8,8,5)),rng.random((8,8))
    assert (overlay(x, a, 0, 1)==overlay(x.mean(-1), a, 0, 1)).all()

# cones that are missing: Machado, Oliveira and Fernandes (2009), severity 1, on linear light
SIGHT = {'all cones': np.eye(3),
         'no red': [[.152286,1.052583,-.204868],[.114503,.786281,.099216],[-.003882,-.048116,1.051998]],
         'no green': [[.367322,.860646,-.227968],[.280085,.672501,.047413],[-.01182,.04294,.968881]],
         'no blue': [[1.255528,-.076749,-.178779],[-.078411,.930809,.147602],[.004733,.691367,.3039]]}

def lab(rgb, sight):
    "CIELAB of colours `n 3` in [0,1], as eyes with the matrix `sight` see them."
    lin = np.where(rgb<=.04045, rgb/12.92, ((rgb+.055)/1.055)**2.4)@np.transpose(sight)
    return rgb2lab(np.where(lin<=.0031308, lin*12.92, 1.055*lin.clip(1e-9, 1)**(1/2.4)-.055)[None])[0]

@pytest.mark.parametrize('sight', SIGHT.values(), ids=SIGHT)
def test_heat_colours_survive_grey_and_colour_blindness(sight):
    "Lightness rises with each of the 256 colours, from near black to near white; that of jet does not."
    light = lab(colormaps[heat_colors](np.arange(256))[:,:3], sight)[:,0]
    assert (np.diff(light)>.05).all() and light[0]<1 and light[-1]>95
    assert (np.diff(lab(colormaps['jet'](np.arange(256))[:,:3], sight)[:,0])<0).any()

@pytest.mark.parametrize('sight', SIGHT.values(), ids=SIGHT)
def test_colours_of_lines_are_told_apart(sight):
    c = lab(np.array([parse_color(o) for o in colors]), sight)
    apart = np.linalg.norm(c[:,None]-c, axis=-1)[np.triu_indices(len(c), 1)]
    assert apart.min()>15 and np.linalg.norm(c[0]-c[1])>80                # any two; good and bad

# --- outlines

def test_contour_encloses_the_mask():
    m = np.zeros((20,20), int)
    m[4:9,6:15] = 1
    (c,) = mask_contour(m)
    inside = Path(c).contains_points([(x,y) for y in range(20) for x in range(20)]).reshape(20,20)
    assert (inside==m).all() and (c[0]==c[-1]).all()
    m[6,9] = 0
    assert len(mask_contour(torch.tensor(m)))==2

def test_simplified_contour_stays_near():
    m = np.hypot(*np.mgrid[-30:31,-30:31])<22
    (every,),(few,) = mask_contour(m),mask_contour(m, 1.)
    assert len(few)<len(every)/4 and (few[0]==few[-1]).all()
    assert all(abs(every-o).sum(1).min()==0 for o in few)                 # its points are points of the outline
    inside = Path(few).contains_points([(x,y) for y in range(61) for x in range(61)]).reshape(61,61)
    assert (inside!=m).sum()<.1*m.sum()

@pytest.mark.parametrize('box', [(2,5,3,7),(0,4,0,4),(0,8,0,9),(7,8,8,9)], ids=['inside','corner','whole image','one pixel'])
def test_painted_contour_is_closed_and_within_the_picture(box, rng):
    top,bottom,left,right = box
    rgb,m = np.full((8,9,3), 100, np.uint8),np.zeros((8,9), int)
    m[top:bottom,left:right] = 1
    before = rgb.copy()
    out = paint_contour(rgb, m)
    painted = (out==np.uint8(np.round(255*np.array(parse_color(contour_color))))).all(-1)
    assert (rgb==before).all() and out.shape==rgb.shape and painted.any()
    assert (out[~painted]==100).all()
    rows,cols = np.nonzero(painted)
    near = (top-1<=rows)&(rows<=bottom)&(left-1<=cols)&(cols<=right)
    assert near.all() and not painted[top+1:bottom-1,left+1:right-1].any()

def test_contour_of_nothing(drawn):
    from aead.viz.images import _grid
    fig,axs = _grid(1, [1], 1.)
    draw_contour(axs[0,0], None)
    draw_contour(axs[0,0], np.zeros((4,4)))
    rgb = np.zeros((4,4,3), np.uint8)
    assert not axs[0,0].lines and (paint_contour(rgb, None)==rgb).all() and (paint_contour(rgb, np.zeros((4,4)))==rgb).all()

# --- which images

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

@pytest.mark.parametrize('none', [None,np.nan,pd.NA], ids=['None','NaN','NA'])
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
    typed = results.decision.astype(bool).astype(dtype) if 'bool' in dtype else results.decision.astype(dtype)
    assert (get_decisions(results.assign(decision=typed))==results.decision).all()

# --- examples and galleries

def test_examples_with_odd_texts(rng, drawn):
    e = dict(image=rng.random((9,9,3)), recon=rng.random((9,9,3)), amap=rng.random((9,9)), mask=None,
             path='$a', defect='$a$_{', label=1, score=1., p_value=None, decision=None)
    good = {**e, 'mask': np.eye(9), 'p_value': .2, 'decision': 'good'}
    drawn(fig_examples([e, good], 1.))
    assert describe_example(good)[1:]==['not flagged: defect missed','score 1','p-value 0.2']

@pytest.mark.parametrize('label,decision,says', [(1,1,'flagged: defect found'), (1,0,'not flagged: defect missed'),
    (0,1,'flagged: false alarm'), (0,0,'not flagged: correct'), (1,None,'no decision: no threshold')], ids=lambda o: str(o))
def test_words_about_a_decision(label, decision, says):
    assert describe_example(dict(defect='x', label=label, score=1., decision=decision))[1]==says

@pytest.fixture(scope='session')
def run_table(synth, tmp_path_factory):
    "A table of scores, and a folder of maps in which one is missing."
    d = tmp_path_factory.mktemp('run')
    (d/'maps').mkdir()
    t = synth[synth.split=='test'].reset_index(drop=True)
    r = np.random.default_rng(0)
    for i in range(1, len(t)): np.save(d/'maps'/f'{i}.npy', r.random((24,24)).astype(np.float16))
    scores = dict(score=r.random(len(t)), decision=r.integers(0, 2, len(t)), p_value=.5)
    return t.assign(**scores, amap=[f'maps/{i}.npy' for i in range(len(t))]), d

def test_examples_of_a_run_folder(run_table):
    t,d = run_table
    bad = t.index[t.label==1][-1]
    e = get_example(t.loc[bad], d)
    assert e['missing']==[] and e['amap'].shape==e['image'].shape[:2]==e['mask'].shape and 0<=e['amap'].min() and e['mask'].any()
    assert get_example(t.loc[0], d)['missing'][0]=='anomaly map'
    assert get_example(t.loc[bad], None)['amap'] is None
    assert get_example({**t.loc[bad], 'mask': 'gone.png'}, d)['missing']==['mask']
    (d/'maps'/'bad.npy').write_bytes(b'not an array')
    assert get_example({**t.loc[bad], 'amap': 'maps/bad.npy'}, d)['missing']==['anomaly map']

def test_pictures_of_an_example(run_table):
    t,d = run_table
    e = get_example(t.loc[t.index[t.label==1][-1]], d)
    p = get_pictures(e, .7)
    assert (p['image']==to_rgb(e['image'])).all() and p['reconstruction'] is None
    assert (p['anomaly map']==overlay(e['image'], e['amap'], 0, .7)).all()
    assert set(get_pictures({**e, 'image': None}, .7).values())=={None}

def test_gallery_side_by_side(run_table, drawn):
    t,d = run_table
    g = get_gallery(t, d, 2)
    fig = drawn(fig_gallery(g, 1.))
    shown = [e for k in ('missed','false alarms','borderline') for e in g[k]]
    titles = [o.get_title(loc='left') for o in fig.axes if o.get_title(loc='left')]
    assert titles==[f'{e["defect"]}, {e["score"]:.3g}' for e in shown]
    bare = get_gallery(t, None, 2)
    assert get_missing(bare)[0].endswith('no anomaly map')
    assert len([o for ax in fig_gallery(bare, 1.).axes for o in ax.texts if o.get_text()=='no anomaly map'])==len(shown)
    with pytest.raises(ValueError, match='lack the column path'): get_gallery(t.drop(columns='path'))
