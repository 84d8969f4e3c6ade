"""`zoo serve`; its docstring is its help."""

import ipaddress
import sys
import threading
from typing import Annotated, Literal

from zoo.loading import device_of, load
from zoo.ranges import Range
from zoo.serve.app import app, launch, library, title_of


def serve(
    ckpt: str,
    *,
    host: str = "127.0.0.1",
    port: Annotated[int, Range(1, 65535)] | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Serves a page on which a model can be played with, until Ctrl-C.

    One request runs at a time, and the others wait. The page loads nothing from elsewhere, and is
    seen by this machine alone unless --host says otherwise.

    Args:
        ckpt: A .ckpt file, a run directory, an exported folder or a model's name.
        host: Address to listen at; 0.0.0.0 for all of this machine.
        port: Port to listen at; the first free one from 7860 on if not given.
        device: Where to compute; auto takes a GPU if there is one.
    """
    library()
    page = app(load(ckpt).to(device_of(device)), title_of(ckpt))
    try:
        address = launch(page, host, port)
    except OSError as error:
        where = f"{host}, port {port or '7860 or one of the next'}"
        raise OSError(f"cannot listen at {where}: give another --port or --host") from error
    print(f"{ckpt} is on {address} (Ctrl-C ends it)", flush=True)
    if not _is_loopback(host):
        sys.stderr.write(f"zoo: whoever reaches {host} may use this page: it has no password\n")
    try:
        threading.Event().wait()
    finally:
        page.close(verbose=False)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
