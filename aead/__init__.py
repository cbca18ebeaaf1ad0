"""Finds defects in images with autoencoders: `from aead import AnomalyDetector`."""
__version__ = "0.2.0"

# What is handed out here is imported when it is used: `import aead` costs nothing.
_lazy = {'AnomalyDetector': 'detector', 'load_detector': 'detect', 'train_run': 'runs.train',
         'Dashboard': 'dashboard.app'}
__all__ = ['__version__', *_lazy]

def __getattr__(name):
    if name not in _lazy: raise AttributeError(f"module 'aead' has no attribute '{name}'")
    from importlib import import_module
    return getattr(import_module(f'aead.{_lazy[name]}'), name)

def __dir__(): return sorted({*globals(), *_lazy})
