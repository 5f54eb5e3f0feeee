"""What `ewallet verify` finds in the books of a service that a test has at hand."""

import ewallet.auth.verify
import ewallet.payment.verify
import ewallet.wallet.verify
from ewallet.auth.service import AuthService
from ewallet.payment.service import PaymentService
from ewallet.wallet.service import WalletService
from tests.support.tampering import Faults

Service = AuthService | PaymentService | WalletService

_FAULTS: dict[type[Service], Faults] = {
    AuthService: ewallet.auth.verify.faults,
    PaymentService: ewallet.payment.verify.faults,
    WalletService: ewallet.wallet.verify.faults,
}


def faults_in(service: Service) -> list[str]:
    """A sentence for each fault."""
    find = _FAULTS[type(service)]
    return service._database.snapshot(lambda tx: list(find(tx, lambda _count: None)))
