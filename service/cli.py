"""The command `rowferry`.

Exit codes: 0 done, 1 refused or failed (said on standard error), 2 wrong use.
"""

from __future__ import annotations

import argparse
import signal
import sys
from typing import TYPE_CHECKING

from config.allocator import keep_little
from config.settings import Settings, SettingsError, load
from service import __version__
from service.domain.errors import RowferryError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from workers.signals import Signals


def main(
    arguments: Sequence[str] | None = None, *, signals: Signals | None = None, lease_seconds: float = 10.0
) -> None:
    """Parse, run, exit. For the test suite: `signals` hears of the points that workers reach; shorter leases make the
    successor of a dead process come sooner."""
    options = _parser().parse_args(arguments)
    if options.command == "version":
        print(f"rowferry {__version__}")
        return
    try:
        settings = load(toml_path=options.config)
        code = _execute(_command(options, settings, signals, lease_seconds))
    except SettingsError as error:
        _complain(*error.problems)
        code = 1
    except RowferryError as error:
        _complain(error.message, *filter(None, [error.hint]))
        code = 1
    sys.exit(code)


def _command(
    options: argparse.Namespace, settings: Settings, signals: Signals | None, lease_seconds: float
) -> Coroutine[object, object, int | None]:
    # Imported here: `rowferry version` and wrong settings answer without loading drivers.
    from service import app, check, keys, rekey  # noqa: PLC0415

    match options.command:
        case "serve":
            return app.serve(settings, migrating=not options.no_migrate, signals=signals, lease_seconds=lease_seconds)
        case "worker":
            return app.work(settings, signals=signals, lease_seconds=lease_seconds)
        case "migrate":
            return check.migrate_only(settings)
        case "secrets":
            return rekey.secrets(settings)
        case "keys":
            return keys.create(settings, name=options.name, role=options.role, account=options.account)
        case _:
            return check.check(settings)


def _execute(command: Coroutine[object, object, int | None]) -> int:
    import uvloop  # noqa: PLC0415 -- as `_command`

    keep_little()
    code = uvloop.run(command) or 0
    # Everything is put away: an impatient signal is no reason to leave with another code.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    return code


def _complain(*lines: str) -> None:
    for line in lines:
        print(f"rowferry: {line}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rowferry", description="Moves rows out of Postgres as jobs. Settings are ROWFERRY_* or a TOML file."
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file with a [rowferry] section")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="migrate, serve the API and run jobs")
    serve.add_argument("--no-migrate", action="store_true", help="refuse to start on an old schema instead")
    commands.add_parser("worker", help="run jobs of the same control database, without an API")
    commands.add_parser("migrate", help="bring the control database to this version's schema")
    signing = commands.add_parser("keys", help="key and secret pairs of the Devo dialect")
    create = signing.add_subparsers(dest="action", required=True, metavar="ACTION").add_parser(
        "create", help="make a pair and print it: the secret is shown this once"
    )
    create.add_argument("name", help="whose it is, for lists and events")
    create.add_argument("--role", choices=("viewer", "operator", "admin"), default="operator", help="default: operator")
    create.add_argument("--account", default="default", metavar="NAME", help="default: default")
    secrets = commands.add_parser("secrets", help="what is stored encrypted")
    secrets.add_subparsers(dest="action", required=True, metavar="ACTION").add_parser(
        "rekey", help="encrypt every stored secret anew under the newest key, so that an older one can go"
    )
    commands.add_parser("check", help="try the settings and every dependency, one by one")
    commands.add_parser("version", help="print the version")
    return parser
