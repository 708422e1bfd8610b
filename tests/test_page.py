"""The page over a real journal: what is shown, what is unknown, what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `web` is not installed")

from fastapi.testclient import TestClient
from markupsafe import escape

from monitor.body import INTENDED_USE
from monitor.errors import FrameError
from monitor.journal import Entry, Journal
from monitor.vocabulary import Outcome
from monitor.web import virtual
from monitor.web.app import Page, application, page_of
from monitor.web.gallery import Cache, Gallery, inside
from monitor.web.health import Figures, Health
from monitor.web.look import Source
from monitor.web.words import FLAG_WORDS
from tests.pages import START, commands_over, filled, key, page_config, pictured, wells

PNG = bytes.fromhex("89504e470d0a1a0a") + b"an overlay"


PLACES = [*wells("1", "2", "3", "10"), *wells("1", dish="D10"), *wells("1", dish="D2")]


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Journal, Path]]:
    """For tests that write nothing."""
    root = tmp_path_factory.mktemp("standing")
    made, _ = filled(root, PLACES)
    yield made, root
    made.close()


@pytest.fixture
def seen(standing: tuple[Journal, Path]) -> TestClient:
    return client_of(page_over(standing[1]))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made, _ = filled(tmp_path, PLACES)
    yield made
    made.close()


def page_over(root: Path, health: Health | None = None) -> Page:
    return page_of(page_config(root), health or Health(None), behind_daemon=False)


def client_of(page: Page) -> TestClient:
    return TestClient(application(page), follow_redirects=False)


@pytest.fixture
def client(journal: Journal, tmp_path: Path) -> TestClient:
    return client_of(page_over(tmp_path))


EMBRYO = f"inc1/D1/2/{key(0)}"
EVERY_VIEW = (
    *("/", "/page/incubator/inc1", "/page/incubator/inc2", f"/page/embryo/{EMBRYO}", f"/page/report/{EMBRYO}"),
    *("/page/alerts", "/page/system", "/page/words", "/page/incubator/nowhere"),
)


@pytest.mark.parametrize("path", EVERY_VIEW)
def test_every_view_says_what_it_is_for_and_lets_nothing_come_from_elsewhere(seen: TestClient, path: str) -> None:
    answer = seen.get(path)
    assert INTENDED_USE.capitalize() in answer.text
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert not re.findall(r'(?:src|href|action)="(?!/|#)', answer.text), "an address that is not our own"
    assert not re.findall(r"<[^>]+ (?:style|on[a-z]+)=|<script(?![^>]+src=)", answer.text), "the policy would block it"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", EVERY_VIEW)
def test_no_view_says_what_to_do_with_an_embryo(seen: TestClient, path: str) -> None:
    assert not re.search(r"\b(transfer|discard|diagnos\w*)\b", seen.get(path).text, re.IGNORECASE)


def test_wells_lie_in_their_places_and_an_unknown_one_is_said_to_be_unknown(seen: TestClient) -> None:
    text = seen.get("/page/incubator/inc1").text
    dishes = re.findall(r"<h2[^>]*>Dish (\w+)</h2>", text)
    assert dishes == ["D1", "D2", "D10"]
    places = re.findall(r'<li class="card( empty)?[^"]*" id="w-D1-(\d+)"', text)
    assert places == [(" empty" if well not in (1, 2, 3, 10) else "", str(well)) for well in range(1, 11)]


def test_a_card_tells_number_spread_stage_and_the_newest_picture(
    seen: TestClient, standing: tuple[Journal, Path]
) -> None:
    journal, text = standing[0], seen.get("/page/incubator/inc1?part=cards").text
    card = text.partition('id="w-D1-2"')[2].partition("</li>")[0]
    told = journal.latest_reading(EMBRYO, key(118))
    assert told is not None and told.blastocyst is not None and told.blastocyst.spread is not None
    assert f">{told.blastocyst.probability:.2f}</b>" in card
    assert f"± {told.blastocyst.spread / 2:.2f}" in card
    assert "<b>tHB</b> hatching blastocyst" in card
    assert f"/page/picture/{EMBRYO}/{key(118)}/0.jpg?side=320" in card
    assert "118.0 h" in card


def test_a_newest_frame_that_was_not_judged_shows_the_last_number_with_its_hour_and_the_reason(tmp_path: Path) -> None:
    made, _ = filled(tmp_path, wells("1"), hours=42)  # from 40 h on its frames are blurred
    card = client_of(page_over(tmp_path)).get("/page/incubator/inc1").text
    assert "P(blastocyst) at 38.0 h" in card
    assert "not judged: the pictures are not fit (blurred)" in card
    made.close()


def test_without_a_stage_model_the_stage_is_unknown_and_why_is_said(tmp_path: Path) -> None:
    made, (embryo,) = filled(tmp_path, wells("1"), staged=False)
    client = client_of(page_over(tmp_path))
    assert "stage unknown: no stage model serves" in client.get("/page/incubator/inc1").text
    text = client.get(f"/page/embryo/{embryo}").text
    assert "unknown: no stage was told" in text
    assert "Onsets unknown: no stage model serves" in text
    made.close()


def test_a_place_without_a_journal_is_told_and_is_no_error_of_ours(tmp_path: Path) -> None:
    client = client_of(page_over(tmp_path))
    answer = client.get("/page/incubator/inc1")
    assert answer.status_code == 503
    assert "there is no journal yet" in answer.text
    assert client.get("/api/v1/embryos").json()["error"].endswith("the daemon makes it")


def test_the_page_sees_what_is_written_while_it_is_open(client: TestClient, journal: Journal) -> None:
    assert "low P(blastocyst)" not in client.get("/page/incubator/inc1").text
    alert = virtual.raise_alert(journal, EMBRYO, START)
    assert "low P(blastocyst)" in client.get("/page/incubator/inc1?part=cards").text
    assert escape(alert.text) in client.get("/page/alerts").text
    (listed,) = client.get("/api/v1/alerts").json()["alerts"]
    assert listed["alert_id"] == alert.alert_id


def test_a_refresh_is_answered_in_full_only_after_something_was_written(client: TestClient, journal: Journal) -> None:
    first = client.get("/page/incubator/inc1?part=cards")
    known = {"If-None-Match": first.headers["ETag"]}
    again = client.get("/page/incubator/inc1?part=cards", headers=known)
    assert (again.status_code, again.content) == (304, b"")
    virtual.raise_alert(journal, EMBRYO, START)
    after = client.get("/page/incubator/inc1?part=cards", headers=known)
    assert after.status_code == 200 and "low P(blastocyst)" in after.text
    assert after.headers["ETag"] != first.headers["ETag"]


def test_the_daemon_writes_on_while_the_page_looks(client: TestClient, journal: Journal, tmp_path: Path) -> None:
    page = page_over(tmp_path)
    with page.look._looker.looking() as look:
        look.rows("SELECT COUNT(*) FROM reading")
        virtual.raise_alert(journal, EMBRYO, START)  # would wait for ever, or fail, if the look held the writer up
    assert len(page.look.open_alerts()) == 1


def test_the_course_has_a_band_stages_and_its_numbers_beside_it(seen: TestClient) -> None:
    text = seen.get(f"/page/embryo/{EMBRYO}").text
    assert text.count('class="band"') == 1
    assert 'class="s15"' in text and "<title>tHB: hatching blastocyst</title>" in text
    assert '<li title="morula"><b>tM</b> 86.0<small> ± 0.8</small></li>' in text


def test_a_course_is_cut_where_no_frame_was_judged(tmp_path: Path) -> None:
    made, (embryo,) = filled(tmp_path, wells("1"))
    text = client_of(page_over(tmp_path)).get(f"/page/embryo/{embryo}").text
    chart = text.partition('<svg class="course"')[2].partition("</svg>")[0]
    assert chart.count('class="curve"') == 2, "no line over the hours from 40 to 44"
    assert chart.count("l10 10m-10 0l10 -10") == 2, "two crosses"
    made.close()


def test_each_plane_that_came_can_be_leafed_to_and_one_that_did_not_is_marked(seen: TestClient) -> None:
    whole = seen.get(f"/page/embryo/{EMBRYO}?frame={key(118)}&plane=30").text
    assert len(re.findall(r'<a data-plane="[^"]+" href', whole)) == 7
    assert f"/page/picture/{EMBRYO}/{key(118)}/30.jpg?side=640" in whole
    first = seen.get(f"/page/embryo/inc1/D1/1/{key(0)}?frame={key(0)}").text
    assert len(re.findall(r'<a data-plane="[^"]+" href', first)) == 5
    assert len(re.findall(r'<a data-plane="[^"]+" aria-disabled="true"', first)) == 2


def test_frames_can_be_stepped_through_without_a_script(seen: TestClient) -> None:
    text = seen.get(f"/page/embryo/{EMBRYO}?frame={key(60)}&plane=15").text
    assert re.search(rf'rel="prev" href="[^"]+plane=15&(?:amp;)?frame={key(58)}"', text)
    assert re.search(rf'rel="next" href="[^"]+plane=15&(?:amp;)?frame={key(62)}"', text)
    assert "frame 31 of 60" in text


def test_pictures_are_made_small_and_kept(seen: TestClient) -> None:
    address = f"/page/picture/{EMBRYO}/{key(118)}/15.jpg"
    small, again = seen.get(f"{address}?side=20"), seen.get(f"{address}?side=20")
    assert small.status_code == 200 and small.content[:2] == b"\xff\xd8"
    assert small.content == again.content
    assert "immutable" in small.headers["Cache-Control"]


def test_a_picture_that_no_embryo_names_is_not_found(seen: TestClient) -> None:
    assert seen.get(f"/page/picture/{EMBRYO}/{key(118)}/7.jpg").status_code == 404
    assert seen.get(f"/page/picture/inc1/D1/99/{key(0)}/{key(0)}/0.jpg").status_code == 404


def test_a_picture_that_has_changed_since_it_was_judged_is_not_shown_as_that(
    client: TestClient, tmp_path: Path
) -> None:
    path = tmp_path / "inc" / "D1" / "2" / f"{key(118)}_F45.jpg"
    path.unlink()
    path.write_bytes((tmp_path / "plane_0.jpg").read_bytes())
    answer = client.get(f"/page/picture/{EMBRYO}/{key(118)}/45.jpg")
    assert answer.status_code == 404
    assert "no longer the picture that was judged" in answer.text


@pytest.mark.parametrize("path", ["../secret.jpg", "/etc/passwd", "a/../../secret.jpg", "out/secret.jpg"])
def test_a_path_that_leads_out_of_the_incubators_folder_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "inc").mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"x")
    (tmp_path / "inc" / "out").symlink_to(tmp_path)
    with pytest.raises(FrameError, match="leads out of the incubator's folder"):
        inside(tmp_path / "inc", path)


def test_a_journal_that_names_a_file_outside_gives_403(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"x")
    made, (embryo,) = filled(tmp_path, wells("1"), hours=0, pictures=lambda *_: ("../secret.jpg", "0" * 64))
    answer = client_of(page_over(tmp_path)).get(f"/page/picture/{embryo}/{key(0)}/30.jpg")
    assert answer.status_code == 403
    made.close()


async def _plane(gallery: Gallery, source: Source) -> bytes:
    return await gallery.plane("inc1", source, 320)


def test_a_folder_that_gives_no_answer_is_told_within_the_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio
    import threading

    let_go = threading.Event()
    monkeypatch.setattr("monitor.web.gallery._read", lambda *_: let_go.wait(30))
    gallery = Gallery(page_config(tmp_path).incubator, tmp_path, patience_s=0.05)
    (tmp_path / "inc").mkdir()
    for _ in range(3):  # also when both its threads hang
        with pytest.raises(FrameError, match="gives no answer"):
            asyncio.run(_plane(gallery, Source("a.jpg", 0, "0" * 64)))
    let_go.set()
    gallery.close()


def test_the_cache_of_pictures_keeps_to_its_limit_and_lets_the_oldest_go() -> None:
    cache = Cache(100)
    for number in range(10):
        cache.put((number,), bytes(30))
        cache.get((0,))
    assert cache.size_bytes <= 100
    assert cache.get((0,)) is not None, "it was asked for all the time"
    assert cache.get((1,)) is None


def test_day_5_shows_grade_picture_and_what_speaks_against_it(
    client: TestClient, journal: Journal, tmp_path: Path
) -> None:
    assert "no result yet" in client.get(f"/page/embryo/{EMBRYO}").text
    latest = journal.latest_reading(EMBRYO, key(118))
    assert latest is not None
    event = virtual.grade(journal, EMBRYO, latest, PNG, tmp_path / "store", START)
    text = client.get(f"/page/embryo/{EMBRYO}").text
    assert "<b>4AA</b>" in text and "zona" in text and "15210" in text
    overlay = client.get(f"/page/overlay/{event.day5.overlay}.png")
    assert overlay.content == PNG
    assert "day 5: 4AA" in client.get("/page/incubator/inc1").text


@pytest.mark.parametrize("name", ["0" * 64, "../../journal.sqlite", "x"])
def test_no_other_file_comes_out_as_an_overlay(seen: TestClient, name: str) -> None:
    assert seen.get(f"/page/overlay/{name}.png").status_code == 404


def test_an_embryo_whose_run_has_ended_can_still_be_seen(client: TestClient, journal: Journal) -> None:
    (run,) = journal.runs(wells("2")[0])
    journal.commit([Entry(run, (run, "gap"), None, run.latest, (), {}, None)], START)
    text = client.get(f"/page/embryo/{EMBRYO}").text
    assert "This run has ended (gap)" in text
    assert "118.0 h" in text and 'class="band"' in text
    assert EMBRYO in client.get("/page/incubator/inc1").text.partition("lay here before")[2]


def test_a_name_that_holds_markup_is_shown_as_text(seen: TestClient) -> None:
    answer = seen.get("/page/incubator/%3Cscript%3Ealert(1)%3C%2Fscript%3E")
    assert answer.status_code == 404
    assert "<script>alert" not in answer.text


def test_blind_first_hides_what_the_models_say_everywhere_until_it_is_assessed(
    tmp_path: Path,
) -> None:
    journal, (embryo, other) = filled(tmp_path, wells("1", "2"), blind_first=True)
    for kind in ("low_blastocyst_probability", "imaging_degraded"):
        virtual.raise_alert(journal, embryo, START, kind)
    client = client_of(page_of(page_config(tmp_path, blind_first=True), Health(None), behind_daemon=True))
    assert give(journal, "assess", incubator="inc1", dish="D1", well="2", grade="4AB")
    card = client.get("/page/incubator/inc1").text.partition('id="w-D1-1"')[2].partition("</li>")[0]
    assert "Scores hidden" in card and "imaging degraded" in card
    views = [card, *(client.get(f"/page/{view}/{embryo}").text for view in ("embryo", "report"))]
    for text in (*views, client.get("/page/alerts").text):
        seen = re.sub(r"<select.*?</select>", "", text, flags=re.DOTALL)  # the words to choose from
        assert not re.search(r"P\(blastocyst\)|hatching|tHB|class=\"curve\"|\b0\.\d\d .*probability", seen)
    told = client.get(f"/api/v1/embryos/{embryo}").json()
    assert told["hidden"] and told["latest"]["blastocyst"] is None and told["latest"]["lacks"]["stage"] == "withheld"
    (frame, *_) = client.get(f"/api/v1/embryos/{embryo}/frames").json()["frames"]
    assert (frame["probability"], frame["stage"], frame["spread"]) == (None, None, None)
    assert [one["kind"] for one in client.get("/api/v1/alerts").json()["alerts"]] == ["imaging_degraded"]
    assert "P(blastocyst)" in client.get(f"/page/embryo/{other}").text, "that one has been assessed"
    assert give(journal, "assess", incubator="inc1", dish="D1", well="1", grade="4AB", note="fine cells")
    text = client.get(f"/page/embryo/{embryo}").text
    assert "P(blastocyst)" in text and "tHB" in text and "low P(blastocyst)" in text
    assert "4AB" in text and "fine cells" in text
    journal.close()


def give(journal: Journal, command: str, **said: str) -> bool:
    """The daemon carries a command out."""
    return commands_over(journal).execute(command, json.dumps({"by": "mk", **said}).encode(), "http")[0].accepted


def test_who_has_taken_note_of_an_alert_is_shown(client: TestClient, journal: Journal, tmp_path: Path) -> None:
    alert = virtual.raise_alert(journal, EMBRYO, START)
    here = client_of(page_of(page_config(tmp_path), Health(None), behind_daemon=True))
    assert 'data-command="acknowledge"' in here.get("/page/alerts").text
    assert 'data-command="acknowledge"' not in client.get("/page/alerts").text, "alone it has nobody to tell"
    assert give(journal, "acknowledge", alert_id=alert.alert_id, note="seen <b>it</b>")
    text = here.get("/page/alerts").text
    assert "noted by <b>mk</b>" in text and "seen &lt;b&gt;it&lt;/b&gt;" in text
    assert 'data-command="acknowledge"' not in text
    assert "low P(blastocyst) (noted)" in here.get("/page/incubator/inc1").text


# -- JSON --------------------------------------------------------------------------------------------------------------


def test_the_api_lists_incubators_embryos_and_readings_page_by_page(
    seen: TestClient, standing: tuple[Journal, Path]
) -> None:
    client, journal = seen, standing[0]
    incubators = client.get("/api/v1/incubators").json()
    assert incubators["incubators"] == [{"name": "inc1", "embryos": 6}, {"name": "inc2", "embryos": 0}]
    assert incubators["intended_use"] == INTENDED_USE
    embryos = client.get("/api/v1/embryos?incubator=inc1").json()["embryos"]
    assert {one["embryo_id"] for one in embryos} >= {EMBRYO} and len(embryos) == 6
    told: list[str] = []
    after = ""
    while True:
        batch = client.get(f"/api/v1/embryos/{EMBRYO}/readings?limit=25{after}").json()
        told += [one["id"] for one in batch["readings"]]
        if batch["next"] is None:
            break
        after = f"&after={batch['next']}"
    recorded = [one.id for one in journal.latest_readings("inc1", 60) if one.embryo.embryo_id == EMBRYO]
    assert len(told) == 60 and told == recorded


def test_the_api_says_what_it_does_not_know(seen: TestClient) -> None:
    assert seen.get("/api/v1/embryos/inc1/D1/99/x").status_code == 404
    assert "inc1, inc2" in seen.get("/api/v1/embryos?incubator=inc9").json()["error"]
    assert seen.get(f"/api/v1/embryos/{EMBRYO}/readings?limit=0").status_code == 422


def test_nothing_can_be_changed_through_the_page(seen: TestClient) -> None:
    for path in ("/page/alerts", "/api/v1/alerts", "/"):
        assert seen.post(path).status_code == 405


# -- the system --------------------------------------------------------------------------------------------------------

METRICS = """
pellucid_mqtt_connected 0
pellucid_queue_depth 3
pellucid_queue_oldest_age_seconds 700
pellucid_disk_free_bytes 5.0e10
pellucid_storage_failures_total 0
pellucid_share_reachable{incubator="inc1"} 1
pellucid_engine_info{task="blastocyst",model="amsnet-small",version="0.2",runtime="onnxruntime",sha256="ab"} 1
pellucid_step_failures_total{engine="amsnet-small",reason="engine"} 2
pellucid_build_info{version="0.1"} 1
"""


def test_the_system_view_shows_the_daemons_own_figures(journal: Journal, tmp_path: Path) -> None:
    text = client_of(page_over(tmp_path, Health(lambda: METRICS))).get("/page/system").text
    assert "away: nothing is lost" in text
    assert "3, the oldest for 12 min" in text
    assert "46.6 GiB free" in text
    assert "amsnet-small 0.2 on onnxruntime; 2 frames got no answer" in text
    assert "unknown: drift is told after 1,000 fit frames" in text


def test_a_daemon_that_does_not_answer_makes_everything_of_it_unknown(journal: Journal, tmp_path: Path) -> None:
    def gone() -> str:
        raise ConnectionRefusedError("refused")

    text = client_of(page_over(tmp_path, Health(gone))).get("/page/system").text
    assert text.count("unknown: the monitor does not answer (refused)") >= 6
    assert "messages wait" in text, "the outbox is in the journal"


def test_figures_are_asked_for_once_in_a_while() -> None:
    asked, now_s = [], [100.0]
    health = Health(lambda: asked.append(1) or METRICS, lambda: now_s[0])  # type: ignore[func-returns-value]
    figures: Figures = health.figures()
    assert health.figures() is figures and len(asked) == 1
    now_s[0] += 3.1
    health.figures()
    assert len(asked) == 2
    assert figures.of("share_reachable", incubator="inc1") == 1
    assert figures.of("share_reachable", incubator="inc9") is None


# -- words -------------------------------------------------------------------------------------------------------------


def test_every_flag_of_the_contract_has_words() -> None:
    contract = (Path(__file__).resolve().parents[1] / "deploy" / "contract.md").read_text()
    table = contract.partition("| flag | |")[2].partition("\n\n")[0]
    flags = {
        word
        for line in table.splitlines()
        for word in re.findall(r"`(\w+)`", line.split("|")[1] if "|" in line else "")
    }
    assert flags and flags <= set(FLAG_WORDS)


def test_every_outcome_of_a_frame_has_words() -> None:
    from monitor.web.words import OUTCOME_WORDS

    assert set(OUTCOME_WORDS) == {outcome.value for outcome in Outcome}


def test_thinned_courses_keep_first_and_newest_frame_and_grow_with_the_journal(tmp_path: Path) -> None:
    made, (embryo,) = filled(tmp_path, wells("1"), hours=100, every_min=10)
    look = page_over(tmp_path).look
    (one,) = look.incubator("inc1").embryos
    assert one.track.frames == 601 and 96 < len(one.track.points) <= 193
    assert one.track.points[0].frame_key == key(0) and one.track.points[-1].frame_key == key(100)
    whole = look.embryo(embryo)
    assert whole is not None and len(whole.track.points) == 601
    made.close()


def test_frame_numbers_are_in_order_of_their_size(tmp_path: Path) -> None:
    from monitor.web.tracks import frame_rank

    assert sorted(["run10", "run9", "run100"], key=frame_rank) == ["run9", "run10", "run100"]
    later = f"{START + timedelta(hours=3):%Y%m%dT%H%M%SZ}"
    assert sorted([later, key(0)], key=frame_rank) == [key(0), later]


def test_a_card_without_any_picture_says_so(tmp_path: Path) -> None:
    pictured(tmp_path)
    made, _ = filled(tmp_path, wells("1"), hours=2, pictures=lambda *_: None)
    client = client_of(page_over(tmp_path))
    href = re.search(r'src="(/page/picture/[^"]+)"', client.get("/page/incubator/inc1").text)
    assert href is not None and client.get(href[1].replace("&amp;", "&")).status_code == 404
    made.close()
