"""Class names as data sets write them -> the words that a text encoder reads: "PlayingViolin" -> "playing violin".

A text encoder was taught phrases and no identifiers; UCF101's own names cost `lite` more than half of what it gets
right with the same names in words. What is clearly an identifier is taken apart; what a person might write stays:

    PlayingViolin, playingViolin   inner capitals, no space; not iPhone, McDonald's, YouTube or DVDs
    brush_hair, 001.Sooty_Gull     underscores stand in no word
    playing-violin                 only where a whole list is written so: hip-hop, T-shirt and e-bike stay
    2 ApplyLipstick, c000 Sitting  a number or code before the name, by the evidence of the whole list
    brush_hair_01, jump1           a number after it: zero-padded, or where most of a list have one; not Formula1, Dota2
    Formula1, MotoGP               digits or two capitals at the end are a name's own

A list is more evidence than one name: where most names are phrases with spaces, inner capitals are a name's own, and
where all are identifiers, single words ("Archery") are too and lose their capital. No name is changed so that two of a
list become one.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Sequence

# Names with inner capitals that are words of their own.
_PROPER = (
    "YouTube YouTuber TikTok LinkedIn WhatsApp FaceTime FaceApp SnapChat PayPal GitHub GitLab PlayStation GameBoy "
    "GameCube PowerPoint OneNote OneDrive OpenAI ChatGPT DeepMind JavaScript TypeScript MySQL LaTeX MatLab AutoCAD "
    "WordPress PhotoShop BlackBerry MasterCard FedEx IKEA LEGO GoPro FitBit AirPods AirBnB HomePod WiFi HiFi LoFi PhD "
    "macOS MacBook HelloFresh DoorDash SoundCloud AliExpress SpaceX CrossFit TedTalk TEDx McFlurry BioNTech DreamWorks "
    "StarCraft WarCraft MotoGP MineCraft PokeMon BeyBlade JetSki SeaDoo RollerBlade PowerAde CamelBak KitKat"
).split()
_PROPER_FORM = re.compile("|".join(sorted(map(re.escape, _PROPER), key=len, reverse=True)))
_SHORT_WORDS = frozenset("TV PC DJ CD VR AR UV AI AC ID".split())  # acronyms that are used as words
_ACRONYM_ENDS = re.compile(r"(?:s|'s|ing|ed|er|ers)(?![a-z])")

_NUMBERED = re.compile(r"(\d+)\s*(?:[:.)]\s*|-\s+)(?=[^\W\d])")  # "1: bend", "001.Sooty_Gull"
_SPACED = re.compile(r"(\d+)[\s_-]+(?=[^\W\d])")  # "2 ApplyLipstick", "01_walking"
_CODED = re.compile(r"([A-Za-z]{1,2})(\d{2,})[\s_:.-]+(?=\S)")  # "c000 Holding some clothes", "n01440764 tench"
_LAST_NUMBER = re.compile(r"[\s_-]*(\d{1,6})$")
_FEW = 5  # so many numbers in a row are no coincidence
_RARE = 10  # of so many names, one with inner capitals is a name of its own


def words_of(names: Sequence[str], *, are_identifiers: bool = False) -> list[str]:
    """The words of each name of a list; what is no identifier comes back as it is.

    Args:
        names: cleaned (no outer or double white space).
        are_identifiers: they are known to be, as folders of classes are: single words lose their capital, too.
    """
    proper = [name[start:] for name, start in zip(names, index_ends(names), strict=True)]
    proper = _without_last_numbers(proper)
    are_kebab = _are_kebab(proper)
    num_camel = sum(bool(_boundaries(name)) for name in proper)
    are_phrases = sum(" " in name for name in proper) * 2 > len(proper) or num_camel * _RARE <= len(proper)
    words_each = [_split(name, are_kebab=are_kebab, are_phrases=are_phrases) for name in proper]
    if are_identifiers or (any(words_each) and not any(" " in name for name in proper)):
        words_each = [words or name.split() for words, name in zip(words_each, proper, strict=True)]
    read = [" ".join(_lowered(words)) if words else name for words, name in zip(words_each, proper, strict=True)]
    return _kept_apart(names, read)


def _kept_apart(names: Sequence[str], read: list[str]) -> list[str]:
    """What is read, but for names that would be read as one: those stay as they are."""
    while True:
        called: dict[str, set[str]] = {}
        for name, text in zip(names, read, strict=True):
            called.setdefault(class_key(text), set()).add(class_key(name))
        joined = {key for key, of in called.items() if len(of) > 1}
        changed = [i for i, text in enumerate(read) if text != names[i] and class_key(text) in joined]
        if not changed:
            return read
        for i in changed:
            read[i] = names[i]


def index_ends(names: Sequence[str]) -> list[int]:
    """Where each name begins after its number or code; 0: it has none.

    "2 ApplyLipstick" -> 2. A list has them where every name begins so, all differ, and no two of the names after them
    are one; "1 dog, 2 cats" has none.
    """
    nothing = [0] * len(names)
    for pattern, is_index in ((_NUMBERED, _are_numbers), (_SPACED, _are_numbers), (_CODED, _are_codes)):
        matched = [pattern.match(name) for name in names]
        matches = [m for m in matched if m]
        if len(matches) < len(names) or not matches:
            continue
        rests = {class_key(m.string[m.end() :]) for m in matches}
        if len(rests) == len(names) and is_index(matches, has_mark=pattern is _NUMBERED):
            return [m.end() for m in matches]
    # A single one: only where what follows can be nothing but an identifier, or the code is no word.
    single = [_SPACED.match(n) if " " in n and n.count(" ") == 1 else None for n in names]
    ends = [m.end() if m and len(_boundaries(n[m.end() :])) > 0 else 0 for m, n in zip(single, names, strict=True)]
    codes = [re.match(r"(?:[a-z]0\d{2}|[a-z]\d{6,})\s+(?=\S)", n) for n in names]
    ends = [end or (m.end() if m else 0) for end, m in zip(ends, codes, strict=True)]
    rests = {class_key(name[end:]) for name, end in zip(names, ends, strict=True)}
    return ends if any(ends) and len(rests) == len(names) else nothing


def class_key(name: str) -> str:
    """What two spellings of one class have in common: "Hand-stand pushups" and "HandStandPushups", "Café" in either
    Unicode form, "Straße" and "STRASSE".

    Case, Unicode form, white space, hyphens, underscores and apostrophes do not count.
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    spaced = "".join(" " if _separates(c) else c for c in text)
    return re.sub(r"(?<=\d) +(?=\d)|( +)", lambda m: "" if m[1] else " ", spaced) or text


def _separates(c: str) -> bool:
    return c.isspace() or c in "'’‘`´ʼ′" or unicodedata.category(c) in ("Pd", "Pc", "Cf")


def _are_numbers(matches: Sequence[re.Match[str]], *, has_mark: bool) -> bool:
    numbers = [int(m[1]) for m in matches]
    if len(set(numbers)) < len(numbers):
        return False
    if has_mark:  # "1: bend"
        return len(numbers) > 1 or matches[0][1].startswith("0")
    if any(_boundaries(m.string[m.end() :]) or "_" in m.string[m.end() :] for m in matches) and len(numbers) > 1:
        return True
    if all(len(m[1]) == len(matches[0][1]) for m in matches) and any(m[1].startswith("0") for m in matches):
        return len(numbers) > 1
    return (
        len(numbers) >= _FEW and numbers[0] in (0, 1) and numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    )


def _are_codes(matches: Sequence[re.Match[str]], *, has_mark: bool) -> bool:
    letters, digits = {m[1] for m in matches}, [m[2] for m in matches]
    if len(letters) > 1 or len({len(d) for d in digits}) > 1 or len(set(digits)) < len(digits):
        return False
    return len(digits) > 1 and (any(d.startswith("0") for d in digits) or len(digits[0]) >= 6)


def _without_last_numbers(names: Sequence[str]) -> list[str]:
    """Without a number at the end of identifiers, unless two of them would be one then."""
    matches = [_LAST_NUMBER.search(name) for name in names]
    most = sum(m is not None and m.start() > 0 for m in matches) * 2 > len(names) > 1
    are_parts = most and _are_parts([m[1] for m in matches if m and m.start() > 0])
    all_plain = are_parts and len(names) > 2 and all(m is not None for m in matches)
    cut = []
    for name, m in zip(names, matches, strict=True):
        rest = name[: m.start()] if m else name
        is_identifier = " " not in name and ("_" in name or bool(_boundaries(rest)) or _slug(name))
        plain = all_plain and " " not in name and rest.isalpha() and len(rest) > 3
        is_padded = m is not None and m[1].startswith("0") and len(m[1]) > 1
        is_apart = m is not None and m[0] != m[1]  # brush_hair_3
        drop = (
            bool(m)
            and len(rest) > 1
            and ((is_identifier and (is_padded or (most and (is_apart or are_parts)))) or plain)
        )
        cut.append(rest if drop else name)
    return cut if len(set(map(class_key, cut))) == len(set(map(class_key, names))) else list(names)


def _are_parts(numbers: Sequence[str]) -> bool:
    """Whether numbers count names, and are no part of them as in Formula1, Moto3 and Route66: they run on, are all the
    same, or padded with zeros."""
    values = sorted(map(int, numbers))
    if len({len(number) for number in numbers}) == 1 and len(numbers[0]) > 1 and any(n[0] == "0" for n in numbers):
        return True
    runs_on = values == list(range(values[0], values[0] + len(values))) and values[0] in (0, 1)
    return runs_on or len(set(values)) == 1


def _slug(name: str) -> bool:
    """ "playing-violin": words of two letters or more with hyphens between."""
    parts = name.split("-")
    return len(parts) > 1 and all(part.isdigit() or (len(part) > 1 and part.isalpha()) for part in parts)


def _are_kebab(names: Sequence[str]) -> bool:
    """Whether a whole list is written with hyphens in place of spaces: three such names or more, and most of all."""
    slugs = [name for name in names if _slug(name)]
    return len(slugs) > 2 and len(slugs) * 2 > len(names) and all(_slug(n) or n.isalpha() for n in names)


def _split(name: str, *, are_kebab: bool, are_phrases: bool) -> list[str] | None:
    """The words of an identifier; None: it is none."""
    if " " in name:
        return name.replace("_", " ").split() if "_" in name else None
    pieces = re.split(r"[_-]+" if are_kebab else r"_+", name)
    pieces = [piece for piece in pieces if piece]
    words = [word for piece in pieces for word in _camel(piece)]
    if not words or words == [name]:
        return None
    if len(pieces) == 1 and are_phrases and len(words) < 3:
        return None  # among phrases inner capitals are a name's own
    if "_" in name and all(word.isupper() or word.isdigit() for word in words) and max(map(len, words)) > 4:
        words = [word.lower() for word in words]  # BRUSH_HAIR
    return words or None


def _camel(text: str) -> list[str]:
    bounds = [0, *_boundaries(text), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(bounds)]


def _boundaries(text: str) -> list[int]:
    """Places in a text without spaces at which a new word begins."""
    if not text or any(c.isspace() for c in text):
        return []
    inside = {i for m in _PROPER_FORM.finditer(text) for i in range(m.start() + 1, m.end()) if _whole(text, m)}
    bounds = []
    for i in range(1, len(text)):
        before, here, after = text[i - 1], text[i], text[i + 1 : i + 2]
        if i in inside or re.search(r"(?:^|[a-z])Mc$", text[:i]):
            continue
        if here.isupper() and before.islower():
            bounds.append(i)
        elif here.isupper() and (before.isupper() or before.isdigit()) and after.islower():
            # TV|Show, 3D|Printing, but no D|Vs
            if not (before.isupper() and _ACRONYM_ENDS.match(text, i + 1)):
                bounds.append(i)
        elif here.isdigit() and text[max(0, i - 3) : i].isalpha() and text[max(0, i - 3) : i].islower() and i > 2:
            bounds.append(i)  # Drinking|2Cups, but no mp|3
        elif here.isupper() and before.isdigit() and i > 1 and text[:i].rstrip("0123456789")[-1:].islower():
            bounds.append(i)
    if not any(text[i].isupper() for i in bounds):
        return []  # a number alone makes no identifier
    return [] if len(bounds) == 1 and _is_name(text) else sorted(set(bounds))


def _whole(text: str, m: re.Match[str]) -> bool:
    """Whether a known name stands between the boundaries of words: the YouTube of WatchingYouTube."""
    rest = text[m.end() :]
    return not rest[:1].islower() or bool(_ACRONYM_ENDS.match(rest))


def _is_name(text: str) -> bool:
    """iPhone, eBay, MacBook, DeLorean, LeBron, O'Brien: one capital of a name's own; MotoGP, no WatchingTV."""
    if m := re.fullmatch(r"[A-Z][a-z]+([A-Z]{2})", text):
        return m[1] not in _SHORT_WORDS and not text[:-2].endswith("ing")
    return bool(re.match(r"[a-z][A-Z]|(?:Mac|De|La|Le|Fitz)[A-Z][a-z]|[OD]['’][A-Z]", text))


def _lowered(words: Sequence[str]) -> list[str]:
    """Words without their first capital; acronyms (TV, DVDs, 3D) and names (iPhone, Formula1) as they are."""
    return [word if any(c.isupper() or c.isdigit() for c in word[1:]) else word.lower() for word in words]
