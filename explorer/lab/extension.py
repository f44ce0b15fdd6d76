"""An extension of the Jupyter server: it says one address, once the server answers.

JupyterLab by itself logs some forty lines before its address, which then stands there three times.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

from tornado.ioloop import IOLoop

from explorer.servers import TOKEN_VARIABLE

DEPRECATED = "ServerApp.token config is deprecated"
"""Beginning of a warning that JupyterLab's own extensions cause; a reader can do nothing."""


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    """Name the modules of the extension, as the server asks."""
    return [{"module": __name__}]


def _link_jupyter_server_extension(serverapp: Any) -> None:
    """Drop the warning; an option of Python would be too early, since Voila asks for it again."""
    warnings.filterwarnings("ignore", message=DEPRECATED, category=DeprecationWarning)


def _load_jupyter_server_extension(serverapp: Any) -> None:
    """Have the address said; keep the token from the kernels' environment."""
    token = serverapp.identity_provider.token  # read now, kept by the server
    os.environ.pop(TOKEN_VARIABLE, None)
    IOLoop.current().add_callback(wait, serverapp, token)


def wait(serverapp: Any, token: str) -> None:
    """Say the address once the server has found a port and been bound to it."""
    loop = IOLoop.current()
    if getattr(serverapp, "http_server", None) is None:  # others may turn the loop before
        loop.call_later(0.05, wait, serverapp, token)
        return
    page = serverapp.local_url.partition("?")[0]  # with its own token it would show three dots
    address = f"{page}?token={token}" if token else page
    loop.add_callback(say, address)  # what binds the port was queued when the server was made


def say(address: str) -> None:
    """Print an address at once, also into a pipe."""
    print(f"JupyterLab is ready:\n\n    {address}\n", flush=True)
