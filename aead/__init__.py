"""Finds defects in images with autoencoders: `from aead import AnomalyDetector`."""
__version__ = "0.2.0"

# What is handed out here is imported when it is used: `import aead` costs nothing.
_lazy = {'AnomalyDetector': 'detector', 'load_detector': 'detect', 'train_run': 'runs.train',
         'Dashboard': 'dashboard.app', 'load_exported': 'exported'}
# What gives them their figures, `show_results` and `explain`.
_figures = {'AnomalyDetector': 'viz.detector', 'load_detector': 'viz.detector', 'load_exported': 'viz.results'}
__all__ = ['__version__', *_lazy]

def __getattr__(name):
    if name not in _lazy: raise AttributeError(f"module 'aead' has no attribute '{name}'")
    from importlib import import_module
    if name in _figures: import_module(f'aead.{_figures[name]}')
    return getattr(import_module(f'aead.{_lazy[name]}'), name)

def __dir__(): return sorted({*globals(), *_lazy})
