"Curves and charts: on paper and on screen they show the same numbers."
import numpy as np, pandas as pd, pytest

from aead.metrics import PixelMetrics
from aead.stats import describe_scores, PixelHistograms
from aead.viz.curves import (fig_curves, fig_distributions, fig_history, fig_scores, get_class_scores, get_curve, get_pro_curve,
                             get_roc_points, make_figure, plot_curves, plot_distributions, plot_histogram, plot_history, plot_roc,
                             plot_roc_at, plot_scores)

def parts(n=90, seed=0, lift=1.5):
    "Scores of `n` images of parts that were photographed three times each."
    r = np.random.default_rng(seed)
    y = np.arange(n)//3%2
    score = lift*y+np.repeat(r.normal(size=n//3), 3)+.3*r.normal(size=n)
    return pd.DataFrame(dict(path=[f'{i}.png' for i in range(n)], label=y, group=np.arange(n)//3, score=score,
                             defect=np.where(y, np.where(np.arange(n)%4, 'crack', 'dent'), 'good')))

def pixels(n=16, seed=0):
    "Pixel counts and histograms of `n` maps, half of them with defects, and their table."
    r = np.random.default_rng(seed)
    masks = np.zeros((n,20,20), int)
    masks[:n//2,3:9,4:8] = masks[:n//4,13:15,13:16] = 1
    maps = r.normal(size=masks.shape)+1.2*masks
    df = pd.DataFrame(dict(group=np.arange(n), label=(np.arange(n)<n//2).astype(int)))
    return PixelMetrics().update(maps, masks), PixelHistograms().update(maps, masks), df

def width(c): return (c.high-c.low).mean()

# --- curves

@pytest.mark.parametrize('kind', ['roc','pr'])
def test_paper_and_screen_show_the_same_curve(kind, drawn):
    t = {'a': parts(), 'b': parts(seed=1, lift=.5)}
    fig,p = drawn(fig_curves(t, kind, 40)),plot_curves(t, kind, 40)
    lines = [o for o in p.data if o.name in t]
    for (k,o),p,q in zip(t.items(), fig.axes[0].lines, lines):
        want = get_curve(o, kind, 40)
        assert np.allclose(p.get_ydata(), want.y) and np.allclose(q.y, want.y) and p.get_label()==q.name==k
        assert p.get_color().lower()==q.line.color.lower()
    assert len(fig.axes[0].collections)==2 and len({o.get_color() for o in fig.axes[0].lines})==2
    assert len(fig_curves(t, kind, 0).axes[0].collections)==0

@pytest.mark.parametrize('kind', ['roc','pr'])
@pytest.mark.parametrize('label', [0,1], ids=['good only','defective only'])
def test_curves_need_both_kinds(results, kind, label):
    t = results[results.label==label].assign(group=range(30))
    with pytest.raises(ValueError, match='good and defective images, got (30 and 0|0 and 30)'): fig_curves(t, kind)

@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('kind,at', [('roc',(.2,.7)), ('pr',(.7,.9))], ids=['roc','pr'])
def test_mark_of_the_threshold(results, kind, at, drawn):
    ax = drawn(fig_curves(results, kind, 0, mark=at, title='area')).axes[0]
    assert ax.lines[-1].get_data()==([at[0]],[at[1]]) and ax.get_title(loc='left')=='area'
    assert [o.get_text() for o in ax.get_legend().texts]==['threshold in use']
    assert len(fig_curves(results, kind, 0, mark=None).axes[0].lines)==1 and fig_curves(results, kind, 0).axes[0].get_legend() is None

def test_band_is_wider_for_fewer_parts():
    assert width(get_curve(parts(30)))>2*width(get_curve(parts(300)))
    t = parts(60)
    few = get_curve(t.assign(group=np.arange(60)//6*2+t.label))
    assert width(few)>width(get_curve(t.assign(group=range(60))))

def test_pro_curve_has_the_area_of_the_metric(drawn):
    px,h,df = pixels()
    c = get_pro_curve(px, h, df, points=2001)
    assert np.isclose(np.trapezoid(c.y, c.x)/.3, px.compute()['aupro_30'], atol=1e-3) and c.x.iloc[-1]==.3
    assert ((c.low<=c.y+1e-9)&(c.y<=c.high+1e-9)).mean()>.9 and (c.high-c.low).max()>.02
    assert get_pro_curve(px).low.isna().all() and get_pro_curve(px, h, df.assign(group=df.label)).low.isna().all()
    fig = drawn(fig_curves({'m': c}, 'pro'))
    assert np.allclose(fig.axes[0].lines[0].get_ydata(), c.y) and fig.axes[0].get_xlim()==(0,.3)

@pytest.mark.parametrize('make,says', [(lambda: fig_curves(parts(), 'pro'), 'needs maps'),
    (lambda: get_pro_curve(PixelMetrics()), 'there are none'),
    (lambda: get_curve(parts().drop(columns='group')), 'lacks the column group')], ids=['table','no pixels','no group'])
def test_curves_that_cannot_be_drawn(make, says):
    with pytest.raises(ValueError, match=says): make()

# --- a point for each image

def test_points_of_the_roc():
    t = parts().sample(frac=1, random_state=0)
    p,fig = get_roc_points(t),plot_roc(t, 0)
    for o in fig.data[1:]:
        i = np.array(o.customdata, int)
        assert (t.label.to_numpy()[i]==(o.name=='defective')).all() and list(o.text)==t.path.iloc[i].tolist()
        assert np.allclose(o.x, p.x.to_numpy()[i]) and np.allclose(o.y, p.y.to_numpy()[i])
    worst = t.score.idxmax()
    assert np.isclose(p.loc[worst, ['x','y']].sum(), 1/(t.label==t.label[worst]).sum())

@pytest.mark.parametrize('chart', [plot_scores,plot_histogram,plot_roc_at], ids=lambda f: f.__name__)
def test_charts_to_click_on(chart):
    "Every image has one mark; the threshold is drawn where there is one, and only there."
    t = parts().sample(frac=1, random_state=0)
    p,bare = chart(t, 1., height=250),chart(t)
    marks = np.concatenate([np.array(o.customdata, int) for o in p.data if o.customdata is not None])
    assert sorted(marks)==list(range(len(t))) and p.layout.height==250
    assert (len(p.layout.shapes), len(p.data))!=(len(bare.layout.shapes), len(bare.data))

@pytest.mark.parametrize('chart', [plot_scores,plot_histogram], ids=lambda f: f.__name__)
@pytest.mark.parametrize('label,names', [(0,['good (45)']),(1,['crack (33)','dent (12)'])], ids=['good only','defective only'])
def test_colours_of_classes_stay(chart, label, names):
    "A class keeps its colour and mark where another is missing."
    t = parts()
    some = chart(t[t.label==label])
    assert [o.name.split()[0] for o in some.data]==[o.split()[0] for o in names]
    style = {o.name.split()[0]: (o.marker.color, o.marker.symbol) for o in chart(t).data}
    assert all(style[o.name.split()[0]]==(o.marker.color, o.marker.symbol) for o in some.data)

# --- scores

def test_scores_by_class(drawn):
    t = parts()
    c = get_class_scores(t, 1.)
    assert c.defect.tolist()==['good','crack','dent'] and c.n.sum()==len(t)
    for r in c.itertuples():
        s = t.score[t.defect==r.defect]
        assert r.above==(s>1).sum() and np.isclose(r.median, s.median())
    fig = drawn(fig_scores(t, 1.))
    assert sorted(np.concatenate([o.get_offsets()[:,0] for o in fig.axes[0].collections]))==sorted(t.score)
    assert sum(len(o.x) for o in plot_scores(t, 1.).data)==len(t) and plot_scores(t, 1.).layout.shapes[0].x0==1.

ODD = {'crack':'$\\frac{', 'dent':'a\nb\t'+'x'*200, 'hole':'<script>'}

@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('change,threshold', [(lambda t: t, 4.), (lambda t: t, None),
    (lambda t: t.assign(defect=t.defect.replace(ODD), decision=None), -1.), (lambda t: t.assign(score=np.exp(3*t.score)), 1e3),
    (lambda t: t[t.label==0], 4.), (lambda t: t[t.label==1], None)],
    ids=['threshold','no threshold','odd names','wide range','good only','defective only'])
def test_scores_of_any_kind(results, change, threshold, drawn):
    t = change(results)
    fig = drawn(fig_scores(t, threshold))
    assert len(fig.axes[0].get_yticklabels())==t.defect.nunique()
    assert fig.axes[0].get_xscale()==('log' if threshold==1e3 else 'linear')

def test_spread_of_scores(drawn):
    t = parts()
    d = describe_scores(t, 20)
    fig = drawn(fig_distributions(t, 20))
    for o,q,k in zip(fig.axes[0].patches, plot_distributions(t, 20).data, ('good','defective')):
        assert np.allclose(o.get_data().values, d['histogram'][k]) and np.allclose(q.y, d['histogram'][k])

# --- training

def test_history_on_paper_and_screen(drawn):
    h = pd.DataFrame(dict(epoch=range(4), train_loss=[4,3,2,1], valid_loss=[4,None,2,2], lr=[.1]*4))
    fig,p = drawn(fig_history(h)),plot_history(h)
    assert np.allclose(fig.axes[0].lines[1].get_ydata(), h.valid_loss.astype(float), equal_nan=True)
    assert np.allclose(p.data[0].y, h.train_loss) and fig.axes[1].lines[0].get_ydata()[0]==.1
    assert [o.name for o in p.data]==['train','valid','learning rate']

HISTORY = pd.DataFrame(dict(epoch=range(3), train_loss=[3,2,1], valid_loss=[None,2,None], lr=[1e-3]*3))

@pytest.mark.parametrize('h,lines', [(HISTORY,3),(HISTORY[:1],2),(HISTORY[['epoch','train_loss']],1),(HISTORY[['epoch']],0)],
                         ids=['gaps','one epoch','loss only','epochs only'])
def test_history_with_gaps(h, lines, drawn):
    assert len(plot_history(h).data)==sum(len(o.lines) for o in drawn(fig_history(h)).axes)==lines

# --- style

def test_style_of_figures_can_be_replaced():
    p = make_figure(300, 200, legend=dict(x=0), margin=dict(l=1))
    assert p.layout.legend.orientation is None and p.layout.margin.l==1 and p.layout.template==make_figure(None, 90).layout.template
