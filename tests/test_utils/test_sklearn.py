"The estimator keeps scikit-learn's contract; a subclass that makes an image of each row runs its checks of fitting and deciding."
import pickle, warnings

import numpy as np, pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import check_estimator, check_no_attributes_set_in_init, check_parameters_default_constructible
from sklearn.utils.validation import check_is_fitted, validate_data

from aead.config import make_config
from aead.sklearn import AnomalyEstimator

SMALL = dict(model='cnn_ae', models={'cnn_ae': {'nf': 4, 'depth': 1}}, size=16, steps=1, workers=0, bs=4, far=.3, loss={'l1': 1})

class OfRows(AnomalyEstimator):
    "Makes a picture of 16×16 pixels of each row of a table: its features are repeated, and squeezed into [0,1]."
    def __init__(self, far=.3): self.far,self.device = far,'cpu'
    def _config(self): return make_config(**{**SMALL, 'far': self.far})

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags

    def _images(self, X, reset=False):
        X = validate_data(self, X, reset=reset, dtype=float)
        X = np.tile(1/(1+np.exp(-X/4)), -(-256//X.shape[1]))[:,:256]
        return np.ascontiguousarray(X).reshape(-1,16,16)

    def fit(self, X, y=None): return super().fit(self._images(X, True))
    def fit_predict(self, X, y=None): return self.fit(X).predict(X)
    def score_samples(self, X):
        check_is_fitted(self, 'detector_')
        return super().score_samples(self._images(X))

NO_SENSE = {
    'check_fit2d_1sample': 'one image cannot be split into groups that train, choose and calibrate: the error says so in its own words',
    'check_methods_subset_invariance': 'it allows for 1e-7, and a network in float32 scores an image alone with another rounding than in a batch',
    'check_array_api_input': 'images are not handed over in arrays of other libraries than NumPy'}

def test_checks_of_scikit_learn(monkeypatch):
    monkeypatch.setenv('AEAD_PROGRESS', 'silent')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')                        # of rates that a few groups cannot guarantee
        done = check_estimator(OfRows(), expected_failed_checks=NO_SENSE, on_skip=None)
    assert not [o for o in done if o['status']=='failed']
    assert sum(o['status']=='passed' for o in done) > 40

def test_checks_of_parameters():
    for check in (check_no_attributes_set_in_init, check_parameters_default_constructible): check('AnomalyEstimator', AnomalyEstimator())
    est = AnomalyEstimator('fast', far=.1, size=64)
    assert {k: v for k,v in clone(est).get_params().items() if v is not None}=={'recipe': 'fast', 'far': .1, 'size': 64}

def test_an_image_alone_scores_as_in_a_batch(rng):
    "What takes the place of `check_methods_subset_invariance`."
    X = rng.integers(0, 256, (12,24,20), dtype=np.uint8)
    est = AnomalyEstimator(**SMALL, device='cpu').fit(X, groups=np.arange(12))
    alone = np.concatenate([est.score_samples(o[None]) for o in X])
    np.testing.assert_allclose(alone, est.score_samples(X), rtol=1e-4)
    again = pickle.loads(pickle.dumps(est))
    np.testing.assert_array_equal(again.predict(X), est.predict(X))
    assert again.offset_==est.offset_==-est.detector_.threshold

def test_groups_stay_whole_and_defects_stay_out(rng, monkeypatch):
    seen = {}
    def fit_detector(cfg, df, device, read): seen.update(df=df)
    monkeypatch.setattr('aead.sklearn.fit_detector', fit_detector)
    X = rng.integers(0, 256, (6,8,8), dtype=np.uint8)
    AnomalyEstimator(**SMALL).fit(list(X), [1,1,-1,1,1,-1], groups=[7,7,7,8,9,9])
    assert seen['df'].group.tolist()==['7','7','8','9'] and seen['df'].path.tolist()==['image 0','image 1','image 3','image 4']

@pytest.mark.parametrize('X, said', [
    ([np.zeros((8,8)), np.zeros((8,9))], 'the arrays have 2 sizes, such as 8×8 and 8×9'),
    (np.zeros((3,64)), 'reshape its rows to images'), ({'a': 1}, 'got a dict'), (np.full((9,8,8), 2.), 'must be finite and in [0,1]'),
    (np.zeros((9,8,8), int), 'accepted are bool, uint8'), ([], 'no images were given')], ids=['sizes','table','dict','range','int','empty'])
def test_bad_images_are_one_line(X, said):
    with pytest.raises(ValueError) as e: AnomalyEstimator(**SMALL).fit(X)
    assert said in str(e.value) and '\n' not in str(e.value)
