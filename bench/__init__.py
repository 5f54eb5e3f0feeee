"""How fast a payment is, beside two ceilings that say how fast it could be on this machine: ``make bench``."""
