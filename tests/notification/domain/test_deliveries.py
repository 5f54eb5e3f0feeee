"""Attempts come again for a day, and then no more."""

from ewallet.notification.domain.deliveries import JITTER_PARTS, RETRY_SECONDS, Outcome, Progress, State, Verdict, after

FAILED = Outcome(Verdict.FAILED, 500)
SECOND = 1_000_000
DAY = 24 * 3600


def test_what_is_taken_is_over() -> None:
    assert after(Outcome(Verdict.TAKEN, 204), attempts=3, now=7, jitter=0) == Progress(State.DELIVERED, 4, 7)


def test_what_is_refused_for_good_is_a_dead_letter_at_once() -> None:
    for verdict in (Verdict.REFUSED, Verdict.GONE):
        assert after(Outcome(verdict), attempts=0, now=7, jitter=0) == Progress(State.DEAD, 1, 7)


def test_a_failure_is_tried_again_within_seconds_and_then_ever_more_rarely_for_a_day() -> None:
    for jitter in (0, JITTER_PARTS - 1):
        attempts, now, pauses = 0, 0, list[int]()
        while (progress := after(FAILED, attempts=attempts, now=now, jitter=jitter)).state is State.PENDING:
            pauses.append(progress.next_attempt_at - now)
            attempts, now = progress.attempts, progress.next_attempt_at

        assert pauses == sorted(pauses)
        assert pauses[0] <= 3 * SECOND
        assert 0.79 * DAY * SECOND < now <= DAY * SECOND
        assert progress == Progress(State.DEAD, len(RETRY_SECONDS) + 1, now)


def test_what_failed_together_does_not_come_back_together() -> None:
    moments = {after(FAILED, attempts=5, now=0, jitter=jitter).next_attempt_at for jitter in range(JITTER_PARTS)}

    assert len(moments) == JITTER_PARTS
