"A folder of parts, and finished runs of each family."
import pytest

from ..helpers import make_layout
from .campaign import write_settings
from .child import run

@pytest.fixture(scope='session')
def parts(tmp_path_factory):
    "A folder of 30 good and 5 defective images, in the layout `folder`."
    return make_layout(tmp_path_factory.mktemp('campaign')/'parts', 'folder')

@pytest.fixture(scope='session')
def finished(parts, tmp_path_factory):
    "Makes uninterrupted runs, each once: `finished('cnn_ae')` is `(arguments of train without --out, folder, what the child said)`."
    made = {}
    def make(family, **more):
        key = family, repr(more)
        if key not in made:
            root = tmp_path_factory.mktemp('finished')
            args = ('train', '--data', parts, '--layout', 'folder', '--config', write_settings(root/'settings.yaml', family, **more), '--device', 'cpu')
            done = run(*args, '--out', root/'run', folders=[root/'run'])
            assert done.status==0, done.text
            made[key] = args, root/'run', done
        return made[key]
    return make
