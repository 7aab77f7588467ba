"""From where the models fetch the images, videos and sounds that requests name by address, for people. Pure."""

from __future__ import annotations

import ipaddress
from fnmatch import fnmatchcase

from llm_supervisor.config import schema
from llm_supervisor.config.config import Config
from llm_supervisor.config.environments import of_model
from llm_supervisor.engines.vllm.options import by_name

LOOPBACK = "127.0.0.1"
REDIRECTS = "VLLM_MEDIA_URL_ALLOW_REDIRECTS"


def sources(config: Config) -> dict[str, str]:
    """A sentence for each model that takes images."""
    gateway = config.root.gateway
    if gateway is None:  # nobody looks at the requests before
        private = "and from private addresses"
    elif gateway.media.allow_hosts == "all":
        private = "and from any private address"
    elif gateway.media.allow_hosts:
        private = f"and from the private addresses of {', '.join(gateway.media.allow_hosts)}"
    else:
        private = "and from no private address"
    found = {}
    for alias, model in config.root.models.items():
        if model.vision:
            domains = by_name(model.vllm).get("allowed-media-domains")
            listed = ", ".join(map(str, domains)) if isinstance(domains, list) else str(domains)
            public = f"{listed} only" if domains else "any public host"
            obeys = of_model(config, model).get(REDIRECTS, "0") != "0"
            follows = "redirects are followed" if obeys else "no redirect is followed"
            found[alias] = f"fetches images by address from {public} {private}; {follows}"
    return found


def fetches_from_here(config: Config, model: schema.Model) -> bool:
    """Whether a request to the gateway may have that model fetch from a loopback address of this machine."""
    domains = by_name(model.vllm).get("allowed-media-domains")
    allowed = [] if config.root.gateway is None else config.root.gateway.media.allow_hosts
    listed = not domains or (isinstance(domains, list) and LOOPBACK in domains)
    return listed and (allowed == "all" or any(_covers(one, LOOPBACK) for one in allowed))


def _covers(allowed: str, address: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(allowed, strict=False)
    except ValueError:
        return fnmatchcase(address, allowed)
