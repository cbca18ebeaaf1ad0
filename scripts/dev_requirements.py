"""Prints what a development environment needs: the library's requirements, with those that development pins in their place.

fastai 2.8.9 and newer need fastcore 2, and nbdev 2 needs fastcore 1. No one set of versions suits both users and nbdev, so development
cannot be an extra of the package, which pip would resolve together with the package itself."""
import re
from configparser import ConfigParser
from pathlib import Path

cfg = ConfigParser(delimiters=['='], interpolation=None)
cfg.read(Path(__file__).resolve().parent.parent/'settings.ini', encoding='utf-8')

def requirements(key): return {re.match(r'[\w-]+', o)[0]: o for o in cfg['DEFAULT'][key].split('\n') if o.strip()}

print('\n'.join({**requirements('requirements'), **requirements('dev_requirements')}.values()))
