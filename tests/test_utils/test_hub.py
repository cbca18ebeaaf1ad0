"Sending and loading against a small server of the Hub's protocol on the loopback address; what goes up, and what goes wrong."
import base64, hashlib, json, re, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pandas as pd, pytest, yaml

from aead.cli import run_command
from aead.detect import load_detector, saved_files
from aead.detector import AnomalyDetector
from aead.hub import hub_files, push_run, send_folder, write_hub_folder
from aead.remote import local_folder

TOKEN = 'hf_' + 'Secret'*5

class Stub(BaseHTTPRequestHandler):
    "As much of the Hub as is needed: repositories in memory, files in the order of their commits."
    def log_message(self, *a): pass
    def answer(self, status, d=None, headers=(), body=None):
        body = json.dumps(d).encode() if body is None else body
        self.send_response(status)
        for k,v in {'Content-Length': str(len(body)), 'Content-Type': 'application/json', **dict(headers)}.items(): self.send_header(k, v)
        self.end_headers()
        if self.command!='HEAD': self.wfile.write(body)

    def missing(self, code, status=404): self.answer(status, {'error': code}, {'X-Error-Code': code, 'X-Error-Message': code})
    def may_see(self, repo): return repo and (not repo['private'] or self.headers.get('Authorization')==f'Bearer {TOKEN}')

    def do_POST(self):
        hub,path = self.server.hub,self.path
        data = self.rfile.read(int(self.headers.get('Content-Length', 0)))
        hub['asked'].append(('POST', path))
        if path.endswith('/info/lfs/objects/batch'):            # weights of any size go by LFS on the real Hub
            put = f"http://{self.headers['Host']}/lfs/"
            objects = [{'oid': o['oid'], 'size': o['size'], 'actions': {'upload': {'href': put+o['oid'], 'header': {}}}} for o in json.loads(data)['objects']]
            return self.answer(200, {'transfer': 'basic', 'objects': objects}, {'Content-Type': 'application/vnd.git-lfs+json'})
        if path=='/api/validate-yaml': return self.answer(200, {'errors': [], 'warnings': []})
        if self.headers.get('Authorization')!=f'Bearer {TOKEN}': return self.answer(401, {'error': 'Invalid username or password.'})
        if path=='/api/repos/create':
            d = json.loads(data)
            name = f"{d.get('organization') or 'me'}/{d['name']}"
            if name.startswith('others/'): return self.answer(403, {'error': f'no rights to create {name}'})
            is_new = name not in hub['repos']
            private = d.get('private') or d.get('visibility')=='private'
            repo = hub['repos'].setdefault(name, {'private': bool(private), 'commits': []})
            return self.answer(200 if is_new else 409, {'url': f"http://{self.headers['Host']}/{name}", 'name': name, 'id': name, 'private': repo['private']})
        name,what = re.match(r'/api/models/([^/]+/[^/]+)/(preupload|commit)', path).groups()
        if what=='preupload':
            def mode(o): return 'lfs' if o['path'].endswith('.safetensors') else 'regular'
            return self.answer(200, {'files': [{'path': o['path'], 'uploadMode': mode(o), 'shouldIgnore': False} for o in json.loads(data)['files']]})
        lines = [json.loads(o) for o in data.splitlines()]
        new = {o['value']['path']: base64.b64decode(o['value']['content']) for o in lines if o['key']=='file'}
        new.update({o['value']['path']: hub['lfs'][o['value']['oid']] for o in lines if o['key']=='lfsFile'})
        repo = hub['repos'][name]
        sha = hashlib.sha1(data).hexdigest()
        repo['commits'].append((sha, {**(repo['commits'][-1][1] if repo['commits'] else {}), **new}))
        self.answer(200, {'success': True, 'commitUrl': f"http://{self.headers['Host']}/{name}/commit/{sha}", 'commitOid': sha, 'hookOutput': ''})

    def do_PUT(self):
        data = self.rfile.read(int(self.headers['Content-Length']))
        self.server.hub['lfs'][hashlib.sha256(data).hexdigest()] = data
        self.answer(200, {})

    def do_GET(self):
        hub,path = self.server.hub,self.path.split('?')[0]
        hub['asked'].append((self.command, path))
        if m := re.fullmatch(r'/api/models/([^/]+/[^/]+)', path):
            repo = hub['repos'].get(m[1])
            if not self.may_see(repo): return self.missing('RepoNotFound', 401)
            sha = repo['commits'][-1][0] if repo['commits'] else None
            return self.answer(200, {'id': m[1], 'modelId': m[1], 'private': repo['private'], 'sha': sha, 'siblings': [], 'tags': [], 'downloads': 0, 'likes': 0})
        m = re.fullmatch(r'/([^/]+/[^/]+)/resolve/([^/]+)/(.+)', path)
        repo = hub['repos'].get(m[1]) if m else None
        if not self.may_see(repo): return self.missing('RepoNotFound', 401)
        found = [o for o in repo['commits'] if m[2] in ('main', o[0])]
        if not found: return self.missing('RevisionNotFound')
        sha,files = found[-1]
        if m[3] not in files: return self.answer(404, {'error': 'no'}, {'X-Error-Code': 'EntryNotFound', 'X-Error-Message': 'no', 'X-Repo-Commit': sha})
        body = files[m[3]]
        self.answer(200, None, {'X-Repo-Commit': sha, 'ETag': f'"{hashlib.sha256(body).hexdigest()}"', 'Content-Type': 'application/octet-stream'}, body)
    do_HEAD = do_GET

@pytest.fixture
def hub(tmp_path, monkeypatch):
    "The server's state; `HF_ENDPOINT`, cache and token are set for it."
    server = ThreadingHTTPServer(('127.0.0.1', 0), Stub)
    server.hub = {'repos': {}, 'asked': [], 'lfs': {}}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv('HF_ENDPOINT', f'http://127.0.0.1:{server.server_port}')
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path/'cache'))
    monkeypatch.setenv('HF_TOKEN', TOKEN)
    monkeypatch.setattr('huggingface_hub._commit_api.is_xet_available', lambda: False, raising=False)   # the stub knows LFS, not Xet
    yield server.hub
    server.shutdown()
    server.server_close()

@pytest.fixture(scope='module')
def run(detector, synth, tmp_path_factory):
    "A folder with what a run has of text: settings, catalog, metrics with an audit that names images."
    from aead.config import config_to_dict
    from aead.data.catalog import save_catalog
    from aead.evaluate import evaluate_catalog, get_metrics
    from aead.files import save_yaml
    from dataclasses import replace
    out = tmp_path_factory.mktemp('run')
    detector.save(out)
    root = synth.path.iloc[0].rsplit('/', 4)[0]
    own = replace(detector.cfg, data=replace(detector.cfg.data, path=root))
    for o in ('config.yaml','resolved.yaml'): save_yaml(config_to_dict(own), out/o)
    save_catalog(synth, out/'catalog.csv', root)
    test = synth[synth.split=='test'].reset_index(drop=True)
    m = get_metrics(evaluate_catalog(detector, test), detector)
    audit = {'leaks': 1, 'null_auroc': .5, 'text': 'possible leak: 1 of 9 test images', 'kinds': {'copy': 1}, 'pairs': [{'path': test.path[0], 'other': test.path[1]}], 'state': 'x'}
    (out/'metrics.json').write_text(json.dumps({**m, 'audit': audit, 'root': root}))
    (out/'report.html').write_text('an image')
    return out

def fails_in_one_line(f, *parts):
    with pytest.raises(ValueError) as e: f()
    text = str(e.value)
    assert all(o in text for o in parts) and '\n' not in text and TOKEN not in text, text

def test_a_detector_goes_up_and_comes_back(hub, run, synth, tmp_path):
    assert push_run(run, 'me/parts', license='apache-2.0')=='hf://me/parts'
    repo = hub['repos']['me/parts']
    assert repo['private'] and set(repo['commits'][-1][1])==set(hub_files) and len(hub['lfs'])==1
    hub['asked'].clear()
    det = load_detector('hf://me/parts', 'cpu')
    assert {p.split('/')[-1] for _,p in hub['asked']}==set(saved_files)                      # these files, and no other
    images = synth.path[:3].tolist()
    assert det.predict(images).equals(load_detector(run, 'cpu').predict(images))
    sha = repo['commits'][-1][0]
    assert all(f'/resolve/{sha}/' in p for _,p in hub['asked'] if not p.endswith(saved_files[0]))   # of one commit
    again = AnomalyDetector.load(f'hf://me/parts@{sha}')
    assert again.asked.data.path=='synthetic' and again.push_to_hub('me/parts')=='hf://me/parts'
    assert len(repo['commits'])==2

def test_nothing_that_goes_up_names_an_image_or_a_folder(run, synth, tmp_path):
    push_run(run, 'me/parts', out=tmp_path/'up')
    assert {o.name for o in (tmp_path/'up').iterdir()}==set(hub_files)
    words = {synth.path.iloc[0].rsplit('/', 1)[0], str(run.parent), *synth.path.str.rsplit('/', n=1).str[-1], *synth.group}
    for o in hub_files:
        text = (tmp_path/'up'/o).read_bytes()
        assert not [w for w in words if f'/{w}'.encode() in text or f'"{w}"'.encode() in text or f' {w}'.encode() in text], o

def test_the_card_says_what_the_run_says(run, tmp_path):
    push_run(run, 'me/parts', license='cc-by-4.0', out=tmp_path/'up')
    text = (tmp_path/'up'/'README.md').read_text()
    head = yaml.safe_load(text.split('---')[1])
    assert head['library_name']=='aead' and head['license']=='cc-by-4.0' and 'anomaly-detection' in head['tags']
    m,t = json.loads((run/'metrics.json').read_text()),pd.read_csv(run/'catalog.csv')
    low,high = m['ci95']['image_auroc']
    assert f"| image AUROC | {m['image_auroc']:.3f} | {low:.3f} to {high:.3f} |" in text
    assert f"| train | {(t.split=='train').sum()} | {t.group[t.split=='train'].nunique()} | 0 |" in text
    assert all(o in text for o in ("load_detector('hf://me/parts')", 'possible leak: 1 of 9', f"A score above {m['threshold']:.6g}", 'false-alarm rate', '## Limits'))
    write_hub_folder(load_detector(run, 'cpu'), tmp_path/'plain', 'me/parts')
    plain = (tmp_path/'plain'/'README.md').read_text()
    assert 'None is stated' in plain and 'No metrics were given' in plain and not (tmp_path/'plain'/'metrics.json').exists()

def test_what_goes_wrong_is_one_line(hub, run, monkeypatch, tmp_path):
    hub['repos'].update({'me/open': {'private': False, 'commits': []}, 'me/part': {'private': False, 'commits': [('a'*40, {'resolved.yaml': b'schema: 2'})]}})
    fails_in_one_line(lambda: load_detector('hf://me/none'), 'there is no me/none on the Hub, or your token may not see it')
    fails_in_one_line(lambda: load_detector('hf://me/part@v9'), 'me/part has no such revision')
    fails_in_one_line(lambda: load_detector('hf://me/part'), "me/part holds no detector of aead's")
    fails_in_one_line(lambda: load_detector('hf:me'), 'hf://owner/name')
    fails_in_one_line(lambda: send_folder(run, 'me/open'), 'me/open is there already and public', '--no-private')
    fails_in_one_line(lambda: send_folder(run, 'others/parts'), 'your token may not do this with others/parts')
    fails_in_one_line(lambda: send_folder(run, 'me/new', token='hf_wrong'), 'me/new', 'hf auth login')
    fails_in_one_line(lambda: send_folder(run, 'parts'), 'a name is owner/name')
    monkeypatch.setenv('HF_ENDPOINT', 'http://127.0.0.1:9')
    monkeypatch.setattr('huggingface_hub.utils._http.time.sleep', lambda s: None, raising=False)
    fails_in_one_line(lambda: load_detector('hf://me/open'), 'the Hub cannot be reached')
    fails_in_one_line(lambda: send_folder(run, 'me/new'), 'the Hub cannot be reached')

def test_without_a_network_the_cache_serves(hub, run, monkeypatch):
    push_run(run, 'me/parts')
    here = local_folder('hf://me/parts', saved_files)
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    hub['asked'].clear()
    assert local_folder('hf://me/parts', saved_files)==here and not hub['asked']
    fails_in_one_line(lambda: local_folder('hf://me/other', saved_files), 'me/other is not in the cache')

def test_commands(hub, run, synth, tmp_path, capsys):
    assert run_command('push', ['--run', str(run), '--repo', 'me/parts', '--license', 'mit'])==0
    assert 'hf://me/parts' in capsys.readouterr().out
    args = ['--input', synth.path.iloc[0], '--out', str(tmp_path/'s.csv'), '--device', 'cpu']
    assert run_command('score', ['--run', 'hf://me/parts', *args])==0 and len(pd.read_csv(tmp_path/'s.csv'))==1
    assert run_command('score', ['--run', 'hf://me/none', *args])==2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith('aead score: there is no me/none on the Hub')
