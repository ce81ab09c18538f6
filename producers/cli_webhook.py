"""`m3agiqa-submit webhook`: tries a receiver of callbacks."""

from __future__ import annotations

import argparse

from m3agiqa.client import Client
from m3agiqa.console import DONE, FAILED, say
from m3agiqa.errors import ConfigError


def add_commands(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    test = commands.add_parser(
        "test", help="post a made-up verdict of type webhook.test, signed by the workers' settings, and a forged one"
    )
    test.add_argument("callback_url", metavar="URL")
    test.set_defaults(run=_test)


def _test(client: Client, arguments: argparse.Namespace) -> int:
    try:
        from worker.delivery.trial import trial
        from worker.settings import Settings
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed: pip install 'm3agiqa[deliver]'") from None
    wrong = trial(Settings.from_environment(), arguments.callback_url, client.tenant)
    for line in wrong:
        say(line)
    if not wrong:
        print("it took a verdict of ours, and refused one that a stranger signed")
    return FAILED if wrong else DONE
