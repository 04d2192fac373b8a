"""HTTP for every client of this program, with one rule: loopback is never asked through a proxy, all else as the
environment says (HTTP_PROXY, HTTPS_PROXY, NO_PROXY)."""

from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp


def is_loopback(url: str) -> bool:
    """True for an address of this machine: localhost, 127.0.0.0/8, ::1, and 0.0.0.0, which reaches it."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def proxy_of(url: str) -> str | None:
    """Return host and port of the proxy that requests to `url` go through; None when they go straight."""
    parts = urlsplit(url)
    proxy = None if is_loopback(url) or proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
    return urlsplit(proxy if "//" in proxy else f"//{proxy}").netloc.rpartition("@")[2] if proxy else None


def through_proxy(url: str) -> str:
    """Return the words that an error of a request to `url` ends with: which proxy it went through, or nothing."""
    proxy = proxy_of(url)
    return f"; it was asked through the proxy {proxy}, which NO_PROXY={urlsplit(url).hostname} avoids" if proxy else ""


def session(url: str, seconds: float | None, headers: Mapping[str, str] | None = None) -> aiohttp.ClientSession:
    """Return a session for requests to one server, each of at most so many seconds (None: no limit)."""
    timeout = aiohttp.ClientTimeout(total=seconds)
    return aiohttp.ClientSession(timeout=timeout, headers=headers, trust_env=not is_loopback(url))
