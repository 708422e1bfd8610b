"""What became of each embryo, in the audit: a row when its run ends, and the first predictions for good.

It reads an embryo's own readings and assessments; what the rows come to is `monitor.outcomes`'.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from monitor.audit import COLUMNS, Audit, Link
from monitor.database import Database
from monitor.outcomes import LAST, Outcome, check_values
from monitor.vocabulary import PHASES

_BLASTOCYST_FROM = PHASES.index("tB")
_KNOWN_FROM_HPI = 116.0  # before this hour "no blastocyst" is no answer


class OutcomeTable:
    """Rows of outcomes over one database connection. `end` and `freeze` belong into a transaction."""

    def __init__(self, database: Database, audit: Audit) -> None:
        self._db, self._audit = database.connection, audit

    def end(self, incubator: str, embryo_id: str, now: datetime) -> None:
        """A run is over: put what is known of its embryo; nothing where no frame of it was judged."""
        query = "SELECT body FROM reading WHERE embryo_id = ? AND revision = 1 ORDER BY frame_order"
        told = [json.loads(body) for (body,) in self._db.execute(query, (embryo_id,)).fetchall()]
        judged = [one for one in told if one["outcome"] == "judged"]
        if not judged:
            return
        reached, said_by = _reached(self._assessments(embryo_id), judged)
        body = {
            "embryo_id": embryo_id,
            "predicted": check_values((one["frame"]["hpi"], one["blastocyst"]["probability"]) for one in judged),
            "reached": reached,
            "said_by": said_by,
            "model": self._model(),
        }
        self._audit.append("outcome", _subject(incubator), body, now)

    def _assessments(self, embryo_id: str) -> list[dict[str, Any]]:
        rows = self._db.execute("SELECT body FROM assessment WHERE embryo_id = ? ORDER BY number DESC", (embryo_id,))
        return [json.loads(body) for (body,) in rows]

    def _model(self) -> str:
        """The graph of the blastocyst model that serves."""
        last = self._audit.last("models")
        models = {} if last is None else json.loads(last.body)["value"]
        return next((str(one["sha256"]) for one in models.values() if one["task"] == "blastocyst"), "")

    def since(self, incubator: str, number: int) -> list[tuple[int, Outcome]]:
        """Rows above a number of the chain, the last ones at most, oldest first."""
        rows = self._db.execute(
            f"SELECT {COLUMNS} FROM audit WHERE subject = ? AND number > ? ORDER BY number DESC LIMIT ?",
            (_subject(incubator), number, LAST),
        ).fetchall()
        links = [Link(*row) for row in reversed(rows)]
        return [(link.number, _outcome(json.loads(link.body))) for link in links]

    def freeze(self, incubator: str, model: str, reference: dict[str, list[float]], now: datetime) -> None:
        """The first predictions of a model, for good."""
        self._audit.append_change("reference", f"predictions/{incubator}", {"model": model, "days": reference}, now)

    def reference(self, incubator: str) -> tuple[str, dict[str, list[float]]]:
        """Whose, and day -> sorted; empty before there is one."""
        last = self._audit.last(f"predictions/{incubator}")
        value: dict[str, Any] = {"model": "", "days": {}} if last is None else json.loads(last.body)["value"]
        return value["model"], value["days"]


def _subject(incubator: str) -> str:
    return f"outcomes/{incubator}"


def _outcome(body: dict[str, Any]) -> Outcome:
    return Outcome(body["predicted"], body["reached"], body["said_by"], body["model"])


def _reached(assessments: list[dict[str, Any]], judged: list[dict[str, Any]]) -> tuple[bool | None, str | None]:
    """Whether an embryo became a blastocyst, and who says so: an embryologist before any network."""
    hpi = judged[-1]["frame"]["hpi"]
    late = hpi is not None and hpi >= _KNOWN_FROM_HPI
    for said in assessments:
        if said.get("grade") is not None:
            return True, "assessment"
        if said.get("stage") is not None and (_is_blastocyst(said["stage"]) or late):
            return _is_blastocyst(said["stage"]), "assessment"
    day5 = next((one["day5"] for one in reversed(judged) if one["day5"]), None)
    if day5 is not None and day5["outcome"] == "graded":
        return True, "day5"
    stage = next((one["stage"] for one in reversed(judged) if one["stage"]), None)
    if stage is not None and (_is_blastocyst(stage["revised"]) or late):
        return _is_blastocyst(stage["revised"]), "stage"
    if day5 is not None and day5["outcome"] == "no_blastocyst" and late:
        return False, "day5"
    return None, None


def _is_blastocyst(phase: str) -> bool:
    return PHASES.index(phase) >= _BLASTOCYST_FROM
