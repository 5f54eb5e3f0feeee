"""What people are told, in their languages: the texts of each event, and how an e-mail is laid out.

A folder holds a file for each locale (``en.toml``), named as Babel names locales, and ``mail.txt`` and ``mail.html``.
An operator's own folder is laid over ours: each text in it replaces ours, a new file is a new locale, and what a locale
lacks is told in English. Everything is read and tried at the start, so that a broken template is named there.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Formatter, Template
from typing import Any

from babel import Locale, UnknownLocaleError

from ewallet.notification.domain.samples import recipient_of, sample
from ewallet.notification.domain.words import EVENTS, Language, Languages, Part, Text, Unrenderable, parts, render
from ewallet.notification.templates.money import writer
from ewallet.plumbing.settings import SettingsError

OURS = Path(__file__).parent

MAXIMUM_TITLE_LENGTH = 150
"""Before its amounts and names are put in; the column has 255."""

_LAYOUT_NAMES = {"locale", "title", "body"}


@dataclass(frozen=True, slots=True)
class Layouts:
    """How an e-mail is laid out, as text and as HTML, around its ``$title``, its ``$body`` and its ``$locale``."""

    text: Template
    html: Template

    def laid_out(self, locale: str, *, title: str, body: str) -> tuple[str, str]:
        """The text part, and the HTML part, in which no word of anybody's is markup."""
        language = locale.replace("_", "-")  # as HTML and RFC 5646 write it
        text = self.text.substitute(locale=language, title=title, body=body)
        return text, self.html.substitute(locale=language, title=escape(title), body=escape(body))


def load_languages(folder: str, default: str) -> Languages:
    """All languages; ``folder`` is an operator's own or empty, ``default`` for who has chosen none. SettingsError."""
    ours = _documents(OURS)
    theirs = _documents(Path(folder)) if folder else {}
    english = ours["en"] | theirs.get("en", {})
    languages = {
        locale: _language(locale, english | ours.get(locale, {}) | theirs.get(locale, {}))
        for locale in sorted(ours.keys() | theirs)
    }
    if default not in languages:
        raise SettingsError(
            f"EWALLET_LOCALE is wrong: there are no templates {default}; there are {', '.join(languages)}."
        )
    return Languages(languages, default)


def load_layouts(folder: str) -> Layouts:
    """How e-mail is laid out. SettingsError."""
    return Layouts(_layout(folder, "mail.txt"), _layout(folder, "mail.html"))


def _documents(folder: Path) -> dict[str, dict[str, str]]:
    """The texts of each locale, by their names, as in ``payment.succeeded.payer.title``."""
    if not folder.is_dir():
        raise SettingsError(f"EWALLET_TEMPLATES is wrong: there is no folder {folder}.")
    return {path.stem: _document(path) for path in sorted(folder.glob("*.toml"))}


def _document(path: Path) -> dict[str, str]:
    try:
        texts = dict(_flat(tomllib.loads(path.read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _wrong(path.stem, f"it cannot be read: {error}") from error
    for name, text in texts.items():
        if name not in _NAMES and not name.startswith("failures."):
            raise _wrong(path.stem, f"there is no {name} to be told")
        if not isinstance(text, str):
            raise _wrong(path.stem, f"{name} is no text")
    return texts


_NAMES = {"purpose"} | {
    f"{event}.{part}.{field}" for event in EVENTS for part in parts(event) for field in ("title", "body")
}


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _language(name: str, texts: Mapping[str, str]) -> Language:
    try:
        locale = Locale.parse(name)
    except (UnknownLocaleError, ValueError) as error:
        raise _wrong(name, "there is no such locale") from error
    language = Language(
        texts={
            (event, part): Text(texts[f"{event}.{part}.title"], texts[f"{event}.{part}.body"])
            for event in EVENTS
            for part in parts(event)
        },
        purpose=texts["purpose"],
        failures={key.removeprefix("failures."): text for key, text in texts.items() if key.startswith("failures.")},
        money=writer(locale),
    )
    _try(name, language)
    return language


def _try(name: str, language: Language) -> None:
    """Tell every event once, to see that each text can be. What an event may lack, a text cannot ask for."""
    _check_braces(name, "purpose", language.purpose)
    if "{purpose}" in language.purpose:
        raise _wrong(name, "purpose cannot be made of itself")
    for (event, part), text in language.texts.items():
        where = f"{event}.{part}"
        _check_braces(name, f"{where}.title", text.title)
        _check_braces(name, f"{where}.body", text.body)
        if len(text.title) > MAXIMUM_TITLE_LENGTH:
            raise _wrong(name, f"{where}.title has more than {MAXIMUM_TITLE_LENGTH} characters")
        data = sample(event)
        recipient = recipient_of(part)
        try:
            render(language, event, data, [recipient])  # with `purpose`
            if part is not Part.OWNER:
                render(language, event, data | {"reference": None}, [recipient])
        except Unrenderable as error:
            raise _wrong(name, f"{where} asks for what the event may not have: {error}") from error


def _check_braces(name: str, where: str, text: str) -> None:
    """Whether what is in braces are plain names."""
    try:
        fields = [parsed[1:] for parsed in Formatter().parse(text) if parsed[1] is not None]
    except ValueError as error:
        raise _wrong(name, f"{where}: {error}") from error
    if odd := [field for field, *rest in fields if not str(field).isidentifier() or any(rest)]:
        raise _wrong(name, f"{where} may have nothing but names in braces, not {odd[0]!r}")


def _layout(folder: str, name: str) -> Template:
    own = Path(folder) / name
    path = own if folder and own.is_file() else OURS / name
    try:
        layout = Template(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"EWALLET_TEMPLATES: {name} cannot be read: {error}.") from error
    if not layout.is_valid() or not set(layout.get_identifiers()) <= _LAYOUT_NAMES:
        raise SettingsError(
            f"EWALLET_TEMPLATES: {name} may use $title, $body and $locale only; a dollar sign itself is $$."
        )
    return layout


def _wrong(name: str, why: str) -> SettingsError:
    return SettingsError(f"EWALLET_TEMPLATES: {name}.toml is wrong: {why}.")
