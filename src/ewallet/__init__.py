"""An e-wallet and payment platform: five services in one package.

They run together in one process or apart over HTTP, from the same code; `ARCHITECTURE.md` has the map.
"""

__version__ = "0.1.0"
