"""The `rove` command. Parses arguments, then imports what the subcommand needs and runs it.

An error made by Rove is one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from rove.errors import RoveError

_OVERRIDES = "settings that replace the file's, as in serving.port=8001"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return _COMMANDS[options.command](options)
    except RoveError as error:
        print(f"rove {options.command}: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("rove", description="A recommender that keeps learning.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="serve the current release over HTTP")
    serve.add_argument("config", help="YAML configuration")
    serve.add_argument("overrides", nargs="*", metavar="a.b=c", help=_OVERRIDES)
    serve.add_argument("--address", help="a running Ray cluster; also read from RAY_ADDRESS")

    load = commands.add_parser("load", help="load the interaction files into the ledger")
    load.add_argument("config", help="YAML configuration")
    load.add_argument("overrides", nargs="*", metavar="a.b=c", help=_OVERRIDES)

    keys = commands.add_parser("keys", help="make, list and revoke the API keys")
    actions = keys.add_subparsers(dest="action", required=True, metavar="ACTION")
    new = actions.add_parser("new", help="make a key and print it, once")
    for_all = (new, actions.add_parser("list", help="say which keys there are"))
    revoke = actions.add_parser("revoke", help="make a key invalid, within a second")
    for action in (*for_all, revoke):
        action.add_argument("config", help="YAML configuration; access.keys names the file")
    new.add_argument("name", help="whose key it is")
    revoke.add_argument("key", metavar="ID", help="the key's id, as `rove keys list` shows it")
    for action in (*for_all, revoke):
        action.add_argument("overrides", nargs="*", metavar="a.b=c", help=_OVERRIDES)
    new.add_argument("--role", choices=["read", "write", "admin"], required=True)
    new.add_argument("--expires-days", type=float, metavar="N", help="valid for so long")
    new.add_argument("--rate-per-s", type=float, metavar="N", help="instead of access.rate_per_s")
    new.add_argument("--burst", type=int, metavar="N", help="instead of access.burst")

    db = commands.add_parser("db", help="the schema version of the store")
    steps = db.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = "say which versions there are; status 1 if an upgrade is due"
    upgrade = "bring all shards and the catalogue to this Rove's version"
    for step in (steps.add_parser("check", help=check), steps.add_parser("upgrade", help=upgrade)):
        step.add_argument("config", help="YAML configuration")
        step.add_argument("overrides", nargs="*", metavar="a.b=c", help=_OVERRIDES)

    demo = commands.add_parser("demo", help="the whole loop on a real shop, with a report")
    demo.add_argument("overrides", nargs="*", metavar="a.b=c", help=_OVERRIDES)
    demo.add_argument("--config", default="examples/shop/rove.yaml", help="YAML configuration")
    demo.add_argument("--folder", default="outputs/demo", help="where everything is written")
    demo.add_argument("--invoices", type=int, metavar="N", help="replay the first N only")
    demo.add_argument("--keep", action="store_true", help="leave the server up at the end")
    demo.add_argument("--json", metavar="FILE", help="write every figure to FILE")
    return parser


def _serve(options: argparse.Namespace) -> int:
    module = importlib.import_module("serving.main")
    status: int = module.run(options.config, options.overrides, options.address)
    return status


def _load(options: argparse.Namespace) -> int:
    module = importlib.import_module("rove.load")
    status: int = module.run(options.config, options.overrides)
    return status


def _keys(options: argparse.Namespace) -> int:
    module = importlib.import_module("rove.keys")
    status: int = module.run(options)
    return status


def _db(options: argparse.Namespace) -> int:
    module = importlib.import_module("rove.db")
    status: int = module.run(options)
    return status


def _demo(options: argparse.Namespace) -> int:
    module = importlib.import_module("rove.demo.main")
    status: int = module.run(options)
    return status


_COMMANDS = {"serve": _serve, "load": _load, "keys": _keys, "db": _db, "demo": _demo}
