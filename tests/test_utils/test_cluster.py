"Scoring by a cluster: the scores of the detector, whatever happens to a worker; what cannot be done is said in one line."
import os, signal, sys, zipfile
from pathlib import Path

import numpy as np, pandas as pd, pytest

pytest.importorskip('ray')
pytest.importorskip('pyarrow')

from aead import cluster
from aead.cli import run_command
from aead.cluster import connect_ray, ImageSource, read_scores, score_dataset, ScoreFolder

from ..helpers import check_error

@pytest.fixture(scope='module')
def run(detector, tmp_path_factory):
    "The run folder of a tiny detector."
    path = tmp_path_factory.mktemp('cluster')/'run'
    detector.save(path)
    return path

@pytest.fixture(scope='module')
def images(synth): return synth.path[synth.split=='test'].tolist()

@pytest.fixture(scope='module')
def two_workers():
    "A cluster of two cores on this machine."
    before,own = cluster._ray_options,{'num_cpus': 2, 'object_store_memory': 80*2**20}
    with pytest.MonkeyPatch.context() as m:
        m.setattr(cluster, '_ray_options', lambda address: {**before(address), **own})
        with connect_ray(): yield

def actors():
    "Processes of this test's cluster that score."
    import psutil
    there = psutil.Process().children(recursive=True)
    return [o for o in there if o.status()!=psutil.STATUS_ZOMBIE and 'MapWorker' in ''.join(o.cmdline())]

def agree(found, want):
    "Two tables say the same of the same images."
    assert found.path.tolist()==want.path.tolist()
    assert np.allclose(found.score, want.score, atol=1e-5, equal_nan=True)
    assert np.allclose(found.p_value, want.p_value, atol=1e-6, equal_nan=True)
    assert np.allclose(found.kind_p, want.kind_p, atol=1e-6, equal_nan=True)
    for k in ('decision','odd'): assert found[k].astype('Int64').equals(want[k].astype('Int64')), k
    assert found.answer.fillna('').tolist()==want.answer.fillna('').tolist()
    assert found.error.tolist()==want.error.tolist()

def test_a_killed_worker_loses_nothing(run, images, detector, two_workers, tmp_path, monkeypatch):
    (tmp_path/'bad.png').write_bytes(b'no image')
    names = [*images[:9], str(tmp_path/'bad.png'), *images[9:], str(tmp_path/'gone.png')]
    (tmp_path/'list.txt').write_text('\n'.join(names))
    write,killed = ScoreFolder.write,[]
    def kill_one(self, name, data):
        write(self, name, data)
        if killed or not name.startswith('part-'): return
        killed.append(actors()[0])
        os.kill(killed[0].pid, signal.SIGKILL)
    monkeypatch.setattr(ScoreFolder, 'write', kill_one)
    res = score_dataset(run, tmp_path/'list.txt', tmp_path/'out', actors=2, part=2)
    assert killed and not killed[0].is_running()
    want = detector.predict(pd.DataFrame({'path': names}), errors='skip')
    agree(pd.concat(read_scores(tmp_path/'out'), ignore_index=True), want)
    assert (res.images, res.before, res.unreadable)==(len(names), 0, 2) and res.flagged==(want.decision==1).sum()
    assert 'bad.png' in res.error or 'gone.png' in res.error

def test_an_exported_file_an_archive_and_a_stop(run, images, two_workers, tmp_path, monkeypatch):
    pytest.importorskip('onnxscript')
    from aead.export import export_run
    from aead.exported import load_exported
    file,archive = tmp_path/'m.onnx',tmp_path/'images.zip'
    export_run(run, file, 2)
    with zipfile.ZipFile(archive, 'w') as z:
        for i,o in enumerate(images[:12]): z.write(o, f'line/{i}{Path(o).suffix}')
    write,written = ScoreFolder.write,[]
    def stop(self, name, data):
        if len(written)==3: raise KeyboardInterrupt
        written.append(name)
        write(self, name, data)
    source,out = f'zip://line::file://{archive}','memory://scores-of-an-archive'
    monkeypatch.setattr(ScoreFolder, 'write', stop)
    with pytest.raises(KeyboardInterrupt): score_dataset(file, source, out, actors=1, part=4)
    assert written[0]=='manifest.json' and len(ScoreFolder(out).done())==2
    check_error(lambda: list(read_scores(out)), ValueError, '1 of 3 parts are missing')
    monkeypatch.setattr(ScoreFolder, 'write', lambda self, name, data: (written.append(name), write(self, name, data)))
    res = score_dataset(file, source, out, actors=1)                            # parts of the size that was begun
    assert (res.images, res.before, len(written))==(12, 8, 4) and len(set(written))==4
    found,want = pd.concat(read_scores(out), ignore_index=True),load_exported(file).predict(images[:12], errors='skip')
    assert found.path.tolist()==[f'zip://line/{i}{Path(o).suffix}' for i,o in enumerate(images[:12])]
    agree(found, want.assign(path=found.path))
    check_error(lambda: score_dataset(run, source, out), ValueError, 'another run or file')

# --- what cannot be done, before any cluster is asked

def refusal(capsys, *args):
    "The one line of a command that ends with 2."
    assert run_command('score', [*map(str, args), '--engine', 'ray'])==2
    lines = capsys.readouterr().err.strip().splitlines()
    return [o for o in lines if not o.startswith(('warning:','loading'))][-1]

CASES = { # options in place of the good ones, and parts of what is said
    'empty folder': ({'input': '{}/empty'}, 'no images in', 'empty'),
    'nothing there': ({'input': '{}/none'}, 'no image, folder or list at'),
    'empty list': ({'input': '{}/empty.txt'}, 'no images in'),
    'package missing': ({'input': 's3://bucket/images'}, 's3://bucket/images', 's3fs'),
    'package missing in a list': ({'input': '{}/s3.txt'}, 's3fs'),
    'package missing for the output': ({'out': 's3://bucket/scores'}, 's3fs'),
    'kind unknown': ({'out': 'nonesuch://bucket'}, 'nonesuch://bucket is no address'),
    'column missing': ({'input': '{}/list.csv'}, "no column 'path'", 'name', '--column'),
    'not a list': ({'input': '{}/broken.parquet'}, 'broken.parquet cannot be read as a list'),
    'no run': ({'run': '{}/none'}, 'no run folder'),
    'broken file': ({'run': '{}/broken.onnx'}, 'cannot be read as ONNX'),
    'output full': ({'out': '{}/full'}, 'is not empty', '--out'),
    'output in input': ({'input': '{}/in', 'out': '{}/in/scores'}, 'lie in each other'),
    'no cluster': ({'address': '127.0.0.1:9'}, 'no cluster answers at 127.0.0.1:9', 'ray start --head'),
    'heat maps': ({'maps': '{}/maps'}, '--maps', '--engine local'),
    'no part': ({'part': 0}, 'at least one image'),
}

@pytest.mark.parametrize('options', CASES.values(), ids=CASES)
def test_what_cannot_be_done_is_one_line(options, run, images, tmp_path, capsys, monkeypatch):
    given,*says = options
    for o in ('empty','full','in'): (tmp_path/o).mkdir()
    (tmp_path/'full'/'notes.txt').write_text('mine')
    (tmp_path/'in'/'a.png').write_bytes(Path(images[0]).read_bytes())
    (tmp_path/'empty.txt').write_text('\n')
    (tmp_path/'s3.txt').write_text('s3://bucket/a.png\n')
    (tmp_path/'list.csv').write_text('name\na.png\n')
    for o in ('broken.parquet','broken.onnx'): (tmp_path/o).write_bytes(b'nothing')
    monkeypatch.setitem(sys.modules, 's3fs', None)
    import ray
    monkeypatch.setattr(ray, 'is_initialized', lambda: False)
    args = {'run': run, 'input': images[0], 'out': '{}/out', **given}
    said = refusal(capsys, *(o for k,v in args.items() for o in (f'--{k}', str(v).format(tmp_path))))
    assert all(o in said for o in says), said

@pytest.mark.parametrize('name', ['ray','pyarrow'])
def test_a_missing_package_is_named(name, run, images, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    check_error(lambda: score_dataset(run, images[0], tmp_path/'out'), ValueError, f'needs the package {name}', "pip install '.[ray]'")

def test_lists_name_the_same_images(images, tmp_path):
    "A text file, CSV and Parquet, at paths and addresses, of names relative to the list and absolute ones."
    folder = Path(images[0]).parent
    names = [Path(images[0]).name, *images[1:3]]
    (folder/'list.txt').write_text('\ufeff'+'\r\n'.join(names))
    pd.DataFrame({'path': names, 'other': 1}).to_csv(folder/'list.csv', index=False)
    pd.DataFrame({'path': names}).to_parquet(folder/'list.parquet')
    for k in ('txt','csv','parquet'):
        for at in (folder/f'list.{k}', f'file://{folder}/list.{k}'):
            found = sum(ImageSource(at).chunks(), [])
            assert found==images[:3], at
    for k in ('txt','csv','parquet'): (folder/f'list.{k}').unlink()
