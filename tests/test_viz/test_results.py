"Figures of a detector in one line, and what notebooks show of it."
import numpy as np, pytest
from matplotlib.figure import Figure

from aead import AnomalyDetector
from aead.compare import compare_models
from aead.data.catalog import count_classes, spread_indices
from aead.data.preprocessing import read_image
from aead.exported import ExportedDetector
from aead.viz.results import get_results

from ..helpers import made_up_scores

@pytest.fixture
def test(synth): return synth[synth.split=='test'].reset_index(drop=True)

def titles(fig): return [o for o in (ax.get_title() for ax in fig.axes) if o]

def test_show_results(detector, test):
    "The scores of `predict`, masks outlined, the scale of the detector; `n` spreads over the images."
    fig = detector.show_results(test, n=3)
    assert isinstance(fig, Figure) and len(titles(fig))==3
    r = get_results(detector, test, 3)
    assert [o['path'] for o in r]==test.path.iloc[spread_indices(len(test), 3)].tolist()
    want = detector.predict([o['path'] for o in r])
    assert np.allclose([o['score'] for o in r], want.score, atol=1e-4)
    assert all(o['amap'].shape==o['image'].shape[:2]==o['recon'].shape[:2] for o in r) and fig.axes[-1].get_ylim()==(0, detector.heat_max)

def test_inputs_of_any_kind(detector, test):
    "A path, an array with long sides, which is shrunk, a list."
    image = read_image(test.path[0])
    assert len(titles(detector.show_results(test.path[0])))==1 and len(titles(detector.show_results([image, image])))==2
    big = np.kron(image[...,0], np.ones((4,20), np.float32))
    assert get_results(detector, big)[0]['amap'].shape==(77,384)
    with pytest.raises(ValueError, match='one image'): detector.explain(test.path.tolist())

def test_explain(detector, test):
    "The weighted mean of the single maps is the heat map; what was decided stands above."
    fig = detector.explain(test.path[0])
    maps,w = detector.score_maps(test.path[0]),np.array(list(detector.graph.maps.values()))
    assert titles(fig)[:3]==['image','heat map','reconstruction'] and len(titles(fig))==3+len(maps)
    mean = sum(k*m for k,m in zip(w, maps.values()))/w.sum()
    assert np.allclose(mean, detector.score_map(test.path[0]), atol=1e-3)
    assert f'threshold {detector.threshold:.3g}' in fig.get_suptitle()

def test_html_is_short_and_escaped(detector, synth):
    "Detectors and comparisons; of a catalog `count_classes` is the table."
    text = detector._repr_html_()
    assert 'cnn_ae' in text and f'{detector.threshold:.4g}' in text and 'color' not in text and '<img' not in text and len(text)<2000
    assert 'not fitted' in AnomalyDetector(model='cnn_ae')._repr_html_()
    rows = compare_models({'<b>': made_up_scores(0), 'other': made_up_scores(1)}, n=20)
    assert '&lt;b&gt;' in rows._repr_html_() and '<b>' not in rows._repr_html_() and rows==list(rows)
    assert '<table' in count_classes(synth)._repr_html_()

class _File:
    "Answers as the session of an exported file does: the brightest pixel is the score."
    def run(self, names, feed):
        x = feed['x'].mean(1)
        out = {'score': x.max((1,2)), 'amap': x, 'p_value': np.full(len(x), .5), 'defect': np.ones(len(x)), 'answer': np.full(len(x), 2)}
        return [out[k] for k in names]

def test_exported(detector, test):
    "Without reconstruction and single maps."
    ex = ExportedDetector.__new__(ExportedDetector)
    vars(ex).update(session=_File(), cfg=detector.cfg, outputs=['score','amap','p_value','defect','answer'], channels=1, hw=detector.cfg.data.hw,
                    threshold=.5, why='', heat_max=1., guaranteed=.05, n_groups=20)
    assert all(o.startswith('reject') for o in titles(ex.show_results(test, n=2))) and titles(ex.explain(test.path[0]))==['image','heat map']
    assert 'cnn_ae' in ex._repr_html_() and '0.05' in ex._repr_html_()
