"""Nobody is let in whom a long wait expects, and nobody else is turned away."""

from prometheus_client import REGISTRY

from ewallet.plumbing.http.admission import WINDOW_SECONDS, Admission, Admissions


class Work:
    """Requests that arrive at an admission, and are done, at a speed and a time that the test sets."""

    def __init__(self, *, seconds: float, least: int = 1) -> None:
        self.now = 0.0
        self.under_way = 0
        self.admission = Admission("payment", seconds, least=least, clock=lambda: self.now)

    def arrive(self, number: int) -> int:
        """How many of so many were let in."""
        let_in = 0
        for _ in range(number):
            if self.admission.has_room():
                self.admission.begin()
                let_in += 1
        self.under_way += let_in
        return let_in

    def done(self, number: int) -> None:
        for _ in range(min(number, self.under_way)):
            self.admission.end()
            self.under_way -= 1

    def window(self, *, arriving: int, done: int) -> int:
        """So many arrive and so many can be done while one window passes."""
        let_in = self.arrive(arriving)
        self.done(done)
        self.now += WINDOW_SECONDS
        return let_in


def test_a_burst_after_silence_is_let_in() -> None:
    """Nothing is known of the speed yet, so nothing speaks against them."""
    assert Work(seconds=1).arrive(5_000) == 5_000


def test_a_little_load_says_nothing_about_the_speed() -> None:
    """Two clients who take turns are done as slowly as they ask."""
    work = Work(seconds=1)
    for _ in range(20):
        work.window(arriving=2, done=2)

    assert work.arrive(500) == 500


def test_under_overload_nobody_waits_longer_than_the_bound() -> None:
    """Done are 100 a window, 800 a second: so no more than 800 are under way with a bound of one second."""
    work = Work(seconds=1)
    for _ in range(50):
        work.window(arriving=500, done=100)
        assert work.under_way <= 800 + 500, "but for those of the first window, whose speed was not known"

    assert work.under_way == 700
    assert work.window(arriving=500, done=100) == 100, "as many are let in as are done"


def test_when_the_load_is_gone_everybody_is_let_in_again() -> None:
    work = Work(seconds=1)
    for _ in range(20):
        work.window(arriving=500, done=100)
    for _ in range(10):
        work.window(arriving=0, done=100)
    work.window(arriving=1, done=1)

    assert work.arrive(5_000) == 5_000


def test_what_becomes_slow_takes_on_less_and_what_becomes_fast_more() -> None:
    work = Work(seconds=1)
    for _ in range(50):
        work.window(arriving=500, done=100)
    for _ in range(50):
        work.window(arriving=500, done=20)
    slow = work.under_way
    for _ in range(50):
        work.window(arriving=500, done=100)

    assert slow < 200
    assert work.under_way > 600


def test_while_nothing_is_done_a_batch_is_let_in_and_no_more() -> None:
    """A disk that hangs: who comes now has nothing to hope for."""
    work = Work(seconds=1, least=256)
    for _ in range(4):
        work.window(arriving=64, done=0)
    for _ in range(40):
        work.window(arriving=64, done=0)

    assert work.under_way == 256


def test_who_is_turned_away_is_counted() -> None:
    labels = {"service": "payment"}
    before = REGISTRY.get_sample_value("ewallet_turned_away_total", labels) or 0
    work = Work(seconds=1, least=10)
    work.window(arriving=10, done=0)
    work.arrive(3)

    assert REGISTRY.get_sample_value("ewallet_turned_away_total", labels) == before + 3


def test_only_what_changes_something_and_comes_from_outside_must_pass() -> None:
    """Reads, health and metrics are always answered, and so is what a service asks on behalf of what was let in."""
    admissions = Admissions(1)

    assert admissions.of(b"POST", b"/payment/initiate") is not None
    assert admissions.of(b"PUT", b"/wallet/usr_1/limits/USD") is not None
    assert admissions.of(b"GET", b"/payment/pay_1") is None
    assert admissions.of(b"POST", b"/internal/wallet/groups") is None
    assert admissions.of(b"GET", b"/health/ready") is None


def test_each_service_has_an_admission_of_its_own() -> None:
    """A flood of logins keeps nobody from paying."""
    admissions = Admissions(1)

    assert admissions.of(b"POST", b"/auth/login") is not admissions.of(b"POST", b"/payment/initiate")
    assert admissions.of(b"POST", b"/payment/initiate") is admissions.of(b"POST", b"/payment/pay_1/refund")


def test_without_a_bound_nobody_is_turned_away() -> None:
    assert Admissions(0).of(b"POST", b"/payment/initiate") is None
