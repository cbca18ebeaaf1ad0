"""`from aead.all import *` replaces nothing of Python, and holds no layout or split by its bare name."""
import builtins, sys

from aead.data.catalog import layouts
from aead.data.splits import splits

def exported():
    names = {}
    exec('from aead.all import *', names)
    return {o for o in names if not o.startswith('__')}

def test_nothing_of_python_is_replaced():
    assert sorted(o for o in exported() if o in sys.stdlib_module_names or hasattr(builtins, o))==[]

def test_layouts_and_splits_are_used_by_name():
    assert exported().isdisjoint({*layouts, *splits})
