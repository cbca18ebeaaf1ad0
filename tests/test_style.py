"""How the code reads, kept by checks: walls between wings, numbers, sizes. `scripts/style.py` prints what is measured."""
import re, sys
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not (root/'nbs').is_dir(), reason='the notebooks are not here (tests of an installed wheel)')

@pytest.fixture(scope='module')
def style():
    "The module `scripts/style.py`."
    sys.path.insert(0, str(root/'scripts'))
    try: import style
    finally: sys.path.pop(0)
    return style

def test_no_private_name_crosses_a_wall(style): assert style.private_imports()==[]

def test_no_number_is_used_twice():
    numbers = [o.name[:2] for o in (root/'nbs').glob('[0-9]*.ipynb')]
    assert sorted(n for n in set(numbers) if numbers.count(n)>1)==[]

def test_no_long_lines(style): assert style.long_lines()==[]

def test_export_cells_are_small(style):
    assert [(nb, n, name) for nb,n,name in style.export_cells() if n>style.MAX_CELL]==[]

def test_functions_are_short(style):
    bodies = [(style.body_lines(f), m.name, f.name) for m in style.modules() for f in style.functions(m.read_text(encoding='utf-8'))]
    assert [o for o in bodies if o[0]>style.MAX_BODY]==[]

def test_walls_are_seen(style, tmp_path):
    "The check finds what it looks for."
    for name,code in (('viz/a.py','from .b import _c\nfrom ..metrics import _d'), ('metrics.py','from .viz.a import _e, f')):
        (tmp_path/name).parent.mkdir(exist_ok=True)
        (tmp_path/name).write_text(code)
    assert style.private_imports(tmp_path)==['metrics imports _e from viz.a', 'viz.a imports _d from metrics']

def test_contributing_shows_the_table(style):
    text = (root/'CONTRIBUTING.md').read_text(encoding='utf-8')
    for what,_ in style.ROWS: assert re.search(rf'^\| {re.escape(what)} \|', text, re.M), what
