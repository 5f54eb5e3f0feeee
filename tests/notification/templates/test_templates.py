"""Templates are complete, an operator's own are laid over ours, and a broken one is named at the start."""

from pathlib import Path

import pytest

from ewallet.notification.domain.samples import recipient_of, sample
from ewallet.notification.domain.words import EVENTS, Part, parts, render
from ewallet.notification.templates import OURS, _document, load_languages, load_layouts
from ewallet.plumbing.settings import SettingsError


def title(folder: Path | str, locale: str, event: str = "payment.succeeded", part: Part = Part.PAYER) -> str:
    language = load_languages(str(folder), "en").by_locale[locale]
    recipient = recipient_of(part)
    return render(language, event, sample(event), [recipient])[recipient].title


@pytest.mark.parametrize("event", sorted(EVENTS))
def test_every_part_in_every_event_is_told_in_german(event: str) -> None:
    for part in parts(event):
        assert title("", "de", event, part) != title("", "en", event, part)


def test_no_text_of_ours_is_missing_in_a_language_of_ours() -> None:
    english = _document(OURS / "en.toml").keys()

    assert {path.stem: _document(path).keys() ^ english for path in OURS.glob("*.toml")} == {"en": set(), "de": set()}


def test_an_operators_texts_replace_ours_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "de.toml").write_text('[payment.succeeded.payer]\ntitle = "Danke für {amount}!"\n')

    assert title(tmp_path, "de") == "Danke für 1.234,50\N{NO-BREAK SPACE}€!"
    assert title(tmp_path, "de", part=Part.PAYEE) == title("", "de", part=Part.PAYEE)
    assert title(tmp_path, "en") == title("", "en")


def test_a_new_locale_is_english_where_it_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "fr.toml").write_text('[payment.succeeded.payer]\ntitle = "Vous avez payé {amount}"\n')

    assert title(tmp_path, "fr").startswith("Vous avez payé 1\N{NARROW NO-BREAK SPACE}234,50")
    assert title(tmp_path, "fr", part=Part.PAYEE).startswith("You received")


@pytest.mark.parametrize(
    ("file", "text", "named"),
    [
        ("en.toml", "purpose = ", "en.toml is wrong: it cannot be read"),
        ("en.toml", "purpose = 7", "purpose is no text"),
        ("en.toml", 'purpose = "{purpose}"', "purpose cannot be made of itself"),
        ("en.toml", '[payment.exploded.payer]\ntitle = "x"', "there is no payment.exploded.payer.title"),
        ("en.toml", '[wallet.frozen.payer]\ntitle = "x"', "there is no wallet.frozen.payer.title"),
        ("en.toml", '[wallet.frozen.owner]\ntitle = "{nobody}"', "wallet.frozen.owner asks .* 'nobody'"),
        ("en.toml", '[wallet.frozen.owner]\nbody = "{reason"', "wallet.frozen.owner.body"),
        ("en.toml", '[wallet.frozen.owner]\nbody = "{reason.__class__}"', "nothing but names in braces"),
        ("en.toml", '[wallet.frozen.owner]\nbody = "{reason!r}"', "nothing but names in braces"),
        ("en.toml", '[payment.succeeded.payer]\nbody = "{description}"', "payment.succeeded.payer asks"),
        ("en.toml", '[payment.succeeded.payer]\nbody = "{reference}"', "payment.succeeded.payer asks"),
        ("en.toml", f'[wallet.frozen.owner]\ntitle = "{"x" * 151}"', "more than 150 characters"),
        ("klingon.toml", "", "klingon.toml is wrong: there is no such locale"),
        ("mail.html", "<p>$secret</p>", "mail.html"),
        ("mail.txt", "5 $ for you", "mail.txt"),
    ],
)
def test_a_broken_template_is_named_at_the_start(tmp_path: Path, file: str, text: str, named: str) -> None:
    (tmp_path / file).write_text(text)

    with pytest.raises(SettingsError, match=named):
        (load_languages(str(tmp_path), "en"), load_layouts(str(tmp_path)))


def test_a_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "de.toml").write_bytes('purpose = " für {reference}"'.encode("latin-1"))
    (tmp_path / "mail.txt").write_bytes("für".encode("latin-1"))

    with pytest.raises(SettingsError, match=r"de\.toml"):
        load_languages(str(tmp_path), "en")
    with pytest.raises(SettingsError, match=r"mail\.txt"):
        load_layouts(str(tmp_path))


def test_an_unknown_locale_is_answered_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="de, en"):
        load_languages("", "fr")


def test_an_operators_layout_replaces_ours_and_nothing_in_it_is_markup_of_others(tmp_path: Path) -> None:
    (tmp_path / "mail.html").write_text('<html lang="$locale"><h1>$title</h1>$body</html>')

    text, html = load_layouts(str(tmp_path)).laid_out("pt_BR", title="1 < 2", body='<script>"&$title')

    assert text == '1 < 2\n\n<script>"&$title\n'
    assert html == '<html lang="pt-BR"><h1>1 &lt; 2</h1>&lt;script&gt;&quot;&amp;$title</html>'
