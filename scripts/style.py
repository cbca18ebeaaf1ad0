"""Measures how the code reads: sizes of functions and cells, line lengths, imports across walls.

    python scripts/style.py            the table
    python scripts/style.py --worst    what to shorten first"""
import ast, json, re, subprocess, sys
from pathlib import Path

import numpy as np

root = Path(__file__).resolve().parent.parent
MAX_COLUMNS = 120
MAX_ARGUMENTS = 6 # of functions that are no entry points
MAX_CELL = 45 # lines of an export cell
MAX_BODY = 40 # lines of a function's body

def modules(folder=root/'aead'):
    "The exported modules, by path."
    return [o for o in sorted(folder.rglob('*.py')) if o.name!='_modidx.py']

def functions(source):
    "Every function of a module, methods included."
    return [n for n in ast.walk(ast.parse(source)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]

def body_lines(f):
    "Lines of a function's body, without signature, docstring and empty ones."
    first = f.body[1:] if ast.get_docstring(f) is not None else f.body
    return first[-1].end_lineno-first[0].lineno+1 if first else 0

def arguments(f):
    "Arguments of a function, without `self`."
    names = [o.arg for o in (*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs)]
    return [o for o in names if o not in ('self','cls')]

def formatted(source):
    "The source as one formatter writes it, at 110 columns."
    cmd = [sys.executable, '-m', 'ruff', 'format', '--quiet', '--line-length', '110', '-']
    return subprocess.run(cmd, input=source, capture_output=True, text=True, check=True).stdout

def export_cells(folder=root/'nbs'):
    "Export cells with code (not imports) of all notebooks: `(notebook, number of lines, first definition)`."
    out = []
    for nb in sorted(folder.glob('[0-9]*.ipynb')):
        for c in json.loads(nb.read_text(encoding='utf-8'))['cells']:
            s = ''.join(c['source'])
            if c['cell_type']!='code' or not re.match(r'#\| ?export', s): continue
            code = [line for line in s.splitlines() if not line.startswith('#|')]
            lines,code = [line for line in code if line.strip()],ast.parse('\n'.join(code)).body
            if all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in code): continue
            out.append((nb.stem, len(lines), next((n.name for n in code if hasattr(n, 'name')), lines[0][:40])))
    return out

def wing(module):
    "The wing of a module of the package; a room at the root is a wing of its own."
    parts = module.split('.')
    return parts[0]

def private_imports(folder=root/'aead'):
    "Private names that are imported across a wing's wall: `module imports name from other`."
    out = []
    for f in modules(folder):
        own = '.'.join(f.relative_to(folder).with_suffix('').parts)
        for n in ast.walk(ast.parse(f.read_text(encoding='utf-8'))):
            if not isinstance(n, ast.ImportFrom) or not (n.level or (n.module or '').startswith('aead')): continue
            base = own.split('.')[:-n.level] if n.level else []
            other = '.'.join([*base, n.module.removeprefix('aead.') if not n.level else n.module or '']).strip('.')
            for a in n.names:
                if a.name.startswith('_') and not a.name.startswith('__') and wing(other)!=wing(own):
                    out.append(f'{own} imports {a.name} from {other}')
    return out

def long_lines(folder=root/'aead'):
    "Lines over 120 columns but for nbdev's own: `(file, number, length)`."
    own = re.compile(r"# %%|__all__ = \[|           '")
    lines = [(f.relative_to(folder).as_posix(), i, line) for f in modules(folder)
             for i,line in enumerate(f.read_text(encoding='utf-8').splitlines(), 1)]
    return [(f, i, len(line)) for f,i,line in lines if len(line)>MAX_COLUMNS and not own.match(line)]

def spread(v):
    "Median, nine in ten, longest."
    return f'{np.median(v):.0f} / {np.quantile(v, .9):.0f} / {max(v)}'

def sources(): return [o.read_text(encoding='utf-8') for o in modules()]
def bodies(texts): return spread([body_lines(f) for s in texts for f in functions(s)])
def crowded(): return sum(len(arguments(f))>MAX_ARGUMENTS for s in sources() for f in functions(s))

ROWS = [ # what is counted, and how
    ('function body, median / nine in ten / longest', lambda: bodies(sources())),
    ('the same, formatted at 110 columns', lambda: bodies(map(formatted, sources()))),
    ('export cell, median / nine in ten / longest', lambda: spread([n for _,n,_ in export_cells()])),
    ('lines over 120 columns', lambda: len(long_lines())),
    ('imports of private names across wings', lambda: len(private_imports())),
    ('functions with more than six arguments', crowded)]

def worst(n=12):
    "What to shorten first."
    fs = [(body_lines(f), len(arguments(f)), m.relative_to(root/'aead').as_posix(), f.name) for m in modules()
          for f in functions(formatted(m.read_text(encoding='utf-8')))]
    cells,lines = sorted(export_cells(), key=lambda o: -o[1])[:n],sorted(long_lines(), key=lambda o: -o[2])[:n]
    many = [o for o in sorted(fs, key=lambda o: -o[1]) if o[1]>MAX_ARGUMENTS]
    print('longest functions, formatted:', *[f'  {k}  {m} {f}' for k,_,m,f in sorted(fs, reverse=True)[:n]], sep='\n')
    print('largest export cells:', *[f'  {k}  {nb} {d}' for nb,k,d in cells], sep='\n')
    print('more than six arguments:', *[f'  {k}  {m} {f}' for _,k,m,f in many], sep='\n')
    print('private names across wings:', *[f'  {o}' for o in private_imports()], sep='\n')
    print('long lines:', *[f'  {k}  {f}:{i}' for f,i,k in lines], sep='\n')

if __name__=='__main__':
    if '--worst' in sys.argv: worst()
    else: print('\n'.join(f'| {what} | {count()} |' for what,count in ROWS))
