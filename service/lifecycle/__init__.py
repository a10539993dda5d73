"""The use cases between the API and the ports: what a request means, whoever presents it.

Nothing here knows HTTP, a driver or a worker. Errors are the domain's; `Refused` carries places in the definition.
"""

from __future__ import annotations

from service.lifecycle.checkpoints import Checkpoints
from service.lifecycle.errors import Refused
from service.lifecycle.jobs import Jobs
from service.lifecycle.named import Credentials, Datasources, Tokens
from service.lifecycle.published import Keys, Tables
from service.lifecycle.verbs import BulkResult, Verbs

__all__ = [
    "BulkResult",
    "Checkpoints",
    "Credentials",
    "Datasources",
    "Jobs",
    "Keys",
    "Refused",
    "Tables",
    "Tokens",
    "Verbs",
]
