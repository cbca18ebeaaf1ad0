"Panels, tables and charts; the dashboard where its packages are not installed."
import subprocess, sys

import numpy as np, pytest

from aead.dashboard.app import Dashboard, panels
from aead.dashboard.base import as_text, Chart, Gallery, html_table, Panel, State, to_png
from aead.viz.curves import make_figure

from .conftest import score_table

@pytest.mark.parametrize('panel', panels, ids=lambda p: p.title)
def test_errors_of_callbacks_appear_in_the_panel(panel, monkeypatch):
    p = panel(State(run='a', threshold=.5), Dashboard(None, {'a': score_table(60)}).views)
    assert p.trouble.value==''
    monkeypatch.setattr(p, 'update', lambda: 1/0)
    for k in p.watches: setattr(p.state, k, {'run': '', 'image': -2, 'threshold': .7}[k])
    assert 'ZeroDivisionError: division by zero' in p.trouble.value and 'role="alert"' in p.trouble.value
    monkeypatch.undo()
    p.state.run = 'a'
    assert p.trouble.value==''

@pytest.mark.parametrize('e,line', [
    (ValueError('too <small>'), 'too &lt;small&gt;'), (KeyError("no run 'a'"), '>no run'), (KeyError(), '><'),
    (FileNotFoundError('lost'), '>lost<'), (TypeError('odd'), 'TypeError: odd')],
    ids=['value','key','empty key','file','other'])
def test_errors_as_lines(e, line):
    "What a user can cause is its message alone; text is escaped; a key is not quoted."
    class Quiet(Panel):
        def build(self): return Gallery(1, 1, print).widget
        def update(self): raise e
    assert line in Quiet(State(), {}).trouble.value

def test_hidden_panels_do_nothing_until_shown():
    class Counting(Panel):
        n = 0
        def build(self): return Gallery(1, 1, print).widget
        def update(self): self.n += 1
    p = Counting(State(run='a'), {}, hidden=True)
    for k in range(3): p.state.threshold = float(k)
    assert (p.n, p.stale)==(0, True)
    p.show()
    p.show()
    assert (p.n, p.stale)==(1, False)

def test_html_table_escapes_and_rounds():
    t = html_table([['<b>', .5, None, np.float32('nan')]], ['<i>'])
    assert '<b>' not in t and '<i>' not in t and '>0.500<' in t and t.count('>–<')==2
    assert 'nowrap' in html_table([['x'*39]]) and 'nowrap' not in html_table([['x'*40]])
    assert as_text(np.int64(3))=='3' and as_text(np.float64(3))=='3.000'

def test_a_chart_keeps_one_figure():
    "Figures that were replaced are closed: neither kernel nor browser holds them."
    c,clicks = Chart(100, 100),[]
    seen = []
    for _ in range(3):
        c.show(make_figure(100, 100, [dict(type='scatter', y=[1,2])]), lambda *a: clicks.append(a))
        seen.append(c.figure)
    assert len(c.widget.children)==1 and [o.comm is None for o in seen]==[True,True,False]

def test_a_gallery_ignores_rows_beyond_its_cells():
    class View:
        def thumbnail(self, i, side): return to_png(np.zeros((side,side,3), np.uint8))
        def name(self, i): return str(i)
    g = Gallery(2, 2, print, 8)
    g.fill(View(), range(5), str)
    assert g.rows==[0,1] and [o['text'] for o in g.widget.items]==['0','1']
    g.clear()
    assert g.rows==[] and g.widget.items==[]

without = "import sys; sys.modules[{!r}] = None\n"

@pytest.mark.parametrize('package', ['ipywidgets','anywidget'])
def test_the_extra_is_named_where_a_package_of_it_is_missing(package):
    code = without.format(package) + "import aead.dashboard.app"
    p = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    line = "ImportError: the dashboard needs ipywidgets and anywidget: pip install '.[dashboard]'"
    assert p.returncode and p.stderr.rstrip().splitlines()[-1]==line

def test_all_else_works_without_the_extra():
    "Figures, reports and commands are importable where neither package is installed."
    code = ''.join(without.format(o) for o in ('ipywidgets','anywidget'))
    modules = 'cli','export','runs.train','runs.score','runs.crossval','runs.benchmark','report.run','report.comparison'
    code += ''.join(f'import aead.{o}\n' for o in modules)
    code += 'from aead.viz.curves import make_figure\nmake_figure(100, 100)'
    p = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert p.returncode==0, p.stderr
