"""Whether a payment has become slower: ``python -m bench.guard``, the last step of ``make test``.

A short run of payments, as a share of the limit that the same run measures, beside the share in ``recorded.json``. The
machine's speed is in both. A share that is more than a quarter below the recorded one is an error: another program may
have disturbed a run, but not three in a row.
"""

import json
import sys
import tempfile
from pathlib import Path

from bench import ceilings
from bench.load import with_wrk
from bench.people import People
from bench.platform import free_port, platform

RECORDED = Path(__file__).with_name("recorded.json")
ALLOWED = 0.75
ATTEMPTS = 3

CONNECTIONS = 64
CUSTOMERS = 64
MERCHANTS = 16
CEILING_SECONDS = 1
WARM_UP_SECONDS = 1
SECONDS = 3


def main() -> None:
    """Compare; exits with an error where every attempt was too slow. ``--record`` writes the share of this machine."""
    if sys.argv[1:] == ["--record"]:
        shares = sorted(measured_share() for _ in range(ATTEMPTS))
        RECORDED.write_text(json.dumps({"share of the limit": round(shares[ATTEMPTS // 2], 2)}) + "\n")
        print(f"recorded the median of {', '.join(f'{share:.0%}' for share in shares)}")
        return
    recorded = json.loads(RECORDED.read_text())["share of the limit"]
    for _ in range(ATTEMPTS):
        share = measured_share()
        print(f"payments at {share:.0%} of the limit, recorded are {recorded:.0%}")
        if share >= ALLOWED * recorded:
            return
    raise SystemExit("A payment has become slower: profile it, or say why and `make guard RECORD=1`.")


def measured_share() -> float:
    """Payments at the usual concurrency as a share of the limit, both measured within some ten seconds."""
    with tempfile.TemporaryDirectory(prefix="ewallet-guard-") as name:
        folder = Path(name)
        echo = ceilings.echo(folder, connections=CONNECTIONS, seconds=CEILING_SECONDS)
        store = ceilings.store(folder, customers=CONNECTIONS, seconds=SECONDS)
        return _payments_per_second(folder) / ceilings.limit(echo.per_second, store)


def _payments_per_second(folder: Path) -> float:
    port = free_port()
    with platform(folder / "platform", port, {}):
        base_url = f"http://127.0.0.1:{port}"
        payments = People(base_url, customers=CUSTOMERS, merchants=MERCHANTS).payments()
        with_wrk(base_url, payments, folder, connections=CONNECTIONS, seconds=WARM_UP_SECONDS)
        return with_wrk(base_url, payments, folder, connections=CONNECTIONS, seconds=SECONDS).per_second


if __name__ == "__main__":
    main()
