"""What an operator may set: one TOML file, every key also an environment variable (`PELLUCID_MQTT__HOST`).

Unknown keys are errors. A message names the key, the value and what is allowed. It opens no model and no folder.
"""

from __future__ import annotations

import csv
import os
import re
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from monitor.alert_rules import Alerts
from monitor.command_body import COMMANDS, Name
from monitor.errors import ConfigError
from monitor.layouts import WORD, YEARS, Layout, layout
from monitor.observe import Limits
from monitor.retention import LEAST_DAYS

PREFIX = "PELLUCID_"
BUNDLED_STAGE = "embryodiff-small"  # serves beside the bundled AMSNet unless another is named, or none
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _topic_word(text: str) -> str:
    if not WORD.match(text):
        raise ValueError("allowed: 1 to 64 of A-Z a-z 0-9 . _ -")
    return text


def _known_layout(text: str) -> str:
    try:
        layout(text)
    except ConfigError as fault:
        raise ValueError(str(fault)) from fault
    return text


def _aware(text: str) -> datetime:
    """A time in RFC 3339. Raises ValueError, also where it has no zone."""
    moment = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text.strip()))
    if moment.tzinfo is None:
        raise ValueError("it has no zone")
    if moment.year not in YEARS:
        raise ValueError(f"allowed years: {YEARS.start} to {YEARS.stop - 1}")
    return moment.astimezone(timezone.utc)


def _time_or_csv(value: Any) -> Any:
    """A text that begins like a date is a time, and is never taken for a path; nor is a number taken for a time."""
    text = value.isoformat() if isinstance(value, date) else value  # datetime is a date
    if value is None or isinstance(value, Path):
        return value
    if not isinstance(text, str):
        raise ValueError("allowed: a time like 2026-01-31T06:10:00Z, or the path of a CSV of dish,well,time")
    if not re.match(r"\d{4}-?\d\d-?\d\d", text) or text.lower().endswith(".csv"):
        return Path(text)
    try:
        return _aware(text)
    except ValueError as fault:
        raise ValueError(f"a time needs its zone, for example 2026-01-31T06:10:00Z ({fault})") from fault


def _number_or_text(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _from_credentials(value: Any) -> Any:
    """`$CREDENTIALS_DIRECTORY/name`: where systemd puts what a unit loads (`LoadCredential`)."""
    variable, slash, name = str(value).partition("/")
    if variable != "$CREDENTIALS_DIRECTORY" or not slash:
        return value
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise ValueError("CREDENTIALS_DIRECTORY is not set here: systemd sets it for a unit with LoadCredential")
    return Path(folder, name)


Secret = Annotated[Path, BeforeValidator(_from_credentials)]
Word = Annotated[str, AfterValidator(_topic_word)]
Planes = Annotated[tuple[int, ...], AfterValidator(lambda planes: _ascending(planes))]


def _ascending(planes: tuple[int, ...]) -> tuple[int, ...]:
    if not planes or len(set(planes)) != len(planes):
        raise ValueError("allowed: at least one plane in um, none twice")
    return tuple(sorted(planes))


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Site(_Section):
    name: Word
    node: Word


class QualityLimits(_Section):
    """Beyond these a picture is not judged. What they mean and where they come from: `monitor.observe.Limits`."""

    mean_gray: float = Field(default=Limits.mean_gray, ge=0, le=255, description="darker is `dark`")
    mean_gray_most: float = Field(default=Limits.mean_gray_most, ge=0, le=255, description="brighter is `bright`")
    contrast_ratio: float = Field(default=Limits.contrast_ratio, ge=0, le=1, description="less is `blank`")
    sharpness: float = Field(default=Limits.sharpness, ge=0, le=10, description="less is `blurred`")

    @model_validator(mode="after")
    def _leave_something_between(self) -> QualityLimits:
        if self.mean_gray >= self.mean_gray_most:
            raise ValueError("mean_gray must be below mean_gray_most, or no picture is fit")
        return self

    @property
    def limits(self) -> Limits:
        return Limits(**self.model_dump())


class Incubator(_Section):
    """One incubator's folder. `insemination` is a time (all wells), or a CSV file with `dish,well,time`."""

    name: Word
    path: Path
    layout: Annotated[str, AfterValidator(_known_layout)] = "generic"
    planes: Planes = (-45, -30, -15, 0, 15, 30, 45)
    insemination: Annotated[datetime | Path | None, BeforeValidator(_time_or_csv)] = None
    cadence_min: float | None = Field(default=None, gt=0, description="time between frames; a longer wait is flagged")
    clock_skew_s: float = Field(
        default=0.0, ge=-4e9, le=4e9, description="how far the incubator's clock is ahead of true time"
    )
    pixel_size_um: float | None = Field(default=None, gt=0, description="width of a pixel in the dish")
    stable_s: float = Field(default=2.0, ge=0, description="how long a file must be quiet before it is read")
    deadline_s: float = Field(default=120.0, ge=0, description="how long a frame waits for its planes")
    quality: QualityLimits = QualityLimits()

    @property
    def reader(self) -> Layout:
        return layout(self.layout)


class Mqtt(_Section):
    host: str
    port: int = Field(default=0, ge=0, le=65535, description="0: 1883, or 8883 with TLS")
    protocol: Annotated[Literal[5, 311], BeforeValidator(_number_or_text)] = 5
    username: str | None = None
    password_file: Secret | None = None
    ca_file: Secret | None = None
    cert_file: Secret | None = None
    key_file: Secret | None = None
    tls: bool | None = None
    keepalive_s: int = Field(default=30, ge=5, le=3600)
    max_inflight: int = Field(default=100, ge=1, le=10_000)

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        filled = dict(data)
        port = str(filled.get("port") or "0").strip()  # the environment knows texts only
        if filled.get("tls") is None:
            filled["tls"] = bool(filled.get("ca_file") or filled.get("cert_file") or port == "8883")
        if port == "0":
            filled["port"] = 8883 if str(filled["tls"]).lower() in ("true", "t", "yes", "y", "on", "1") else 1883
        return filled

    @model_validator(mode="after")
    def _nothing_ignored(self) -> Mqtt:
        """A file that would never be read is a mistake somebody relies on."""
        if self.password_file is not None and self.username is None:
            raise ValueError("password_file stands without username")
        if self.key_file is not None and self.cert_file is None:
            raise ValueError("key_file stands without cert_file")
        if not self.tls and (self.ca_file is not None or self.cert_file is not None):
            raise ValueError("tls = false, yet ca_file or cert_file is given: take one away")
        return self


class Storage(_Section):
    """`keep_days`: how long the journal keeps what it has told, at least six months; not given: for good."""

    path: Path
    keep_days: int | None = Field(default=None, ge=LEAST_DAYS)


class Engines(_Section):
    """Which models serve, and on what. `models` = "bundled" or a folder with ONNX files and manifests. `stage` "":
    none; not given: the bundled one, and none where the models are of a folder of one's own, which may hold no such.
    `segmenter` "" and no `graders`: nothing is done on day 5."""

    device: Literal["auto", "gpu", "cpu"] = "auto"
    models: str = "bundled"
    blastocyst: str = "amsnet-small"
    stage: str | None = None
    segmenter: str = ""
    graders: tuple[str, ...] = ()
    threads: int = Field(default=0, ge=0, le=256, description="0: one per physical core")
    plans: str = Field(default="", description="folder of what is built for the GPU here; empty: the cache's")

    @property
    def stage_model(self) -> str:
        """The name of the stage model that serves; empty: none."""
        if self.stage is not None:
            return self.stage
        return BUNDLED_STAGE if self.models == "bundled" else ""

    @model_validator(mode="after")
    def _day5_is_whole(self) -> Engines:
        """Grades need parts to speak against them, and parts alone are no grade."""
        if bool(self.segmenter) != bool(self.graders):
            raise ValueError("segmenter and graders go together: name both, or neither")
        if len(set(self.graders)) != len(self.graders):
            raise ValueError(f"graders = {list(self.graders)}: every name may stand once")
        return self


class HttpTls(_Section):
    cert_file: Secret
    key_file: Secret


class Http(_Section):
    host: str = "127.0.0.1"
    port: int = Field(default=9464, ge=0, le=65535)
    token_file: Secret | None = None
    tls: HttpTls | None = None
    page: bool = Field(default=False, description="serve the page; needs the extra `web`")

    @model_validator(mode="after")
    def _guarded_beyond_loopback(self) -> Http:
        if self.host not in LOOPBACK and not (self.token_file and self.tls):
            raise ValueError("beyond loopback both token_file and tls = { cert_file, key_file } are needed")
        return self


class Commands(_Section):
    """Which commands are carried out, over MQTT and over HTTP alike. Who may give them: the broker's access list, and
    the token of `[http]`."""

    enabled: tuple[Name, ...] = tuple(COMMANDS)
    blind_first: bool = Field(
        default=False, description="withhold what the models say of an embryo until its own assessment is recorded"
    )

    @model_validator(mode="after")
    def _an_assessment_can_be_given(self) -> Commands:
        if self.blind_first and "assess" not in self.enabled:
            raise ValueError("blind_first needs the command assess among enabled: nothing else ends the withholding")
        return self


class Config(BaseSettings):
    """The whole file. Later sources give way to earlier ones: environment, then the file."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, case_sensitive=False
    )

    site: Site
    incubator: tuple[Incubator, ...] = Field(min_length=1)
    mqtt: Mqtt
    storage: Storage
    engines: Engines = Engines()
    http: Http = Http()
    alerts: Alerts = Alerts()
    commands: Commands = Commands()

    @model_validator(mode="after")
    def _names_differ(self) -> Config:
        names = [incubator.name for incubator in self.incubator]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two incubators are named {', '.join(twice)}: every name may stand once")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (env_settings, init_settings)


def read_config(path: Path) -> Config:
    """Read, complete from the environment and validate. Raises ConfigError (exit 78)."""
    try:
        data = TomlConfigSettingsSource(Config, path)() if path.is_file() else None
    except (OSError, ValueError) as fault:
        raise ConfigError(f"{path}: {fault}") from fault
    if data is None:
        raise ConfigError(f"{path}: there is no such file")
    return make_config(data, str(path))


def make_config(data: dict[str, Any], source: str = "configuration") -> Config:
    """Validate settings that are already in hand. Raises ConfigError."""
    known = {f"{PREFIX}{section}".upper() for section in Config.model_fields}
    for name in os.environ:
        if name.upper().startswith(PREFIX) and name.upper().split("__")[0] not in known:
            raise ConfigError(f"environment: {name} names no section; known: {', '.join(sorted(known))} (then __KEY)")
    try:
        return Config(**data)
    except ValidationError as fault:
        raise ConfigError(f"{source}: " + "; ".join(_told(error) for error in fault.errors())) from fault
    except SettingsError as fault:
        raise ConfigError(f"environment: {fault} ({fault.__cause__})") from fault


def _told(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"] if not str(part).startswith("function-")) or "the file"
    value = "" if isinstance(error["input"], dict) else f" = {error['input']!r}"
    if error["type"] == "extra_forbidden":
        return f"{key}{value}: no such key"
    if error["type"] == "missing":
        return f"{key}: is missing"
    return f"{key}{value}: {error['msg'].removeprefix('Value error, ')}"


def read_insemination(path: Path) -> dict[tuple[str, str], datetime]:
    """A CSV of `dish,well,time` (RFC 3339 with zone) -> {(dish, well): time}. Raises ConfigError naming the line."""
    times: dict[tuple[str, str], datetime] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            rows = csv.DictReader(lines)
            if not {"dish", "well", "time"} <= set(rows.fieldnames or ()):
                raise ConfigError(f"{path} line 1: its first line must be `dish,well,time`, it is {rows.fieldnames}")
            for row in rows:
                try:
                    times[_row_word(row["dish"]), _row_word(row["well"])] = _aware(row["time"] or "")
                except ValueError as fault:
                    raise ConfigError(
                        f"{path} line {rows.line_num}: {row} is not `dish,well,time` ({fault})"
                    ) from fault
    except OSError as fault:
        raise ConfigError(f"insemination = {str(path)!r}: {fault.strerror}") from fault
    except (UnicodeError, csv.Error) as fault:
        raise ConfigError(f"insemination = {str(path)!r}: it is no CSV in UTF-8 ({fault})") from fault
    return times


def _row_word(text: str | None) -> str:
    return _topic_word((text or "").strip())
