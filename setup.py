"Packaging of `aead`: everything it says comes from `settings.ini`."
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

cfg = ConfigParser(delimiters=['='], interpolation=None)
cfg.read('settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']

def lines(key): return [o for o in cfg.get(key, '').splitlines() if o.strip()]

extras = ('dashboard', 'distributed', 'encoders', 'export', 'loggers', 'openvino', 'ray', 'serve')

setup(
    name=cfg['dist_name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'].split(),
    author=cfg['author'], author_email=cfg['author_email'], url=cfg['git_url'], license='Apache-2.0',
    long_description=Path('README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    classifiers=['Development Status :: 3 - Alpha', 'Intended Audience :: Developers',
                 'Intended Audience :: Science/Research', 'Programming Language :: Python :: 3.11'],
    packages=find_packages(include=['aead', 'aead.*']),
    package_data={'aead': ['recipes/*.yaml', 'assets/*', 'py.typed']},
    python_requires=f">={cfg['min_python']}",
    install_requires=lines('requirements'),
    extras_require={k: lines(f'{k}_requirements') for k in extras},
    entry_points={'console_scripts': lines('console_scripts'),
                  'nbdev': [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"]},
    zip_safe=False)
