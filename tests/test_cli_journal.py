"""`pellucid journal`: what it prints, what it writes, and how it ends."""

from __future__ import annotations

import csv
import itertools
import json
import os
import sqlite3
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from monitor.cli import main
from tests.house import START, FakeClock, node_over, take_all, write_frame

EMBRYO = "inc1/D1/1/20260105T080000Z"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    node = node_over(tmp_path, FakeClock(START + timedelta(days=1)), insemination=START - timedelta(hours=20))
    for well, hours in (("1", (0, 7, 8)), ("10", (0,))):
        for hour in hours:
            write_frame(tmp_path / "inc", well, START + timedelta(hours=hour), level=0 if hour == 8 else 100)
    take_all(node)
    node.journal.seal(START)
    node.journal.close()
    return tmp_path / "store"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["journal", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_whole_journal_is_exit_0_and_its_head_is_one_that_it_takes_back(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "verify", "--storage", str(store))
    assert code == 0 and "4 in reading" in out and "not sealed" not in out
    head = out.split("head ")[1].split()[0]
    assert run(capsys, "verify", "--storage", str(store), "--head", head)[0] == 0
    forged = head.split(":")[0] + ":" + "0" * 64
    code, _, err = run(capsys, "verify", "--storage", str(store), "--head", forged)
    assert code == 1 and "kept elsewhere" in err


def test_a_broken_journal_is_exit_1_and_the_first_bad_row_is_named(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with sqlite3.connect(store / "journal.sqlite") as db:
        (number,) = db.execute("SELECT number FROM audit WHERE kind = 'reading' ORDER BY number").fetchone()
        db.execute("UPDATE reading SET body = replace(body, '0.', '1.') WHERE frame_key = '20260105T080000Z'")
    db.close()
    code, out, err = run(capsys, "verify", "--storage", str(store))
    assert (code, out) == (1, "")
    assert err.startswith(f"the journal is broken: row {number}: the reading that it tells of was changed")


def test_the_story_of_an_embryo_tells_its_frames_in_order_its_memories_and_the_software(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "show", EMBRYO, "--storage", str(store))
    lines = out.splitlines()
    assert code == 0 and lines[0] == EMBRYO
    told = [line for line in lines if "reading" in line]
    assert ["20.0 hpi" in told[0], "27.0 hpi" in told[1], "unfit" in told[2]] == [True] * 3
    assert "P(blastocyst)" in told[0] and "from 7 pictures" in told[0] and "flags" in told[2]
    assert any("now remembers" in line and "before nothing" in line for line in lines)
    assert any("start" in line and '"boot_id": "boot1"' in line for line in lines)
    assert "inc1/D1/10" not in out


def test_a_well_is_named_for_all_that_lay_in_it_and_an_unknown_embryo_is_refused_with_its_name(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "show", "inc1/D1/1", "--storage", str(store))[1].splitlines()[0] == EMBRYO
    code, _, err = run(capsys, "show", "inc1/D9/1", "--storage", str(store))
    assert code == 78 and "'inc1/D9/1'" in err


def test_an_export_has_a_line_for_each_row_in_both_formats_and_holds_what_was_told(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = run(capsys, "export", "--storage", str(store))
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["number"] for row in rows] == list(range(1, len(rows) + 1))
    assert all(b["previous"] == a["hash"] for a, b in itertools.pairwise(rows))
    (first, *_) = [row for row in rows if row["kind"] == "reading"]
    assert first["told"]["schema"] == "pellucid.reading/1" and len(first["body"]["pictures"]) == 7
    path = tmp_path / "all.csv"
    assert run(capsys, "export", "--storage", str(store), "--format", "csv", "--out", str(path))[0] == 0
    with path.open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["hash"] for row in table] == [row["hash"] for row in rows]
    assert json.loads(next(row["told"] for row in table if row["kind"] == "reading")) == first["told"]
    code, _, err = run(capsys, "export", "--storage", str(store), "--out", str(path))
    assert code == 78 and "File exists" in err, "nothing is written over"


def test_an_export_of_one_embryo_holds_no_other(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "export", "--storage", str(store), "--embryo", "inc1/D1/1")
    assert {json.loads(line)["subject"] for line in out.splitlines()} == {f"embryo/{EMBRYO}"}


@pytest.mark.parametrize("what", [("verify",), ("show", "a/b/c"), ("export",)])
def test_a_folder_without_a_journal_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], what: tuple[str, ...]
) -> None:
    code, _, err = run(capsys, *what, "--storage", str(tmp_path))
    assert code == 78 and "there is no journal" in err


def test_a_reader_that_has_had_enough_is_no_failure(store: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "monitor", "journal", "export", "--storage", str(store)]
    ended = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, "")
