"""Images in any form: what is accepted is read right, and anything else is one line that says what is accepted."""
from copy import copy

import numpy as np, pandas as pd, pytest, torch
from PIL import Image

from aead.data.inputs import as_table
from aead.data.preprocessing import read_image

from ..helpers import fails, picture, save

def read_all(data, channels=None):
    df,read = as_table(data)
    return [read(p, channels) for p in df.path]

A = picture(0, (20,24), 3)                                              # `h w c` uint8
UNIT = np.float32(A)/255
T = torch.tensor(A.transpose(2,0,1).copy())
DEEP = picture(1, (20,24), 1, np.uint16)
FLOAT = {'float64': UNIT.astype(float), 'float16': UNIT.astype('float16'), 'big-endian': UNIT.astype('>f4'),
         'mirrored': UNIT[:,::-1][:,::-1], 'not contiguous': UNIT.transpose(1,0,2).copy().transpose(1,0,2)}

@pytest.mark.parametrize('a', [A, *FLOAT.values(), Image.fromarray(A), T, T/255, T.double()/255, (T/255).half(),
                               (T/255).bfloat16(), (T/255).requires_grad_(), T[None], A[None], [A], (A,), iter([A])],
                         ids=['uint8', *FLOAT, 'PIL', 'tensor', 'float tensor', 'double tensor', 'half tensor', 'bfloat16 tensor',
                              'with gradient', 'n c h w', 'n h w c', 'list', 'tuple', 'generator'])
def test_one_image_in_many_forms(a):
    x, = read_all(a)
    assert x.dtype==np.float32 and x.flags.c_contiguous and np.abs(x-UNIT).max() < .004

@pytest.mark.parametrize('a', [DEEP, DEEP.astype('>u2'), DEEP[...,None], Image.fromarray(DEEP), torch.tensor(DEEP)[None], torch.tensor(DEEP)],
                         ids=['h w', 'big-endian', 'h w 1', 'PIL I;16', '1 h w', 'tensor h w'])
def test_sixteen_bits(a):
    x, = read_all(a)
    assert x.shape==(20,24,1) and np.allclose(x[...,0], DEEP/65535, atol=1e-6)

def test_bool_is_black_and_white():
    m = DEEP>30000
    for o in (m, torch.tensor(m), Image.fromarray(m)): assert np.array_equal(read_all(o)[0][...,0], m)

@pytest.mark.parametrize('mode', ['1','L','P','LA','RGBA','CMYK','YCbCr','HSV'])
@pytest.mark.parametrize('turn', [1,3,6,8])
def test_a_pil_image_is_read_as_its_file(mode, turn, tmp_path):
    im = Image.fromarray(A).convert(mode)
    keeps = mode in ('1','L','P','LA','RGBA')
    exif = Image.Exif()
    exif[274] = turn
    (im if keeps else im.convert('RGB')).save(tmp_path/'a.png', exif=exif)
    got = Image.open(tmp_path/'a.png') if keeps else im
    if not keeps: got.getexif()[274] = turn
    assert np.array_equal(read_all(got)[0], read_image(tmp_path/'a.png'))

def test_hidden_pixels_are_refused_or_asked_for():
    a = np.dstack([A, np.full(A.shape[:2], 255, np.uint8)])
    a[3,3,3] = 0
    assert 'transparent pixels' in fails(lambda: read_all(Image.fromarray(a)))
    assert read_all(Image.fromarray(a), 4)[0].shape==(20,24,4)

def test_a_broken_pil_image_is_one_line(tmp_path):
    save(tmp_path/'a.png', picture(0, (200,200)))
    (tmp_path/'half.png').write_bytes((tmp_path/'a.png').read_bytes()[:9000])
    assert 'PIL image cannot be read' in fails(lambda: as_table(Image.open(tmp_path/'half.png')))

def test_paths_and_images_in_one_list(tmp_path):
    files = [str(save(tmp_path/'set'/f'{i}.png', picture(i))) for i in range(2)]
    for data in ([tmp_path/'set', A, Image.fromarray(A), T], (o for o in (tmp_path/'set', A, A, A))):
        df,read = as_table(data)
        assert df.path.tolist()==[*files,'image 1','image 2','image 3']
        assert np.array_equal(read(files[1]), read_image(files[1])) and np.allclose(read('image 3'), UNIT)
    for data in (np.array(files), np.array(files, object), pd.Series(files, index=[7,9])):
        assert as_table(data)[0].path.tolist()==files

def test_bands_are_channels_and_stacks_are_refused():
    assert read_all(np.zeros((20,24,7)))[0].shape==(20,24,7) and read_all(torch.zeros(2,16,20,24))[0].shape==(20,24,16)
    assert read_all(np.zeros((5,4,3)))[0].shape==(5,4,3)
    for a in (np.zeros((9,64,64)), np.zeros((5,3,64,64)), np.zeros((20,24,17)), np.zeros((20,12,14))):
        assert f'shape {a.shape}' in fails(lambda a=a: as_table(a)) and '`n h w 1`' in fails(lambda a=a: as_table(a))
    for t in (torch.zeros(40,64,64), torch.zeros(5,64,64,3)): assert '`n 1 h w`' in fails(lambda t=t: as_table(t))

WRONG = {'uint32': (A.astype('uint32'), 'pixels are uint32'), 'uint64': (A.astype('uint64'), 'pixels are uint64'),
         'int64': (A.astype(int), 'pixels are int64'), 'int8': (np.zeros((9,9), 'int8'), 'pixels are int8'),
         'int tensor': (T.int(), 'pixels are int32'), 'complex': (A.astype(complex), 'pixels are complex128'),
         'floats to 255': (A.astype(float), 'in [0,1], got values from'), 'NaN': (UNIT*np.nan, 'must be finite'),
         'objects': (np.full((4,4), None), 'pixels are object'), 'texts': (np.full((4,4), 'a'), 'pixels are <U1'),
         'masked': (np.ma.masked_less(UNIT, .3), 'has masked pixels'), 'PIL I': (Image.new('I', (9,9)), 'pixels are int32'),
         'PIL F': (Image.new('F', (9,9), 7), 'in [0,1], got values from 7 to 7'),
         'no pixels': (np.zeros((0,9)), 'holds no pixels'), 'no images': (np.zeros((0,9,9,3)), 'holds no pixels'),
         'no channels': (torch.zeros(0,9,9), 'holds no pixels'), '0-d': (np.array(.5), 'is no image'),
         '1-d': (np.zeros(9), 'is no image'), '5-d': (np.zeros((1,1,9,9,3)), 'is no image'),
         'empty list': ([], 'no images were given'), 'empty table': (pd.DataFrame({'path': []}), 'no images were given'),
         'batch in a list': ([A, np.stack([A,A])], 'image 1 of the list holds 2 images'), 'empty text': ('', 'an empty path'), 'long text': ('a'*5000, 'aaa…: File name too long'),
         'sparse': (T.float().to_sparse(), 'this tensor cannot be read'), 'no path': (pd.DataFrame({'file': ['a']}), "the column 'path'")}

@pytest.mark.parametrize('data,text', WRONG.values(), ids=WRONG)
def test_what_is_refused(data, text):
    assert text in fails(lambda: as_table(data))

NOT_IMAGES = {'None': None, 'number': 3, 'dict': {'a': A}, 'bytes': b'abc', 'set': {'a.png'}, 'nested list': [[.1,.2],[.3,.4]],
              'numbers': [1,2], 'None in a list': [A,None], 'pairs': [(A,0)], 'function': len}

@pytest.mark.parametrize('data', NOT_IMAGES.values(), ids=NOT_IMAGES)
def test_what_is_no_image(data):
    text = fails(lambda: as_table(data), TypeError)
    assert all(o in text for o in ('accepted are','`h w c`','`n c h w`','PIL image'))

def test_a_table_says_only_what_is_known(tmp_path):
    t = pd.DataFrame({'path': ['a.png','b.png','c.png'], 'group': ['g',None,''], 'mask': [None,'',np.nan]}, index=[4,5,6])
    got = as_table(t)[0]
    assert got.group.tolist()==['g','b.png','c.png'] and got['mask'].tolist()==['','',''] and got.label.tolist()==[0,0,0]
    for wrong in ('', None, 3.5): assert '1 of 2 rows have no path' in fails(lambda w=wrong: as_table(pd.DataFrame({'path': ['a.png',w]})))

# --- the doors of a detector

def own(detector, n):
    "Images that a detector can score, `n h w c` uint8."
    c = detector.graph.model.settings['ni']
    return np.stack([picture(i, (40,48), c).reshape(40,48,c) for i in range(n)])

def test_every_door_takes_the_same_forms(detector):
    xs,det = own(detector, 6),copy(detector)
    forms = [xs, list(xs), (o for o in xs), torch.tensor(xs.transpose(0,3,1,2).copy()), [Image.fromarray(o.squeeze()) for o in xs]]
    want = detector.predict(xs).score
    for data in forms: assert np.allclose(detector.predict(data).score, want, atol=1e-5)
    assert np.allclose(detector.score_map(Image.fromarray(xs[0].squeeze())), detector.score_map(xs[0]), atol=1e-4)
    det.calibrate([Image.fromarray(o.squeeze()) for o in xs], far=.3)
    assert np.allclose(det.calibration.scores, np.sort(want), atol=1e-5)

def test_every_door_refuses_in_one_line(detector):
    from aead.detector import AnomalyDetector
    wrong,new = own(detector, 6).astype('uint32'),AnomalyDetector(model='cnn_ae', size=32, device='cpu')
    new._detector = copy(detector)
    for f in (detector.predict, detector.score_map, copy(detector).calibrate, new.fit, new.predict, new.score_map, new.calibrate):
        assert 'pixels are uint32' in fails(lambda f=f: f(wrong))
        assert 'accepted are' in fails(lambda f=f: f([1]), TypeError)

def test_a_file_that_vanishes_is_skipped_or_said(detector, tmp_path):
    c = detector.graph.model.settings['ni']
    files = [save(tmp_path/f'{i:02d}.png', picture(i, (40,48), c)) for i in range(40)]
    (tmp_path/'05.png').write_bytes(files[5].read_bytes()[:60])
    class Paths(list):
        def __iter__(self):
            yield from super().__iter__()
            files[-1].unlink()                                              # after the list was taken
    t = detector.predict(Paths(files), errors='skip')
    assert t.score.isna().to_numpy().nonzero()[0].tolist()==[5,39] and t.decision.isna().sum()==2
    assert '05.png: not a readable image' in t.error[5] and '39.png: no such file' in t.error[39] and set(t.error[:5])=={''}
    assert '05.png' in fails(lambda: detector.predict(tmp_path)) and 'error' not in detector.predict(files[:5])
    assert detector.predict([tmp_path/'05.png'], errors='skip').score.isna().all()
    assert "errors is 'raise' or 'skip', got None" in fails(lambda: detector.predict(tmp_path, errors=None))
