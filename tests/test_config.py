"""What an operator may set: the smallest file runs, and every fault is told with key, value and what is allowed."""

import json
import os
from datetime import datetime, timezone
from pathlib import Path

import pytest

from monitor.config import BUNDLED_STAGE, Config, Engines, make_config, read_config, read_insemination
from monitor.errors import ConfigError
from monitor.node import load_models

SMALLEST = """
[site]
name = "lab1"
node = "box1"

[[incubator]]
name = "inc1"
path = "/srv/incubator1"
layout = "generic"
planes = [-45, -30, -15, 0, 15, 30, 45]

[mqtt]
host = "broker.lab"

[storage]
path = "/var/lib/pellucid"
"""
SIX = datetime(2026, 1, 31, 6, 10, tzinfo=timezone.utc)


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch):
    for name in list(os.environ):
        if name.upper().startswith("PELLUCID_"):
            monkeypatch.delenv(name)


@pytest.fixture
def config(tmp_path):
    """Reads the smallest file after replacing or adding text."""

    def read(old: str = "", new: str = "") -> Config:
        assert old in SMALLEST
        path = tmp_path / "pellucid.toml"
        path.write_text(SMALLEST.replace(old, new, 1) if old else SMALLEST + new)
        return read_config(path)

    return read


def told(read, *words: str) -> None:
    with pytest.raises(ConfigError) as fault:
        read()
    for word in words:
        assert word in str(fault.value)


def test_the_smallest_file_runs_with_the_written_defaults(config):
    read = config()
    assert (read.site.name, read.site.node) == ("lab1", "box1")
    assert read.incubator[0].planes == (-45, -30, -15, 0, 15, 30, 45)
    assert (read.mqtt.port, read.mqtt.tls, read.mqtt.protocol) == (1883, False, 5)
    assert (read.http.host, read.http.port) == ("127.0.0.1", 9464)
    assert read.engines.device == "auto"


def test_a_file_that_is_not_there_or_is_no_toml_is_told(tmp_path, config):
    told(lambda: read_config(tmp_path / "none.toml"), "none.toml", "no such file")
    told(lambda: config("[site]", "[site"), "pellucid.toml")


def test_a_secret_may_lie_where_systemd_puts_credentials(config, monkeypatch):
    text = '[mqtt]\nusername = "me"\npassword_file = "$CREDENTIALS_DIRECTORY/mqtt-password"'
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/pellucid.service")
    read = config("[mqtt]", text)
    assert read.mqtt.password_file == Path("/run/credentials/pellucid.service/mqtt-password")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    told(lambda: config("[mqtt]", text), "mqtt.password_file", "CREDENTIALS_DIRECTORY", "LoadCredential")


ENVIRONMENT = {
    "SITE__NAME": ("lab2", lambda read: read.site.name, "lab2"),
    "SITE__NODE": ("box2", lambda read: read.site.node, "box2"),
    "MQTT__HOST": ("other", lambda read: read.mqtt.host, "other"),
    "MQTT__PORT": ("1999", lambda read: read.mqtt.port, 1999),
    "MQTT__PROTOCOL": ("311", lambda read: read.mqtt.protocol, 311),
    "MQTT__USERNAME": ("me", lambda read: read.mqtt.username, "me"),
    "MQTT__PASSWORD_FILE": ("/a", lambda read: read.mqtt.password_file, Path("/a")),
    "MQTT__CA_FILE": ("/a", lambda read: read.mqtt.ca_file, Path("/a")),
    "MQTT__CERT_FILE": ("/a", lambda read: read.mqtt.cert_file, Path("/a")),
    "MQTT__KEY_FILE": ("/a", lambda read: read.mqtt.key_file, Path("/a")),
    "MQTT__TLS": ("True", lambda read: (read.mqtt.tls, read.mqtt.port), (True, 8883)),
    "MQTT__KEEPALIVE_S": ("60", lambda read: read.mqtt.keepalive_s, 60),
    "MQTT__MAX_INFLIGHT": ("7", lambda read: read.mqtt.max_inflight, 7),
    "STORAGE__PATH": ("/data", lambda read: read.storage.path, Path("/data")),
    "STORAGE__KEEP_DAYS": ("200", lambda read: read.storage.keep_days, 200),
    "ENGINES__DEVICE": ("cpu", lambda read: read.engines.device, "cpu"),
    "ENGINES__MODELS": ("/models", lambda read: read.engines.models, "/models"),
    "ENGINES__BLASTOCYST": ("other", lambda read: read.engines.blastocyst, "other"),
    "ENGINES__STAGE": ("", lambda read: read.engines.stage, ""),
    "ENGINES__SEGMENTER": ("i2cnet", lambda read: read.engines.segmenter, "i2cnet"),
    "ENGINES__GRADERS": ('["gardner", "memebg"]', lambda read: read.engines.graders, ("gardner", "memebg")),
    "ENGINES__THREADS": ("2", lambda read: read.engines.threads, 2),
    "ENGINES__PLANS": ("/plans", lambda read: read.engines.plans, "/plans"),
    "HTTP__HOST": ("localhost", lambda read: read.http.host, "localhost"),
    "HTTP__PORT": ("0", lambda read: read.http.port, 0),
    "HTTP__TOKEN_FILE": ("/t", lambda read: read.http.token_file, Path("/t")),
    "HTTP__PAGE": ("true", lambda read: read.http.page, True),
}


GO_TOGETHER = {
    "MQTT__PASSWORD_FILE": ("MQTT__USERNAME", "x"),
    "MQTT__KEY_FILE": ("MQTT__CERT_FILE", "x"),
    "ENGINES__SEGMENTER": ("ENGINES__GRADERS", '["x"]'),
    "ENGINES__GRADERS": ("ENGINES__SEGMENTER", "x"),
}


@pytest.mark.parametrize("key", ENVIRONMENT)
def test_every_key_may_be_set_by_the_environment_which_wins_over_the_file(monkeypatch, config, key):
    text, get, expected = ENVIRONMENT[key]
    if key in GO_TOGETHER:
        other, value = GO_TOGETHER[key]
        monkeypatch.setenv(f"PELLUCID_{other}", value)
    monkeypatch.setenv(f"PELLUCID_{key}", text)
    assert get(config()) == expected


def test_keys_of_keys_and_lists_may_be_set_by_the_environment_too(monkeypatch, config):
    monkeypatch.setenv("PELLUCID_HTTP__TLS__CERT_FILE", "/c")
    monkeypatch.setenv("PELLUCID_HTTP__TLS__KEY_FILE", "/k")
    incubator = {"name": "inc9", "path": "/srv/9", "planes": [0], "cadence_min": 10, "insemination": "/i.csv"}
    monkeypatch.setenv("PELLUCID_INCUBATOR", json.dumps([incubator]))
    read = config()
    assert read.http.tls is not None
    assert read.http.tls.key_file == Path("/k")
    assert (read.incubator[0].name, read.incubator[0].planes) == ("inc9", (0,))


def test_a_limit_of_an_alert_may_be_set_by_the_environment_and_the_others_stay(monkeypatch, config):
    monkeypatch.setenv("PELLUCID_ALERTS__LOW_BLASTOCYST_PROBABILITY__ENTER", "0.05")
    monkeypatch.setenv("PELLUCID_ALERTS__FRAME_GAP__ENABLED", "false")
    read = config("[storage]", "[alerts.low_blastocyst_probability]\nfrom_hpi = 100\n[storage]").alerts
    rule = read.low_blastocyst_probability
    assert (rule.enter, rule.leave, rule.from_hpi) == (0.05, 0.2, 100)
    assert not read.frame_gap.enabled


def test_every_key_of_the_file_stands_in_the_test_above():
    sections = {"site": "Site", "mqtt": "Mqtt", "storage": "Storage", "engines": "Engines", "http": "Http"}
    keys = {
        f"{name}__{key}".upper()
        for name in sections
        for key in Config.model_fields[name].annotation.model_fields
        if (name, key) != ("http", "tls")
    }
    assert keys == set(ENVIRONMENT)


def test_lists_in_the_environment_that_are_no_json_are_told(monkeypatch, config):
    monkeypatch.setenv("PELLUCID_INCUBATOR", "inc1")
    told(config, "environment", "incubator")


def test_an_unknown_key_is_told_with_its_section_and_value(config):
    told(lambda: config("[mqtt]", "[mqtt]\nhots = 7"), "mqtt.hots", "7", "no such key")
    told(lambda: config("", "[mqqt]\nhost = 1\n"), "mqqt", "no such key")
    told(lambda: config("[[incubator]]", "[[incubator]]\ncadence = 10"), "incubator.0.cadence", "no such key")


def test_an_unknown_key_or_section_in_the_environment_is_told(monkeypatch, config):
    monkeypatch.setenv("PELLUCID_MQTT__HOTS", "x")
    told(config, "mqtt.hots", "'x'", "no such key")
    monkeypatch.delenv("PELLUCID_MQTT__HOTS")
    monkeypatch.setenv("PELLUCID_MQQT__HOST", "x")
    told(config, "PELLUCID_MQQT__HOST", "PELLUCID_MQTT", "PELLUCID_STORAGE")


def test_a_missing_key_is_told(config):
    told(lambda: config('host = "broker.lab"', ""), "mqtt.host", "missing")


CASES = {
    "an unknown layout": ('"generic"', '"embryo"', ["incubator.0.layout", "'embryo'", "generic", "nantes", "dish"]),
    "a bad regular expression": ('"generic"', '"(?P<dish>["', ["incubator.0.layout", "regular expression"]),
    "a word that cannot stand in a topic": ('"lab1"', '"lab/1"', ["site.name", "'lab/1'", "A-Z a-z 0-9 . _ -"]),
    "a word with a wildcard": ('"inc1"', '"inc#"', ["incubator.0.name", "'inc#'", "A-Z"]),
    "a word that is a way up": ('"inc1"', '".."', ["incubator.0.name", "'..'", "A-Z"]),
    "an empty word": ('"box1"', '""', ["site.node", "''", "1 to 64"]),
    "no plane": ("[-45, -30, -15, 0, 15, 30, 45]", "[]", ["incubator.0.planes", "at least one plane"]),
    "a plane twice": ("[-45, -30, -15, 0, 15, 30, 45]", "[0, 15, 0]", ["incubator.0.planes", "none twice"]),
    "a plane that is no number": (
        "[-45, -30, -15, 0, 15, 30, 45]",
        '["F0"]',
        ["incubator.0.planes", "'F0'", "integer"],
    ),
    "an unknown protocol": ("[mqtt]", "[mqtt]\nprotocol = 4", ["mqtt.protocol", "4", "5 or 311"]),
    "a port that is none": ("[mqtt]", "[mqtt]\nport = 70000", ["mqtt.port", "70000", "65535"]),
    "a password of nobody": ("[mqtt]", '[mqtt]\npassword_file = "/p"', ["mqtt", "password_file", "without username"]),
    "a key of no certificate": ("[mqtt]", '[mqtt]\nkey_file = "/k"', ["mqtt", "key_file", "without cert_file"]),
    "authorities without TLS": ("[mqtt]", '[mqtt]\ntls = false\nca_file = "/c"', ["mqtt", "tls = false", "ca_file"]),
    "an unknown device": ("[storage]", '[engines]\ndevice = "tpu"\n[storage]', ["engines.device", "'tpu'", "auto"]),
    "a negative wait": ("[[incubator]]", "[[incubator]]\nstable_s = -1", ["incubator.0.stable_s", "-1"]),
    "a wait without end": ("[[incubator]]", "[[incubator]]\nstable_s = inf", ["incubator.0.stable_s", "finite"]),
    "a skew that is no number": ("[[incubator]]", "[[incubator]]\nclock_skew_s = nan", ["clock_skew_s", "finite"]),
    "a skew past all calendars": ("[[incubator]]", "[[incubator]]\nclock_skew_s = 1e300", ["clock_skew_s", "1e+300"]),
    "no cadence": ("[[incubator]]", "[[incubator]]\ncadence_min = 0", ["incubator.0.cadence_min", "greater than 0"]),
    "an alert that nobody knows": ("[storage]", "[alerts.low]\nenter = 1\n[storage]", ["alerts.low", "no such key"]),
    "an alert that leaves before it enters": (
        "[storage]",
        "[alerts.storage_low]\nenter = 5\n[storage]",
        ["alerts.storage_low", "leave = 3.0 must be above enter = 5.0"],
    ),
    "quiet hours of an offset": (
        "[storage]",
        '[alerts.quiet]\nbegins = "22:00Z"\nends = "06:00"\n[storage]',
        ["alerts.quiet.begins = '22:00Z'", "without an offset; use zone"],
    ),
    "a page beyond loopback": ("[storage]", '[http]\nhost = "0.0.0.0"\n[storage]', ["http", "token_file", "tls"]),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_allowed_is_told_with_key_value_and_what_is(config, case):
    old, new, words = CASES[case]
    told(lambda: config(old, new), *words)


def test_limits_of_the_pictures_are_given_as_a_table_or_in_line_and_the_others_keep_their_defaults(config):
    from monitor.observe import Limits

    assert config().incubator[0].quality.limits == Limits()
    for read in (
        config("[mqtt]", "[incubator.quality]\nsharpness = 0.5\n\n[mqtt]"),
        config("[[incubator]]", "[[incubator]]\nquality = { sharpness = 0.5 }"),
    ):
        assert read.incubator[0].quality.limits == Limits(sharpness=0.5)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("sharpnes = 0.5", ["incubator.0.quality.sharpnes", "no such key"]),
        ("sharpness = -1", ["incubator.0.quality.sharpness", "-1"]),
        ("contrast_ratio = nan", ["incubator.0.quality.contrast_ratio", "finite"]),
        ("mean_gray = 230", ["incubator.0.quality", "mean_gray must be below mean_gray_most"]),
    ],
)
def test_limits_that_make_no_sense_are_told(config, given, words):
    told(lambda: config("[mqtt]", f"[incubator.quality]\n{given}\n\n[mqtt]"), *words)


def test_two_incubators_of_one_name_are_told(config):
    told(lambda: config("", '[[incubator]]\nname = "inc1"\npath = "/srv/2"\n'), "inc1", "once")


def test_planes_stand_in_ascending_order_however_they_were_written(config):
    assert config("[-45, -30, -15, 0, 15, 30, 45]", "[15, -15, 0]").incubator[0].planes == (-15, 0, 15)


@pytest.mark.parametrize(
    ("given", "port", "tls"),
    [
        ("", 1883, False),
        ('ca_file = "/ca"', 8883, True),
        ('cert_file = "/c"\nkey_file = "/k"', 8883, True),
        ("port = 8883", 8883, True),
        ("port = 1999", 1999, False),
        ("tls = true", 8883, True),
        ("tls = true\nport = 1999", 1999, True),
        ("tls = false\nport = 8883", 8883, False),
        ("port = 0", 1883, False),
    ],
)
def test_port_and_tls_follow_from_each_other_where_one_is_not_given(config, given, port, tls):
    read = config("[mqtt]", f"[mqtt]\n{given}")
    assert (read.mqtt.port, read.mqtt.tls) == (port, tls)


@pytest.mark.parametrize(("given", "port"), [("8883", 8883), ("0", 1883), ("", 1883)])
def test_port_and_tls_follow_from_the_environment_too(monkeypatch, config, given, port):
    monkeypatch.setenv("PELLUCID_MQTT__PORT", given)
    assert (config().mqtt.port, config().mqtt.tls) == (port, port == 8883)


def test_a_page_beyond_loopback_runs_with_token_and_tls(config):
    section = '[http]\nhost = "0.0.0.0"\ntoken_file = "/t"\ntls = { cert_file = "/c", key_file = "/k" }\n'
    assert config("", section).http.host == "0.0.0.0"


# -- time zero ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["2026-01-31T06:10:00Z", '"2026-01-31T06:10:00Z"', "2026-01-31T07:10:00+01:00"])
def test_an_insemination_time_has_a_zone(config, text):
    assert config("[[incubator]]", f"[[incubator]]\ninsemination = {text}").incubator[0].insemination == SIX


@pytest.mark.parametrize(
    "text",
    ["2026-01-31T06:10:00", '"2026-01-31T06:10:00"', "2026-01-31", '"2026-01-31"', '"20260131"', '"2026-01-31 6h"'],
)
def test_a_naive_time_is_told_and_is_never_local_time_or_a_path(config, text):
    told(
        lambda: config("[[incubator]]", f"[[incubator]]\ninsemination = {text}"),
        "incubator.0.insemination",
        "2026",
        "needs its zone",
        "2026-01-31T06:10:00Z",
    )


@pytest.mark.parametrize("text", ["5", "true", "0001-01-01T00:00:00+14:00"])
def test_what_is_no_time_and_no_path_is_no_insemination(config, text):
    told(lambda: config("[[incubator]]", f"[[incubator]]\ninsemination = {text}"), "incubator.0.insemination")


@pytest.mark.parametrize("text", ["/srv/wells.csv", "2026-01-31.csv", "wells"])
def test_any_other_text_is_the_path_of_a_csv(config, text):
    assert config("[[incubator]]", f'[[incubator]]\ninsemination = "{text}"').incubator[0].insemination == Path(text)


def test_a_csv_of_inseminations_is_read(tmp_path):
    path = tmp_path / "i.csv"
    path.write_bytes(
        b"\xef\xbb\xbfdish,well,time\r\nD1,1,2026-01-31T06:10:00Z\r\n\r\n D1 , 2 ,2026-01-31T07:10:00+01:00\r\n"
    )
    assert read_insemination(path) == {("D1", "1"): SIX, ("D1", "2"): SIX}


@pytest.mark.parametrize(
    "row",
    [
        "D1,1,2026-01-31T06:10:00",
        "D1,1,yesterday",
        "D1,1",
        "D1",
        ",1,2026-01-31T06:10:00Z",
        "D 1,1,2026-01-31T06:10:00Z",
        "D1;1;2026-01-31T06:10:00Z",
        "D1,1,0001-01-01T00:00:00+14:00",
    ],
)
def test_a_row_that_does_not_read_is_told_with_its_line(tmp_path, row):
    path = tmp_path / "i.csv"
    path.write_text(f"dish,well,time\nD9,1,2026-01-31T06:10:00Z\n\n{row}\n")
    told(lambda: read_insemination(path), "i.csv", "line 4", "dish,well,time")


@pytest.mark.parametrize("text", ["", "D1,1,2026-01-31T06:10:00Z\n", "dish;well;time\n"])
def test_a_csv_without_its_first_line_is_told(tmp_path, text):
    path = tmp_path / "i.csv"
    path.write_text(text)
    told(lambda: read_insemination(path), "line 1", "dish,well,time")


@pytest.mark.parametrize("content", [b"dish,well,time\nD\xe9,1,2026-01-31T06:10:00Z\n", b"\xff\xfe\x00d"])
def test_a_csv_in_another_encoding_is_told(tmp_path, content):
    path = tmp_path / "i.csv"
    path.write_bytes(content)
    told(lambda: read_insemination(path), "i.csv", "UTF-8")


def test_a_csv_that_is_not_there_is_told(tmp_path):
    told(lambda: read_insemination(tmp_path / "none.csv"), "insemination", "none.csv", "No such file")


def test_settings_in_hand_are_validated_like_a_file():
    told(lambda: make_config({}), "site", "incubator", "mqtt", "storage", "missing")


def test_the_bundled_stage_model_serves_unless_another_is_named_or_none_or_the_models_are_ones_own() -> None:
    """A folder of one's own need not hold it: an upgrade stops no node."""
    assert Engines().stage_model == BUNDLED_STAGE
    assert Engines(stage="").stage_model == ""
    assert Engines(models="/models").stage_model == ""
    assert Engines(models="/models", stage="own").stage_model == "own"
    loaded = load_models(Engines(threads=1))
    assert loaded.stage is not None and loaded.stage.manifest.name == BUNDLED_STAGE
