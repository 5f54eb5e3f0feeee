"""Configuration: environment variables, an optional TOML file, and defaults that work as they are.

Every setting is one field of :class:`Settings`; its variable is ``EWALLET_`` and the field's name in capitals. The file
is named by ``EWALLET_CONFIG`` and holds the same names in lower case without the prefix (``port = 9000``). The
environment wins over the file, the file over the default.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

import msgspec
from msgspec import Meta, Struct

PREFIX = "EWALLET_"
CONFIG_VARIABLE = "EWALLET_CONFIG"
SERVICES = ("auth", "wallet", "payment", "notification")
"""The services that own a database, in the order in which they start."""

MINIMUM_SECRET_LENGTH = 32

MAXIMUM_HOLD_SECONDS = 366 * 24 * 3600
"""As long as the wallet would hold money: a year, leap day included."""


MINIMUM_SIGNING_DELAY_SECONDS = 10
"""Longer than another process of auth (2 s) and a verifier under a flood of forged ids (5 s) take to look again."""


class SettingsError(Exception):
    """A setting is wrong; the message is one sentence for the person who starts the program."""


Port = Annotated[int, Meta(ge=0, le=65535)]
Rate = Annotated[int, Meta(ge=0)]
Seconds = Annotated[int, Meta(ge=1)]


def described(description: str) -> Meta:
    """The sentence that README and ``--help`` show for a setting."""
    return Meta(description=description)


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be configured."""

    data: Annotated[str, described("folder of the SQLite files and generated secrets")] = "data"
    host: Annotated[str, described("address to listen on")] = "127.0.0.1"
    port: Annotated[Port, described("port of the gateway (`up`) or of the one service (`serve`)")] = 8080
    public_url: Annotated[str, described("address under which clients reach the gateway; empty: host and port")] = ""
    environment: Annotated[
        str, Meta(pattern="^(development|production)$"), described("`development` or `production`")
    ] = "development"
    log_level: Annotated[
        str, Meta(pattern="^(debug|info|warning|error)$"), described("`debug`, `info`, `warning` or `error`")
    ] = "info"
    log_format: Annotated[
        str,
        Meta(pattern="^(auto|json|pretty)$"),
        described("`json`, `pretty`, or `auto`: pretty on a terminal, JSON elsewhere"),
    ] = "auto"
    one_core: Annotated[
        bool, described("whether `up` keeps to one processor core at a time, the one that others use least (on Linux)")
    ] = True
    metrics_port: Annotated[
        Port,
        described("port for `/metrics` alone, with `--workers` the first of as many; 0: only beside everything else"),
    ] = 0
    otlp_url: Annotated[
        str, described("address of an OpenTelemetry collector that takes OTLP over HTTP; empty: no traces")
    ] = ""
    trace_percent: Annotated[int, Meta(ge=0, le=100), described("how many of a hundred traces are kept")] = 100
    admin_email: Annotated[str, described("e-mail address of the first administrator, made at start")] = ""
    admin_password: Annotated[str, described("password of the first administrator, at least 12 characters")] = ""
    bcrypt_cost: Annotated[int, Meta(ge=4, le=16), described("work factor of password hashes (2^cost rounds)")] = 12
    access_token_seconds: Annotated[Seconds, described("lifetime of an access token")] = 600
    signing_delay_seconds: Annotated[
        int,
        Meta(ge=MINIMUM_SIGNING_DELAY_SECONDS),
        described("time from `rotate-key` until the new key signs, in which proxies that check tokens are told of it"),
    ] = MINIMUM_SIGNING_DELAY_SECONDS
    refresh_token_seconds: Annotated[Seconds, described("lifetime of a session without use")] = 30 * 24 * 3600
    login_failures: Annotated[
        int, Meta(ge=1), described("failed logins for one e-mail address in 15 minutes before it must wait")
    ] = 10
    login_failures_per_address: Annotated[
        int, Meta(ge=1), described("failed logins from one network address in 15 minutes before it must wait")
    ] = 200
    rate_per_user: Annotated[Rate, described("requests per second for one user, 0 for no limit")] = 100
    rate_per_address: Annotated[Rate, described("requests per second from one network address, 0 for no limit")] = 500
    queue_milliseconds: Annotated[
        int,
        Meta(ge=0),
        described("how long a request may have to wait for others; beyond it new ones are refused with 503; 0: never"),
    ] = 1000
    trusted_proxies: Annotated[
        str, described("comma-separated addresses or networks of proxies whose `X-Forwarded-For` is believed")
    ] = ""
    fee_basis_points: Annotated[
        int,
        Meta(ge=0, le=10_000),
        described("fee in hundredths of a percent of the amount, where `fees` has no entry"),
    ] = 200
    fees: Annotated[
        str,
        described("fees by currency as `USD=200+30,JPY=150+0`: basis points plus a fixed part in minor units"),
    ] = ""
    limits: Annotated[
        str,
        described(
            "what a customer may spend, as `USD=per_payment:100000,per_day:500000,per_month:2000000;EUR=per_day:90000` "
            "in minor units; days and months are those of UTC, any part may be left out"
        ),
    ] = ""
    hold_seconds: Annotated[
        int,
        Meta(ge=1, le=MAXIMUM_HOLD_SECONDS),
        described("how long money is held for a payment that is not captured at once"),
    ] = 7 * 24 * 3600
    reconcile_seconds: Annotated[
        int,
        Meta(ge=0),
        described("time between two comparisons of payments, postings and events, 0 for none"),
    ] = 3600
    request_seconds: Annotated[Seconds, described("time after which the gateway answers 504")] = 10
    drain_seconds: Annotated[
        int,
        Meta(ge=0),
        described("how long a service answers on after SIGTERM, no longer ready, so that proxies turn away from it"),
    ] = 5
    webhook_allowed_addresses: Annotated[
        str,
        described(
            "comma-separated networks (`127.0.0.1/32,10.0.0.0/8`) that webhooks may go to beside the public internet"
        ),
    ] = ""
    smtp_url: Annotated[
        str,
        described("mail server, as `smtp://user:password@host:587` or `smtps://host:465`; empty: no e-mail is sent"),
    ] = ""
    email_from: Annotated[str, described("sender of e-mail, as `Shop <payments@shop.example>`")] = ""
    apprise_urls: Annotated[
        str,
        described(
            "further channels (SMS, push, chat) as `sms=twilio://SID:TOKEN@FROM/{to}`, separated by spaces; "
            "the URLs are those of [Apprise](https://appriseit.com), `{to}` stands for a person's address"
        ),
    ] = ""
    templates: Annotated[
        str, described("folder of templates laid over the built-in ones: `en.toml`, `mail.html` and so on")
    ] = ""
    locale: Annotated[str, described("language of whoever has chosen none; there are `en` and `de`")] = "en"
    webhook_rate_per_host: Annotated[
        Rate, described("webhooks per second from one process to one host, 0 for no limit")
    ] = 200
    delivery_log_seconds: Annotated[
        int,
        Meta(ge=0),
        described("how long e-mail and webhooks that were delivered or given up stay in the log, 0 for ever"),
    ] = 30 * 24 * 3600
    auth_database_url: Annotated[str, described("database of auth; empty: SQLite in the data folder")] = ""
    wallet_database_url: Annotated[str, described("database of wallet; empty: SQLite in the data folder")] = ""
    payment_database_url: Annotated[str, described("database of payment; empty: SQLite in the data folder")] = ""
    notification_database_url: Annotated[
        str, described("database of notification; empty: SQLite in the data folder")
    ] = ""
    auth_url: Annotated[str, described("addresses of the auth service, for services that run alone")] = ""
    wallet_url: Annotated[str, described("addresses of the wallet service, for services that run alone")] = ""
    payment_url: Annotated[str, described("addresses of the payment service, for services that run alone")] = ""
    notification_url: Annotated[
        str, described("addresses of the notification service, for services that run alone")
    ] = ""
    internal_secret: Annotated[
        str,
        described("secret with which services know each other, at least 32 characters; empty: made in the data folder"),
    ] = ""

    @property
    def data_folder(self) -> Path:
        """The data folder as a path."""
        return Path(self.data).expanduser()

    def database_url(self, service: str) -> str:
        """The database of a service: as configured, or a SQLite file in the data folder."""
        configured: str = getattr(self, f"{service}_database_url")
        return configured or f"sqlite:///{self.data_folder.absolute() / f'{service}.sqlite3'}"

    @property
    def gateway_url(self) -> str:
        """Where clients reach the gateway: as configured, or the address and port that it listens on."""
        if self.public_url:
            return self.public_url.rstrip("/")
        # Listening on every address includes this machine's own.
        host = "localhost" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104  # compared, not bound
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def service_urls(self, service: str) -> list[str]:
        """Where the processes of a service are reached that runs alone; SettingsError where that is not configured."""
        urls = _separated(getattr(self, f"{service}_url"))
        if not urls:
            raise SettingsError(f"{variable(f'{service}_url')} is needed: the address of the {service} service.")
        return [url.rstrip("/") for url in urls]


class DocumentedSetting(NamedTuple):
    """One row of the table of settings in the README."""

    variable: str
    default: str
    description: str


def variable(field_name: str) -> str:
    """The environment variable of a field."""
    return PREFIX + field_name.upper()


def documented_settings() -> list[DocumentedSetting]:
    """Every setting with its default and its sentence, in the order of the definition."""
    hints = get_type_hints(Settings, include_extras=True)
    return [
        DocumentedSetting(variable(field.name), _as_written(field.default), _description(hints[field.name]))
        for field in msgspec.structs.fields(Settings)
    ]


def _as_written(default: object) -> str:
    """A default as one would write it."""
    return msgspec.json.encode(default).decode().strip('"')


def load_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings; SettingsError names the first one that is wrong and says what it should be."""
    values: dict[str, Any] = _from_file(environment.get(CONFIG_VARIABLE, ""))
    for name in (field.name for field in msgspec.structs.fields(Settings)):
        if variable(name) in environment:
            values[name] = environment[variable(name)]
    settings = _convert(values)
    _check_together(settings)
    return settings


def _from_file(path: str) -> dict[str, Any]:
    if not path:
        return {}
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{CONFIG_VARIABLE} names {path}, which cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"The settings file {path} is not valid TOML: {error}.") from error


def _convert(values: dict[str, Any]) -> Settings:
    """All at once; where that fails, one by one, so that the message can name the variable."""
    try:
        return msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError:
        pass
    known = {field.name: field.type for field in msgspec.structs.fields(Settings)}
    for name, value in values.items():
        if name not in known:
            raise SettingsError(f"The settings file has an unknown name: {name}.")
        try:
            msgspec.convert(value, known[name], strict=False)
        except msgspec.ValidationError as error:
            raise SettingsError(f"{variable(name)} is wrong: {error} (given: {_shown(name, value)}).") from error
    raise SettingsError("The settings cannot be read.")


def _shown(name: str, value: object) -> str:
    """A value for an error message; secrets are not repeated."""
    return "hidden" if name.endswith(_SECRET_ENDINGS) else repr(value)


_SECRET_ENDINGS = ("_secret", "_password", "_database_url", "smtp_url", "apprise_urls")


def _check_together(settings: Settings) -> None:
    """Rules that need more than one setting, or more than a pattern."""
    if bool(settings.admin_email) != bool(settings.admin_password):
        raise SettingsError("EWALLET_ADMIN_EMAIL and EWALLET_ADMIN_PASSWORD belong together: set both or neither.")
    if settings.internal_secret and len(settings.internal_secret) < MINIMUM_SECRET_LENGTH:
        raise SettingsError(f"EWALLET_INTERNAL_SECRET is too short: at least {MINIMUM_SECRET_LENGTH} characters.")
    for service in SERVICES:
        if not _DATABASE_URL.match(settings.database_url(service)):
            raise SettingsError(
                f"{variable(f'{service}_database_url')} must look like mysql://user:password@host:port/database "
                "or sqlite:///path; in the password, write @ : / ? # as %40 %3A %2F %3F %23."
            )
    for name in ("public_url", "otlp_url", *(f"{service}_url" for service in SERVICES)):
        several = name not in ("public_url", "otlp_url")
        urls = _separated(getattr(settings, name)) if several else [getattr(settings, name)]
        if not all(re.match(r"^(https?://[^/,]+.*)?$", url) for url in urls):
            more = ", several separated by commas" if several else ""
            raise SettingsError(f"{variable(name)} must look like http://host:port or https://host{more}.")
    for address in _separated(settings.trusted_proxies):
        if not _is_network(address):
            raise SettingsError(
                f"EWALLET_TRUSTED_PROXIES must name addresses or networks (10.1.0.0/16): {address!r} is none."
            )
    if settings.environment == "production" and not settings.internal_secret:
        raise SettingsError(
            "EWALLET_INTERNAL_SECRET must be set when EWALLET_ENVIRONMENT is production: "
            "make one with `openssl rand -base64 48`."
        )
    if settings.environment == "production" and settings.bcrypt_cost < MINIMUM_PRODUCTION_BCRYPT_COST:
        raise SettingsError(
            f"EWALLET_BCRYPT_COST is below {MINIMUM_PRODUCTION_BCRYPT_COST}: too cheap to guess outside development."
        )


def _separated(text: str) -> list[str]:
    """The parts of a setting that separates them by commas."""
    return [part for each in text.split(",") if (part := each.strip())]


def _is_network(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return False
    return True


MINIMUM_PRODUCTION_BCRYPT_COST = 10

# A SQLite database in memory would be another one for every connection. Options of the driver may follow a "?".
_DATABASE_URL = re.compile(
    r"""^(
        sqlite:/// (?!:memory:) [^?]+
        | mysql:// [^:/@]+ (:[^@/?\#]*)? @ ([^:/@\[]+ | \[[^\]]+\]) (:\d{1,5})? / [^/?]+ (\?.*)?
    )$""",
    re.VERBOSE,
)


def _description(hint: Any) -> str:
    """The sentence in the annotation; ``Annotated`` keeps its marks in order, the description is the last."""
    texts: list[str] = [mark.description for mark in hint.__metadata__ if getattr(mark, "description", None)]
    return texts[-1]
