"""The command line of the gateway."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.util import find_spec

from m3agiqa import console
from m3agiqa.errors import ConfigError
from m3agiqa.gateway import keys
from m3agiqa.gateway.keys import Keyring
from m3agiqa.queue.address import Address

#: What the extra `gateway` brings.
_PACKAGES = ("pydantic_settings", "starlette", "uvicorn", "python_multipart")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns its exit code, one of those in `console`."""
    return console.run(lambda: _run(argv), as_process=argv is None)


def _run(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    for package in _PACKAGES:
        if find_spec(package) is None:
            raise ConfigError("the gateway takes more packages: pip install 'm3agiqa[gateway]'")
    from m3agiqa.gateway.settings import Settings

    settings = Settings.from_environment()
    if arguments.command == "keys":
        print(keys.new(settings.keys_file, arguments.tenant, arguments.expires))
        return console.DONE
    # What is wrong with these is said here once, and not by each process.
    Keyring(settings.keys_file)
    Address.from_environment()
    from m3agiqa.gateway import server

    server.run(settings)
    return console.DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="m3agiqa-gateway",
        description="Serve the queue over HTTP, as the environment says (M3AGIQA_GATEWAY_...).",
        epilog="keys new TENANT [--expires DATE]: make an API key of a tenant, and print it.",
    )
    console.add_version(parser)
    commands = parser.add_subparsers(dest="command", metavar="keys")
    below = commands.add_parser("keys", help="API keys").add_subparsers(required=True)
    new = below.add_parser("new", help="make a key, add it to the file of keys, and print it: it is kept nowhere")
    new.add_argument("tenant", help="whose key it is")
    new.add_argument("--expires", type=_time, metavar="DATE", help="when it ends, such as 2027-01-31 (UTC)")
    return parser


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no date such as 2027-01-31") from None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


if __name__ == "__main__":
    sys.exit(main())
