"Notebooks and package agree: clean, exported, named after their module, importing only backwards; README is the index."
import ast, json, re, shutil, subprocess, sys
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent
nbs = sorted(o for o in (root/'nbs').rglob('*.ipynb') if not any(p.startswith(('_','.')) for p in o.relative_to(root).parts))
pytestmark = pytest.mark.skipif(not nbs, reason='the notebooks are not here (tests of an installed wheel)')

def cells(nb): return json.loads(nb.read_text())['cells']
def source(c): return ''.join(c['source'])
def default_exp(nb): return next((m[1] for c in cells(nb) if (m := re.search(r'^#\| ?default_exp (\S+)', source(c), re.M))), None)
exporting = [o for o in nbs if default_exp(o)]

def tree(d): return {o.relative_to(d).as_posix(): o.read_bytes() for n in ('nbs','aead') for o in sorted((d/n).rglob('*')) if o.suffix in ('.ipynb','.py') and '.ipynb_checkpoints' not in o.parts}

def test_export_and_clean_change_nothing(tmp_path):
    "In a copy, so that the work tree stays as it is."
    pytest.importorskip('nbdev')
    for n in ('nbs','aead'): shutil.copytree(root/n, tmp_path/n, symlinks=True, ignore=shutil.ignore_patterns('__pycache__','.ipynb_checkpoints','_*.ipynb'))
    for n in ('settings.ini','setup.py','README.md','pyproject.toml','_quarto.yml'): shutil.copy(root/n, tmp_path/n)
    before = tree(tmp_path)
    for cmd in ('nbdev_export','nbdev_clean'): subprocess.run([str(Path(sys.executable).parent/cmd)], cwd=tmp_path, check=True, capture_output=True)
    after = tree(tmp_path)
    assert [k for k in {**before, **after} if before.get(k)!=after.get(k)] == []

@pytest.mark.parametrize('nb', nbs, ids=lambda o: o.stem)
def test_notebook_is_clean(nb):
    for c in cells(nb):
        if c['cell_type']!='code': continue
        assert c['execution_count'] is None and not c['metadata']
        for o in c['outputs']:
            assert o['output_type']!='error', source(c)
            text = json.dumps(o)
            assert not re.search(r'(/home/|/Users/|site-packages|/tmp/|fastprogress|<progress|Warning:)', text), source(c)
    assert nb.stat().st_size < 300_000 or 'benchmarks' in nb.parts

@pytest.mark.parametrize('nb', exporting, ids=lambda o: o.stem)
def test_named_after_its_module(nb):
    assert re.fullmatch(r'\d\d_(.+)', nb.stem)[1]==default_exp(nb)
    assert source(cells(nb)[0]).strip()==f'#| default_exp {default_exp(nb)}'
    assert re.match(r'# .+\n\n> .+', source(cells(nb)[1]))

def module_imports(f):
    for n in ast.walk(ast.parse(f.read_text())):
        if isinstance(n, ast.ImportFrom) and n.module:
            base = list(f.relative_to(root).with_suffix('').parts[:-n.level]) if n.level else []
            full = '.'.join([*base, n.module]) if n.level else n.module
            if full.split('.')[0]=='aead': yield from (full.removeprefix('aead').lstrip('.') or None, *(f'{full}.{a.name}'.removeprefix('aead.') for a in n.names))
        elif isinstance(n, ast.ImportFrom) and n.level:
            base = '.'.join(f.relative_to(root).with_suffix('').parts[1:-n.level])
            yield from (f'{base}.{a.name}'.lstrip('.') for a in n.names)

def test_imports_point_backwards():
    number = {default_exp(o): int(o.stem[:2]) for o in exporting}
    for m,k in number.items():
        f = root/'aead'/f"{m.replace('.', '/')}.py"
        later = [o for o in module_imports(f) if number.get(o, -1) >= k]
        # detection imports the learner inside `fit`, which is a smaller number as well
        assert not later, f'{m} imports {later}'

def test_cells_import_or_compute():
    "A cell has imports or code, never both: building the docs runs every cell that imports."
    for nb in nbs:
        for c in cells(nb):
            if c['cell_type']!='code': continue
            code = '\n'.join(o for o in source(c).splitlines() if not o.startswith(('#|','%')))
            kinds = {isinstance(n, (ast.Import,ast.ImportFrom)) for n in ast.parse(code).body}
            allowed = 'environ' in code       # a variable that must be set before an import
            assert len(kinds)<2 or allowed, f'{nb.stem}: {code[:80]}'

def test_zoo_imports_every_family():
    families = {default_exp(o).split('.')[1] for o in exporting if '@model_registry' in (root/'aead'/f"{default_exp(o).replace('.', '/')}.py").read_text()}
    assert families >= {'cnn_ae','resnet_ae','vit_ae','diffusion_ae'}
    text = (root/'aead'/'models'/'zoo.py').read_text()
    assert all(f in text for f in families)

def test_all_exports_everything():
    names = {}
    exec('from aead.all import *', names)
    for n in ('AnomalyDetector','anomaly_learner','load_catalog','visualize_reconstructions','train_run','pixel_metrics','create_autoencoder'): assert n in names

def test_readme_is_the_index():
    pytest.importorskip('nbconvert')
    sys.path.insert(0, str(root/'scripts'))
    try: import readme
    finally: sys.path.pop(0)
    text,images = readme.render()
    assert (root/'README.md').read_text()==text, 'README.md is not what nbs/index.ipynb says: make readme'
    for k,v in images.items(): assert (root/readme.pictures/k).read_bytes()==v
