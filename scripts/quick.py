"""Tests what differs from a commit (`make test-quick`): its notebooks, and the test files that mirror them. With a name, from that commit on.

    python scripts/quick.py          what is not committed, or else the last commit
    python scripts/quick.py main     all that has come since main"""
import os, re, subprocess, sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
ALWAYS = ['tests/test_notebooks.py', 'tests/test_style.py', 'tests/test_package.py'] # cheap, and about everything

def git(*args): return subprocess.run(['git', *args], cwd=root, capture_output=True, text=True, check=True).stdout.splitlines()

def changed(base=None):
    "Files that differ from `base`; without it those that are not committed, or else those of the last commit."
    if base: return git('diff', '--name-only', base)
    return git('diff', '--name-only', 'HEAD') + git('ls-files', '--others', '--exclude-standard') or git('diff', '--name-only', 'HEAD~1')

def mirrors(notebook):
    "The test file of a notebook's module, such as `tests/test_data/test_splits.py` for `17_data.splits`."
    found = re.fullmatch(r'nbs/\d\d_([\w.]+)\.ipynb', notebook)
    if not found: return None
    wing,_,room = found[1].rpartition('.')
    return f"tests/test_{wing or 'utils'}/test_{room}.py"

def main(base=None):
    "Runs them; gives the exit status."
    files = [o for o in changed(base) if (root/o).exists()]
    notebooks = [o for o in files if o.endswith('.ipynb') and 'benchmarks' not in o]
    tests = {o for o in files if re.fullmatch(r'tests/.*test_\w+\.py', o) and 'browser' not in o} | {mirrors(o) for o in notebooks}
    tests = sorted(o for o in tests-{None} if (root/o).is_file() and o not in ALWAYS)
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    here,failed = Path(sys.executable).parent,0
    for o in notebooks: failed |= subprocess.run([here/'nbdev_test', '--path', o], cwd=root, env=env).returncode
    return failed or subprocess.run([sys.executable, '-m', 'pytest', '-q', '-n', '2', *ALWAYS, *tests], cwd=root, env=env).returncode

if __name__=='__main__': sys.exit(main(*sys.argv[1:2]))
