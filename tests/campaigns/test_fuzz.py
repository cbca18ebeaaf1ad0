"Fuzz: broken settings, tables, images, masks, run folders and arrays give a right result or one line; nothing in them is executed."
import contextlib, copy, io, json, os, pickle, resource, shutil, warnings

import cv2, numpy as np, pytest, tifffile, torch, yaml
from PIL import Image

pytest.importorskip('hypothesis', reason='the fuzz campaign needs hypothesis')
from hypothesis import HealthCheck, given, settings as rules, strategies as st

import aead.cli as cli, aead.runs.train as train_module
from aead.config import config_from_dict
from aead.data.preprocessing import read_image, read_mask
from aead.detect import fit_detector, load_detector, validate

from ..conftest import make_cfg
from ..helpers import dent, make_layout, picture
from .campaign import pick, settings, tally
from .child import address_space

refusals = (ValueError, KeyError, FileNotFoundError, TypeError)

def cases(short, long):
    "Rules of Hypothesis for so many cases, the same ones each time."
    return rules(max_examples=pick(short, long), deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))

# -- what is right

def message_of(e): return str(e.args[0]) if e.args else ''

def check_refusal(t, e, case, *names):
    "An error of the right kind, whose message is one line and has one of the names in it."
    text = message_of(e)
    t.refused += 1
    t.check(isinstance(e, refusals), f'{type(e).__name__}: {text[:150]!r}: {case}')
    t.check('\n' not in text and 0 < len(text) < 800, f'not one line: {text[:200]!r}: {case}')
    if names: t.check(any(str(o).lower() in text.lower() for o in names), f'does not name {names[0]}: {text[:200]!r}: {case}')

def call(*argv):
    "Status and output of a command in this process; an exception counts as a traceback."
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try: status = cli.main([str(o) for o in argv]) or 0
        except SystemExit as e: status = e.code or 0
        except Exception as e: return 1, f'{type(e).__name__}: {e}'
    return status, said.getvalue()

def check_command(t, status, text, name, case):
    "Status 0, or 2 and one line of the command."
    mine = [o for o in text.splitlines() if o.startswith(f'aead {name}: ')]
    good = status==0 or (status==2 and len(mine)==1 and len(mine[0])<800)
    t.refused += status==2
    t.check(good, f'status {status}, {text.strip()[-250:]!r}: {case}')

@contextlib.contextmanager
def bounded(more=4*2**30):
    "The process may take so many bytes more; a broken header cannot ask for all of the memory."
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (address_space()+more, old[1]))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_AS, old)

# -- settings

junk = st.one_of(st.none(), st.booleans(), st.sampled_from([-1,0,1,2,3,5,7,16,31,32,33,48,64]), st.sampled_from([-.5,0.,.25,.5,1.,1.5,float('nan'),float('inf')]),
                 st.sampled_from(['','32','l1','cnn_ae','best','a\nb','../x','é']), st.just([]), st.just({}), st.lists(st.integers(-1, 40), max_size=3),
                 st.dictionaries(st.sampled_from(['l1','nf','size','x']), st.integers(-1, 8), max_size=2))

def places(d, at=()):
    "Where a value of nested settings can be changed."
    for k,v in d.items():
        yield (*at, k)
        if isinstance(v, dict): yield from places(v, (*at, k))

base = settings('cnn_ae')
base['models'] = {'cnn_ae': {'nf': 8, 'depth': 2}}
base['data'] |= {'resize': 'stretch', 'fill': 'black', 'tile': None, 'channels': None, 'split': 'auto', 'fold': 0, 'kinds': None}
base['train'] |= {'wd': .01, 'ema': .99, 'clip': 1., 'warmup': .3, 'seed': 0, 'trim': 0., 'steps': None, 'copies': None, 'crop': 64}
base['detect'] |= {'maps': {'l1': 1}, 'sigma': 1, 'pool': 'max', 'top': .01, 'inspect': None, 'units': 'spread', 'pixels': 'model'}
change = st.tuples(st.sampled_from([*places(base)]), st.sampled_from(['set','set','set','drop','add','rename']), junk)

def changed(changes):
    "Settings with some values changed, dropped, added or misspelt."
    d = copy.deepcopy(base)
    for at,how,value in changes:
        o = d
        for k in at[:-1]: o = o.get(k) if isinstance(o, dict) else None
        if not isinstance(o, dict) or at[-1] not in o: continue
        if how=='set': o[at[-1]] = value
        elif how=='drop': del o[at[-1]]
        elif how=='add': o['extra'] = value
        else: o[at[-1]+'x'] = o.pop(at[-1])
    return d

def test_settings():
    with tally('fuzz', 'settings') as t, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        @cases(20, 300)
        @given(st.lists(change, min_size=1, max_size=3))
        def one(changes):
            t.add()
            d = changed(changes)
            try:
                with bounded(): validate(config_from_dict(d))
            except Exception as e:
                names = {str(o) for at,how,v in changes for o in (*at, v, 'extra')}
                check_refusal(t, e, changes, *names)
        one()

class _Reached(BaseException): "Settings, table and images were right: training would begin."

@pytest.fixture
def no_training(monkeypatch):
    "Commands stop where training would begin; the list holds the tables they would train on."
    tables = []
    def stop(cfg, df, *a, **k):
        tables.append(df)
        raise _Reached
    monkeypatch.setattr(train_module, 'train_detector', stop)
    return tables

def try_training(t, case, *args):
    "Whether a training would begin; else it is refused well."
    try: status,text = call('train', *args, '--device', 'cpu')
    except _Reached: return True
    t.check(status!=0, f'no training, and status 0: {case}')
    check_command(t, status, text, 'train', case)
    return False

tags = ['!!python/object/apply:os.system ["touch BOMB"]', '!!python/name:os.system', '!!python/object/new:os.system ["touch BOMB"]', '&a [*a]', '- 1', '"', '\x00', '\ud7ff', '%YAML 9']
edit = st.tuples(st.sampled_from(['cut','flip','put']), st.floats(0, 1), st.integers(0, 7), st.sampled_from(tags))

def edited(raw, edits):
    "Bytes that were cut, in which bits were flipped, or a text was put."
    for how,at,bit,tag in edits:
        if not raw: break
        i = min(int(at*len(raw)), len(raw)-1)
        if how=='cut': raw = raw[:i]
        elif how=='flip': raw = raw[:i]+bytes([raw[i]^1<<bit])+raw[i+1:]
        else: raw = raw[:i]+tag.encode()+raw[i:]
    return raw

def test_settings_files(tmp_path, monkeypatch, no_training, few_parts):
    monkeypatch.chdir(tmp_path)
    raw = yaml.safe_dump(settings('cnn_ae')).encode()
    with tally('fuzz', 'files of settings') as t:
        @cases(4, 120)
        @given(st.lists(edit, min_size=1, max_size=3))
        def one(edits):
            t.add()
            (tmp_path/'s.yaml').write_bytes(edited(raw, edits))
            with bounded(): try_training(t, edits, '--config', tmp_path/'s.yaml', '--data', few_parts, '--out', tmp_path/'out')
            shutil.rmtree(tmp_path/'out', ignore_errors=True)
            t.check(not os.path.exists('BOMB'), f'executed: {edits}')
        one()

# -- tables

@pytest.fixture(scope='module')
def few_parts(tmp_path_factory): return make_layout(tmp_path_factory.mktemp('few'), 'csv', bad=2)

cell = st.sampled_from(['', '0', '1', '2', '-1', '0.0', 'nan', 'good', 'train', 'cal', 'test', 'x', '../x.png', '/etc/passwd', '"', 'a,b', 'é', '\x00', '=1+1', ' ', 'images/000.png', '!!python/name:os.system'])
table_edit = st.one_of(
    st.tuples(st.just('cell'), st.integers(0, 32), st.integers(0, 4), cell), st.tuples(st.just('column'), st.integers(0, 4), st.sampled_from(['drop','rename','twice','blank','swap'])),
    st.tuples(st.just('rows'), st.integers(0, 32), st.sampled_from(['twice','gone','short','long'])), st.tuples(st.just('text'), st.sampled_from([';','\t',' , ','utf-16','latin-1','bom','crlf','cr','empty','head','half'])))

def table_text(rows, edits):
    "Bytes of a table with changed cells, columns, rows or text."
    rows,coded = [list(o) for o in rows],'utf-8'
    texts = [o[1] for o in edits if o[0]=='text']
    for kind,i,*rest in edits:
        if kind=='cell' and i<len(rows) and rest[0]<len(rows[i]): rows[i][rest[0]] = rest[1]
        elif kind=='column':
            for r in rows: _edit_column(r, i, rest[0], r is rows[0])
        elif kind=='rows' and 0<i<len(rows): rows[i:i+1] = {'twice': [rows[i]]*2, 'gone': [], 'short': [rows[i][:2]], 'long': [[*rows[i], 'more']]}[rest[0]]
    sep = next((o for o in texts if o in (';','\t',' , ')), ',')
    text = '\n'.join(sep.join(o) for o in rows)+'\n'
    for o in texts:
        text = {'crlf': text.replace('\n', '\r\n'), 'cr': text.replace('\n', '\r'), 'empty': '', 'head': text.split('\n')[0], 'half': text[:len(text)//2]}.get(o, text)
        coded = {'utf-16': 'utf-16', 'latin-1': 'latin-1', 'bom': 'utf-8-sig'}.get(o, coded)
    return text.encode(coded, 'replace')

def _edit_column(r, i, how, head):
    if i>=len(r): return
    if how=='drop': del r[i]
    elif how=='rename' and head: r[i] = r[i].upper()
    elif how=='twice': r.insert(i, r[i])
    elif how=='blank' and not head: r[i] = ''
    elif how=='swap': r[0],r[i] = r[i],r[0]

def test_tables(tmp_path, no_training, few_parts):
    rows = [o.split(',') for o in (few_parts/'catalog.csv').read_text().split()]
    data = tmp_path/'data'
    shutil.copytree(few_parts, data)
    with tally('fuzz', 'tables') as t:
        @cases(10, 200)
        @given(st.lists(table_edit, min_size=1, max_size=3))
        def one(edits):
            t.add()
            (data/'catalog.csv').write_bytes(table_text(rows, edits))
            if try_training(t, edits, '--data', data, '--layout', 'csv', '--out', tmp_path/'out', '--size', 32, '--model', 'cnn_ae', '--far', .4):
                df = no_training[-1]
                t.check(not df.label[df.split=='train'].any(), f'trains on defective images: {edits}')
                t.check(df.path.map(os.path.isfile).all() and df.path.is_unique, f'trains on {df.path.iloc[0]}: {edits}')
            shutil.rmtree(tmp_path/'out', ignore_errors=True)
        one()

# -- images and masks

def _pillow(a, kind, **kw):
    f = io.BytesIO()
    Image.fromarray(a).save(f, kind, **kw)
    return f.getvalue()

def _tiff(a, **kw):
    f = io.BytesIO()
    tifffile.imwrite(f, a, **kw)
    return f.getvalue()

rgb,grey = picture(1, (20,24), 3),picture(2, (20,24))
IMAGES = {'png': _pillow(rgb, 'PNG'), 'png grey': _pillow(grey, 'PNG'), 'png 16 bit': cv2.imencode('.png', picture(3, (20,24), 1, np.uint16))[1].tobytes(),
          'png palette': _pillow(grey, 'GIF') and (lambda f: (Image.fromarray(rgb).convert('P').save(f, 'PNG'), f.getvalue())[1])(io.BytesIO()),
          'jpeg': _pillow(rgb, 'JPEG'), 'jpeg grey': _pillow(grey, 'JPEG'), 'bmp': _pillow(rgb, 'BMP'), 'webp': _pillow(rgb, 'WEBP'),
          'tiff': _pillow(rgb, 'TIFF'), 'tiff 16 bit': _tiff(picture(3, (20,24), 1, np.uint16)), 'tiff float': _tiff(picture(4, (20,24), 1, np.float32)),
          'tiff zlib': _tiff(rgb, compression='zlib', photometric='rgb'), 'tiff of 5 channels': _tiff(picture(5, (20,24), 5), photometric='minisblack', planarconfig='contig')}
endings = {'png': '.png', 'jpeg': '.jpg', 'bmp': '.bmp', 'webp': '.webp', 'tiff': '.tif'}
harm = st.one_of(st.tuples(st.just('cut'), st.floats(0, .99)), st.tuples(st.just('flip'), st.floats(0, 1), st.integers(0, 7)), st.tuples(st.just('head'), st.integers(0, 60), st.integers(0, 255)),
                 st.tuples(st.just('ending'), st.sampled_from([*endings.values(), '.PNG'])), st.just(('empty',)), st.just(('text',)), st.just(('pickle',)), st.just(('none',)))

class _Bomb:
    def __reduce__(self): return os.mkdir, ('BOMB',)

def harmed(kind, harms):
    "Bytes and ending of an image file, harmed."
    raw,end = IMAGES[kind],endings[kind.split()[0]]
    for how,*o in harms:
        if how=='cut': raw = raw[:int(o[0]*len(raw))]
        elif how=='flip' and raw: raw = edited(raw, [('flip', o[0], o[1], '')])
        elif how=='head' and len(raw)>o[0]: raw = raw[:o[0]]+bytes([o[1]])+raw[o[0]+1:]
        elif how=='ending': end = o[0]
        elif how in ('empty','text','pickle'): raw = {'empty': b'', 'text': b'no image\n'*9, 'pickle': pickle.dumps(_Bomb())}[how]
    return raw, end

def test_images(tmp_path, monkeypatch, detector, few_parts):
    monkeypatch.chdir(tmp_path)
    detector.save(tmp_path/'run')
    shutil.copy(few_parts/'images'/'000.png', tmp_path/'whole.png')
    with tally('fuzz', 'images and masks') as t, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        @cases(15, 300)
        @given(st.sampled_from([*IMAGES]), st.lists(harm, min_size=1, max_size=2))
        def one(kind, harms):
            t.add()
            raw,end = harmed(kind, harms)
            case = f'{kind} {harms}'
            shutil.rmtree('new', ignore_errors=True)
            os.mkdir('new')
            file = tmp_path/'new'/f'harmed{end}'
            file.write_bytes(raw)
            shutil.copy('whole.png', 'new/whole.png')
            with bounded():
                check_pixels(t, file, case, raw)
                check_mask(t, file, case)
                check_score(t, case)
            t.check(not os.path.exists('BOMB'), f'executed: {case}')
        one()

def check_pixels(t, file, case, raw):
    "Pixels in [0,1], or a line that names the file; half a file is not an image."
    try: x = read_image(file)
    except Exception as e: return check_refusal(t, e, case, file.name)
    t.check(x.ndim==3 and x.dtype==np.float32 and np.isfinite(x).all() and x.min()>=0 and x.max()<=1, f'pixels {x.shape} {x.dtype}: {case}')
    t.check(len(raw) > .4*min(map(len, IMAGES.values())), f'read from {len(raw)} bytes: {case}')

def check_mask(t, file, case):
    try: m = read_mask(file, (20,24))
    except Exception as e: return check_refusal(t, e, case, file.name)
    t.check(m.shape==(20,24) and set(np.unique(m)) <= {0,1}, f'mask {m.shape}: {case}')

def check_score(t, case):
    "The whole image beside the harmed one is scored, and each has a row."
    status,text = call('score', '--run', 'run', '--input', 'new', '--out', 's.csv', '--device', 'cpu')
    check_command(t, status, text, 'score', case)
    if status: return
    with open('s.csv') as f: t.check(len(f.readlines())==3, f'rows are missing: {case}')

# -- run folders

json_junk = st.sampled_from([None, True, -1, 0, 1e308, 'x', [], {}, [None], ['a'], {'a': 1}])
file_harm = st.one_of(st.tuples(st.just('cut'), st.floats(0, .99)), st.tuples(st.just('flip'), st.floats(0, 1), st.integers(0, 7)), st.tuples(st.just('json'), st.integers(0, 30), json_junk),
                      st.sampled_from([('gone',), ('other',), ('pickle',), ('empty',), ('folder',), ('text',), ('yaml',)]))
run_files = ['config.yaml','resolved.yaml','model.safetensors','calibration.json','catalog.csv','scores.csv','metrics.json','history.csv','curves.csv']

def harm_file(file, other, how, *o):
    "Harms one file of a run."
    raw = file.read_bytes()
    file.unlink()
    if how=='gone': return
    if how=='folder': return file.mkdir()
    if how=='cut': raw = raw[:int(o[0]*len(raw))]
    elif how=='flip': raw = edited(raw, [('flip', *o, '')])
    elif how=='json' and file.suffix in ('.json','.yaml'):
        d = yaml.safe_load(raw)
        at = [*places(d)][o[0]%len([*places(d)])]
        last = d
        for k in at[:-1]: last = last[k]
        last[at[-1]] = o[1]
        raw = (json.dumps if file.suffix=='.json' else yaml.safe_dump)(d).encode()
    else: raw = {'other': (other/file.name).read_bytes(), 'pickle': pickle.dumps(_Bomb()), 'empty': b'', 'text': b'no,such\nfile\n', 'yaml': (tags[0]+'\n').encode()}.get(how, raw)
    file.write_bytes(raw)

COMMANDS = {'score': 'score --run run --input new --out s.csv', 'calibrate': 'calibrate --run run --far 0.3', 'compare': 'compare --runs run,second --by run',
            'evaluate': 'evaluate --run run --out elsewhere', 'resume': 'train --out run --resume', 'export': 'export --run run --out m.onnx'}
quick = st.sampled_from(['score','score','calibrate','compare'])
slow = st.sampled_from(['score','score','score','calibrate','compare','compare','evaluate','resume','export'])

def test_run_folders(tmp_path, monkeypatch, finished):
    (_,ref,_),(_,other,_) = finished('cnn_ae'),finished(pick('cnn_ae', 'resnet_ae'))
    monkeypatch.chdir(tmp_path)
    os.mkdir('new')
    cv2.imwrite('new/a.png', dent(1)[0])
    shutil.copytree(other, 'second', ignore=shutil.ignore_patterns('maps'))
    with tally('fuzz', 'run folders') as t, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        @cases(6, 200)
        @given(st.sampled_from(run_files), file_harm, pick(quick, slow))
        def one(name, how, command):
            t.add()
            case = f'{command} with {name} {how}'
            for o in ('run','elsewhere'): shutil.rmtree(o, ignore_errors=True)
            shutil.copytree(ref, 'run', ignore=None if command in ('evaluate','compare','resume') else shutil.ignore_patterns('maps','metrics.json','report.html'))
            file = tmp_path/'run'/name
            if file.exists(): harm_file(file, other, *how)
            device = () if command in ('compare','export') else ('--device','cpu')
            with bounded(): status,text = call(*COMMANDS[command].split(), *device)
            check_command(t, status, text, COMMANDS[command].split()[0], case)
            t.check(not os.path.exists('BOMB'), f'executed: {case}')
            if status==0 and command=='score': check_row(t, case)
        one()

def check_row(t, case):
    "One row with finite numbers."
    with open('s.csv') as f: rows = [o.split(',') for o in f.read().splitlines()]
    good = len(rows)==2 and np.isfinite(float(rows[1][1])) and 0 <= float(rows[1][2]) <= 1
    t.check(good, f'{rows[1:]}: {case}')

def test_a_calibration_of_another_run_is_refused(tmp_path, detector, synth):
    detector.save(tmp_path/'run')
    other = fit_detector(make_cfg(train=dict(seed=1, epochs=1)), synth, 'cpu')
    other.save(tmp_path/'other')
    shutil.copy(tmp_path/'other'/'calibration.json', tmp_path/'run')
    with pytest.raises(ValueError, match='calibration.json'): load_detector(tmp_path/'run', 'cpu')

# -- arrays

dtypes = ['uint8','uint16','uint32','int8','int32','int64','float16','float32','float64','bool','complex64','object','U3']
shapes = st.one_of(st.lists(st.sampled_from([0,1,2,3,4,5,16,32,48]), max_size=5).map(tuple), st.sampled_from([(32,32),(32,32,3),(2,32,32,3),(3,32,32),(1,32,32),(4,32,32),(1,3,32,32)]))
values = st.sampled_from([0, .5, 1, 255, -1, float('nan'), float('inf'), 1e30])
forms = st.sampled_from(['array','array','tensor','list','nested','generator','pillow','bfloat16'])

def made(form, dtype, shape, value):
    "An array, or what can be made of it."
    with np.errstate(all='ignore'):
        a = np.full(shape, value).astype(dtype) if dtype not in ('object','U3') else np.full(shape, value, dtype)
    if form=='tensor': return torch.from_numpy(a) if dtype not in ('object','U3','uint16','uint32') else a
    if form=='bfloat16': return torch.full(shape, value, dtype=torch.bfloat16)
    if form=='list': return [a, a]
    if form=='nested': return a.tolist()
    if form=='generator': return (o for o in (a, a))
    if form=='pillow' and a.ndim==2 and a.size and dtype in ('uint8','bool','float32','int32'): return Image.fromarray(a)
    return a

def test_arrays(tmp_path, detector):
    detector.save(tmp_path/'run')
    det = load_detector(tmp_path/'run', 'cpu')
    with tally('fuzz', 'arrays') as t, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        @cases(12, 200)
        @given(forms, st.sampled_from(dtypes), shapes, values)
        def one(form, dtype, shape, value):
            t.add()
            how = form,dtype,shape,value
            data = made(*how)
            try: res = det.predict(data)
            except Exception as e: return check_refusal(t, e, how)
            t.check(len(res)>0 and np.isfinite(res.score).all() and res.p_value.between(0, 1).all(), f'{res}: {how}')
            t.check(how[1] not in ('complex64','U3') or how[0]=='bfloat16', f'complex numbers or texts are scored: {how}')
            t.check(np.isfinite(how[3]), f'{how[3]} is scored: {how}') if how[1].startswith('float') and how[0]!='nested' else None
        one()
