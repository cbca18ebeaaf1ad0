"""What the package gives: names that come lazily, names that shadow nothing, one command, lines in pages that are true."""
import builtins, json, re, shlex, subprocess, sys
from functools import cache
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent

def python(code):
    "Runs a line in a process of its own; its output."
    res = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    return res.stdout.strip()

def test_import_costs_nothing():
    assert python("import sys, aead; print([m for m in ('torch','fastai','numpy','pandas','yaml') if m in sys.modules])")=='[]'

def test_names_are_handed_out_when_they_are_used():
    import aead
    from aead import AnomalyDetector, load_detector, train_run
    assert (AnomalyDetector.__module__, load_detector.__module__, train_run.__module__)==('aead.detector', 'aead.detect', 'aead.runs.train')
    assert {'AnomalyDetector','load_detector','train_run','Dashboard'} <= set(dir(aead))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"): aead.Nothing # noqa: B018

every_all = pytest.mark.parametrize('blocked', [(), ('ipywidgets','anywidget')],
                                    ids=['with dashboard','without dashboard'])

@cache
def names_of_all(blocked):
    "What `from aead.all import *` brings, where some packages are not installed."
    off = ''.join(f'sys.modules[{o!r}] = None; ' for o in blocked)
    names = python(f"import sys, json; {off}d = {{}}; exec('from aead.all import *', d); print(json.dumps(list(d)))")
    return {o for o in json.loads(names) if not o.startswith('__')}

@every_all
def test_all_replaces_nothing_of_python(blocked):
    names = names_of_all(blocked)
    assert {'AnomalyDetector','make_config','train_run','cnn_ae','l1','Path'}-names=={'Path'}
    assert sorted(names & (set(sys.stdlib_module_names) | set(dir(builtins))))==[]

@every_all
def test_all_holds_no_layout_or_split_by_its_bare_name(blocked):
    from aead.data.catalog import layouts
    from aead.data.splits import splits
    assert names_of_all(blocked).isdisjoint({*layouts, *splits})

@pytest.mark.parametrize('cmd', [['-m','aead'], ['-c','from aead.cli import main; main()']], ids=['module','function'])
def test_python_m_aead_is_the_command(cmd):
    res = subprocess.run([sys.executable, *cmd, '--help'], capture_output=True, text=True, check=True)
    for k in ('demo','train','evaluate','score','calibrate','compare','crossval','export','benchmark'): assert re.search(rf'^  {k} ', res.stdout, re.M)

def test_help_imports_nothing_heavy():
    code = "import sys; from aead.cli import main\ntry: main(['train','--help'])\nexcept SystemExit: pass\nprint([m for m in ('torch','fastai','pandas') if m in sys.modules])"
    assert python(code).endswith('[]')

# --- what pages tell people to type

def pages():
    "Text of all markdown: notebooks, README, CONTRIBUTING."
    for f in sorted((root/'nbs').rglob('*.ipynb')):
        if '.ipynb_checkpoints' in f.parts or f.name[0]=='_': continue
        for c in json.loads(f.read_text(encoding='utf-8'))['cells']:
            if c['cell_type']=='markdown': yield f.name, ''.join(c['source'])
    for f in (root/'README.md', root/'CONTRIBUTING.md'):
        if f.is_file(): yield f.name, f.read_text(encoding='utf-8')

def shell_lines():
    "Lines of shell blocks, without comments, and commands in backticks."
    for name,text in pages():
        for block in re.findall(r'^```(?:sh|bash|console)?\n(.*?)^```', text, re.S|re.M):
            for line in block.replace('\\\n', ' ').splitlines():
                if re.match(r'\s*(aead|make|pip) ', line): yield name, shlex.split(line, comments=True), True
        for line in re.findall(r'`(aead [a-z]+[^`\n]*)`', text): yield name, shlex.split(line.replace('…', '')), False

def fault(words, whole):
    "What is wrong with a command, or None; `whole` ones must have their required options."
    from aead.cli import build_parser, commands
    if words[0]=='make': return None if re.search(rf'^{words[1]}:', (root/'Makefile').read_text(), re.M) else 'no such target'
    if words[0]=='pip': return 'installs a package of another project' if re.match(r'aead(\[|=|$)', words[-1]) else None
    if words[1:2] in (['--help'],['--version'],['COMMAND']): return None
    if words[1] not in commands: return f'no command {words[1]}'
    parser = build_parser(words[1], commands[words[1]])
    known = {s for a in parser._actions for s in a.option_strings}
    odd = [w for w in words[2:] if w.startswith('--') and w not in known]
    if odd: return f'no option {odd[0]}'
    lacks = [a.option_strings[0] for a in parser._actions if a.required and a.option_strings[0] not in words]
    if whole and lacks: return f'lacks {lacks[0]}'

@pytest.mark.skipif(not (root/'nbs').is_dir(), reason='the notebooks are not here (tests of an installed wheel)')
def test_shell_lines_in_pages_are_true():
    lines = list(shell_lines())
    assert len(lines)>20
    assert [(n, ' '.join(w), f) for n,w,whole in lines if (f := fault(w, whole))] == []

def test_faults_are_found():
    assert fault(['aead','trian','--out','x'], True)=='no command trian'
    assert fault(['aead','train','--epoch','3'], False)=='no option --epoch'
    assert fault(['aead','train','--data','x'], True)=='lacks --out'
    assert fault(['aead','train','--data','x','--out','y'], True) is None
    assert fault(['pip','install','aead[export]'], True) and fault(['pip','install','.[export]'], True) is None

@pytest.mark.skipif(not (root/'nbs').is_dir(), reason='the notebooks are not here (tests of an installed wheel)')
def test_no_link_leads_to_a_stranger():
    text = '\n'.join(t for _,t in pages()) + (root/'settings.ini').read_text()
    assert re.findall(r'github\.com/aead|aead\.github\.io|pypi\.org/project/aead\b', text)==[]
