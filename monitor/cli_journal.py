"""The commands below `pellucid journal`: does it hold, what was told of an embryo, all of it for somebody else.

They read beside a daemon that may be at work, and change nothing.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TypeAlias

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_journal(commands: _Commands) -> None:
    journal = commands.add_parser("journal", help="the record of what was told, and from what")
    what = journal.add_subparsers(required=True, metavar="WHAT")
    verify = what.add_parser("verify", help="hold every row against the hash chain; exit 1, and the first bad row")
    verify.add_argument(
        "--head", type=_head, action="append", default=[], metavar="NUMBER:HASH", help="a head kept elsewhere"
    )
    verify.set_defaults(command=_verify)
    show = what.add_parser("show", help="an embryo's story, in order of its telling")
    show.add_argument("embryo", help="its embryo_id, or incubator/dish/well for all that lay there")
    show.set_defaults(command=_show)
    export = what.add_parser("export", help="all rows of the chain with what they tell of")
    export.add_argument("--format", choices=("jsonl", "csv"), default="jsonl")
    export.add_argument("--embryo", help="only this embryo_id's, or incubator/dish/well")
    export.add_argument("--out", type=Path, help="a file that is not there yet (default: standard output)")
    export.set_defaults(command=_export)
    for parser in (verify, show, export):
        where = parser.add_mutually_exclusive_group(required=True)
        where.add_argument("--config", type=Path, help="the journal of this configuration")
        where.add_argument("--storage", type=Path, help="the folder that holds journal.sqlite")


def _head(text: str) -> tuple[int, str]:
    match = re.fullmatch(r"(\d+):([0-9a-f]{64})", text)
    if match is None:
        raise argparse.ArgumentTypeError("NUMBER:HASH, the hash 64 hex digits, as health tells them")
    return int(match[1]), match[2]


def _folder(arguments: argparse.Namespace) -> Path:
    from monitor.config import read_config

    return Path(arguments.storage if arguments.config is None else read_config(arguments.config).storage.path)


def _verify(arguments: argparse.Namespace) -> int:
    from monitor.audit_check import MOST_FAULTS, check
    from monitor.database import opened_for_reading

    with opened_for_reading(_folder(arguments)) as db:
        report = check(db, dict(arguments.head))
    number, made = report.head
    if not report.faults:
        pruned = f", rows up to {report.pruned_through} pruned" if report.pruned_through else ""
        covered = ", ".join(f"{count} in {table}" for table, count in sorted(report.covered.items()))
        print(f"the journal holds: {report.rows} rows of the chain{pruned}; {covered or 'nothing told yet'}")
        print(f"head {number}:{made}")
        if not report.sealed:
            print("not sealed by a clean stop: counters, the outbox and what an incubator is watched for are not held")
        return 0
    print(f"the journal is broken: {report.faults[0]}", file=sys.stderr)
    for fault in report.faults[1:MOST_FAULTS]:
        print(f"  also {fault}", file=sys.stderr)
    if len(report.faults) > MOST_FAULTS:
        print(f"  and {len(report.faults) - MOST_FAULTS} more", file=sys.stderr)
    return 1


def _show(arguments: argparse.Namespace) -> int:
    from monitor.audit_story import story
    from monitor.database import opened_for_reading

    with opened_for_reading(_folder(arguments)) as db:
        for line in story(db, arguments.embryo):
            print(line)
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from monitor.audit_story import export
    from monitor.database import opened_for_reading
    from monitor.errors import ConfigError

    with opened_for_reading(_folder(arguments)) as db:
        if arguments.out is None:
            export(db, sys.stdout, arguments.format, arguments.embryo)
            return 0
        try:
            with arguments.out.open("x", encoding="utf-8", newline="") as file:
                count = export(db, file, arguments.format, arguments.embryo)
        except OSError as fault:
            raise ConfigError(f"--out {arguments.out}: {fault.strerror}") from fault
    print(f"{count} rows in {arguments.out}")
    return 0
