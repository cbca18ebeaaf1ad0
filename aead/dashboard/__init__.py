"Panels for JupyterLab, Notebook and Voilà. They need the extra `dashboard`."
try: import anywidget, ipywidgets # noqa: F401
except ImportError as e:
    raise ImportError("the dashboard needs ipywidgets and anywidget: pip install '.[dashboard]'") from e
