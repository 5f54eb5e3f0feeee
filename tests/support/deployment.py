"""What `deploy/` shows of what the product writes; `python -m tests.support.deployment` prints it."""

import sys
from pathlib import Path

from ewallet.gateway.domain import GATEWAY, SERVICES
from ewallet.gateway.haproxy import Surroundings, configuration
from ewallet.plumbing.settings import Settings


def haproxy_example() -> str:
    """HAProxy's configuration for the containers of `deploy/compose.yaml`, but for the id of auth's key."""
    return configuration(
        Settings(host="0.0.0.0", port=8080),  # noqa: S104  # a container has an address of its own
        Surroundings(
            servers={name: [f"{name}:8080"] for name in (*SERVICES, GATEWAY)},
            keys={"KEY-ID": Path("/haproxy/keys/KEY-ID.pem")},
        ),
    )


if __name__ == "__main__":
    sys.stdout.write(haproxy_example())
