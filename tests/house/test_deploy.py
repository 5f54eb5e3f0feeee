"""What lies in `deploy/` is what the code says, and is well formed as far as can be told without containers."""

from tests.house.tree import text_files
from tests.support.deployment import haproxy_example


def test_haproxy_s_configuration_is_the_one_that_the_code_writes() -> None:
    assert text_files()["deploy/haproxy/haproxy.cfg"] == haproxy_example(), "run `make haproxy-example`"
