"""What JupyterLab is given when `explorer lab` starts it: a server extension, other defaults."""
