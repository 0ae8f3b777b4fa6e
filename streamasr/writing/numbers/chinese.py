"""Chinese numerals in digits; pure.

A text is processed from the left. At each row of numerals, the forms below are tried in order. If
none of them matches the whole row, the row stays unchanged, so that half of an idiom does not
become a number. A single numeral is converted only within a date, a time, a percentage, a fraction
or a ratio: 一个, 第三 and 三心二意 stay, and so do estimates (七八个) and numbers with 几.
Traditional characters are treated like simplified ones, and kept: 三百萬人 becomes 300萬人.

    date      二零二四年三月十五日    2024年3月15日
    time      三点十五分二十秒        03:15:20
    percent   百分之七十五点五        75.5%
    fraction  四分之三                3/4
    ratio     三比二                  3:2
    decimal   三点一四                3.14
    range     四五百, 二十七八        400~500, 27~28
    digits    零零七, 一三八零零      007, 13800
    value     三百零五万, 一百二      305万, 120
    unit      六十千米每小时          60km/h
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from streamasr.writing.numbers.replacement import Replacement
from streamasr.writing.numbers.traditional import restore_traditional, simplify

_DIGITS: Final = {char: index for index, char in enumerate("零一二三四五六七八九")} | {
    "〇": 0,
    "幺": 1,
    "两": 2,
}
_UNITS: Final = {"十": 10, "百": 100, "千": 1000}
_MAX_NUMERALS: Final = 40
"""Maximum length of a row; spoken numbers are shorter."""

_NUMERAL: Final = "[零〇一二两三四五六七八九十百千万亿幺几]"
_D: Final = "[一二三四五六七八九]"
_TENS: Final = f"(?:{_D}?十{_D}?|[零〇]?{_D}|[零〇])"
"""0..99."""
_ROW: Final = f"{_NUMERAL}{{1,{_MAX_NUMERALS}}}"
_NO_MORE: Final = f"(?!{_NUMERAL}|[0-9])"
_DECIMALS: Final = "点(?P<decimals>[零〇一二三四五六七八九幺]{1,20})"

_KEPT: Final = re.compile(
    "(?:周|星期|礼拜)[一二三四五六](?:至周?[一二三四五六])?|初[一二三四五六七八九十]+"
    "|(?:正|腊|冬)月[初一二三四五六七八九十廿]*|不管三七二十一|三七二十一|十万八千里|十万火急"
    "|七七八八|三三两两|三百六十行|三十六计|三十六行|七十二变|五十步笑百步|三十而立|四十不惑|四十而不惑"
    "|五十知天命|五十而知天命|六十耳顺|六十而耳顺|七十古来稀|十八般|十八罗汉|十八层地狱|十八变"
    "|九九八十一|九九归一|二百五(?![十零〇])|一千零一夜|一万个不|一百个不|一千个不|一百个放心"
    "|九一八事变|九一八纪念|飞流直下三千尺|三千佳丽|三千弱水|弱水三千|白发三千丈|八千里路"
    "|三十年河东|三十年河西|二十四孝|四十九日|十二分|十二万分|一二三四五六七八九十"
    "|十一(?=长假|黄金周|假期|国庆|期间|放假|小长假)|一五一十|二一添作五|万万|千千万万|千万千万|百八十"
)
"""Idioms and similar phrases, and numerals that belong to the text before them."""

_FRACTION_FOLLOWS: Final = re.compile(
    "$|[^\\w]|倍|元|块|万|亿|米|公|克|斤|吨|升|度|个百分点|个亿|岁|小时|秒|级|版|代|寸|英|厘|毫|平|分钟|左右|以|的|到|至"
)
"""Text that may follow a decimal point and one numeral; in 三点一起走, 三点 is three o'clock."""

_NO_RATIO: Final = "(?![大小多少高低好快慢强弱更要还较重轻长短远近赛如])"
_DAY_TIME: Final = "(?<=上午|下午|晚上|早上|凌晨|中午|傍晚|夜里|今晚|明早)"


def find_chinese_numbers(text: str) -> Iterator[Replacement]:
    """Yield the numbers to write in digits, in order."""
    for found in _find_simplified(simplify(text)):
        yield replace(found, text=restore_traditional(text[found.start : found.end], found.text))


def _find_simplified(text: str) -> Iterator[Replacement]:
    position = 0
    while match := _ANYTHING.search(text, position):
        position = match.end()
        if match["kept"] or _is_guarded(text, match.start()):
            continue
        position = match.start()
        if found := _find_at(text, position):
            yield found
            position = found.end
        else:
            position = _end_of_row(text, position)


_ANYTHING: Final = re.compile(f"(?P<kept>{_KEPT.pattern})|{_NUMERAL}+")


def _end_of_row(text: str, start: int) -> int:
    """Return the end of a row that stays unchanged, with the rows joined to it by 点."""
    match = re.compile(f"{_NUMERAL}+(?:点{_NUMERAL}+)*").match(text, start)
    return match.end() if match else start + 1


def _is_guarded(text: str, start: int) -> bool:
    """Return whether a number cannot begin here: after digits, or after 数, which means several."""
    before = text[max(0, start - 1) : start]
    return before in {"数", "几", ".", "点", "~"} or (before.isascii() and before.isalnum())


def _find_at(text: str, start: int) -> Replacement | None:
    for pattern, write in _FORMS:
        match = pattern.match(text, start)
        if match and (written := write(match)):
            return Replacement(start, match.end(), written)
    return None


def _row(numerals: str) -> int | None:
    """Return the value of a row that is a number or consists of single digits; None for others."""
    digits = _digits(numerals)
    return _value(numerals) if digits is None else int(digits)


def _digits(numerals: str) -> str | None:
    """Convert a row of single digits; None if it contains other numerals."""
    if not numerals or any(char not in _DIGITS or char == "两" for char in numerals):
        return None
    return "".join(str(_DIGITS[char]) for char in numerals)


def _value(numerals: str) -> int | None:
    """Return the value of a number; None for an invalid one."""
    if len(numerals) == 1 and numerals in _DIGITS:
        return _DIGITS[numerals]
    total, rest = 0, numerals
    for name, factor in (("亿", 10**8), ("万", 10**4)):
        head, found, tail = rest.partition(name)
        if found:
            section = _value(head) if name == "亿" and "万" in head else _section(head)
            if section is None or not section:
                return None
            total += section * factor
            if len(tail) == 1 and tail in _DIGITS and tail not in "零〇":
                return total + _DIGITS[tail] * factor // 10  # 三万五
            rest = tail
    if not rest:
        return total or None
    last = _section(rest)
    if last is None or (total and last < 1000 and rest[0] not in "零〇"):
        return None
    return total + last


def _section(numerals: str) -> int | None:
    """Return the value of a number below ten thousand; None for an invalid one."""
    total, rest, limit = 0, numerals.lstrip("零〇") if len(numerals) > 1 else numerals, 10_000
    skipped = len(rest) < len(numerals)
    if len(numerals) - len(rest) > 1 or not rest:
        return None
    if rest[0] == "十":
        rest = "一" + rest
    while rest:
        if rest[0] in "零〇":
            if not total or skipped or len(rest) == 1:
                return None
            skipped, rest = True, rest[1:]
            continue
        digit, unit = _DIGITS.get(rest[0]), _UNITS.get(rest[1:2], 1)
        if digit is None or not digit or unit >= limit or rest[0] == "幺":
            return None
        if unit == 1:
            if len(rest) > 1 or (rest[0] == "两" and total):
                return None
            colloquial = limit // 10 if total and not skipped else 1
            return total + digit * colloquial
        total, limit, skipped, rest = total + digit * unit, unit, False, rest[2:]
    return total or None


def _written(numerals: str) -> str | None:
    """Write a number of two or more numerals in digits; round ones keep their 万 or 亿."""
    if len(numerals) < 2 or (value := _value(numerals)) is None:
        return None
    if numerals[-1] not in "万亿":
        return str(value)
    parts = re.findall("([^万亿]+)([万亿]+)", numerals)
    values = [_section(head) for head, _ in parts]
    if None in values or any(len(unit) > 1 for _, unit in parts):
        return None
    return "".join(f"{section}{unit}" for section, (_, unit) in zip(values, parts, strict=True))


def _clock(match: re.Match[str]) -> str | None:
    hour, minute = _row(match["hour"]), _row(match["minute"])
    second = _row(match["second"]) if match["second"] else None
    if hour is None or minute is None or hour > 24 or minute > 59 or (second or 0) > 59:
        return None
    if second is None:
        return f"{hour}:{minute:02}"
    return f"{hour:02}:{minute:02}:{second:02}"


def _date(match: re.Match[str]) -> str | None:
    written = ""
    if year := match["year"]:
        digits = _digits(year)
        if digits is None:
            value = _value(year)
            digits = str(value) if value else None
        if digits is None or not 2 <= len(digits) <= 4:
            return None
        written = f"{digits}年"
    month = _row(match["month"])
    if not month or month > 12:
        return None
    written += f"{month}月"
    if match["day"]:
        day = _row(match["day"])
        if not day or day > 31:
            return None
        written += f"{day}{match['sun']}"
    return written


def _year(match: re.Match[str]) -> str | None:
    numerals = match["year"]
    digits = _digits(numerals)
    is_guess = numerals[0] in "一二三四" or _follow(*numerals[:2])
    if digits is None or (len(digits) == 2 and is_guess):
        return None
    return f"{digits}年"


def _percent(match: re.Match[str]) -> str | None:
    sign = "%" if match["of"] == "百" else "‰"
    if match["whole"] in ("百", "千"):
        return None if match["whole"] != match["of"] or match["decimals"] else "100%"
    whole = _row(match["whole"])
    return None if whole is None else f"{whole}{_point(match)}{sign}"


def _point(match: re.Match[str]) -> str:
    decimals = _digits(match["decimals"] or "")
    return f".{decimals}" if decimals else ""


def _fraction(match: re.Match[str]) -> str | None:
    below, above = _row(match["below"]), _row(match["above"])
    return f"{above}/{below}" if below and above is not None else None


def _ratio(match: re.Match[str]) -> str | None:
    left, right = _row(match["left"]), _row(match["right"])
    return f"{left}:{right}" if left is not None and right is not None else None


def _decimal(match: re.Match[str]) -> str | None:
    whole = _row(match["whole"])
    is_short = len(match["decimals"]) == 1
    if whole is None or (is_short and not _FRACTION_FOLLOWS.match(match.string, match.end())):
        return None
    return f"{whole}{_point(match)}"


def _range(match: re.Match[str]) -> str | None:
    """Write two consecutive numerals, which mean an estimate, as a range."""
    if not _follow(match["from"], match["to"]):
        return None
    head, tail = match["head"] or "", match["tail"] or ""
    if not head and not tail:
        return None
    if head and tail:
        return None
    ends = [_value(head + numeral + tail) for numeral in (match["from"], match["to"])]
    if None in ends:
        return None
    name = match["name"] or ""
    return f"{ends[0]}~{ends[1]}{name}"


def _follow(a: str, b: str) -> bool:
    return _DIGITS.get(a, 0) > 0 and _DIGITS.get(b) == _DIGITS[a] + 1


def _with_unit(match: re.Match[str]) -> str | None:
    numerals, unit = match["value"], match["unit"]
    written = _written(numerals) or (_single(numerals) if unit.startswith("千") else None)
    if written is None or written[-1] in "万亿":
        return None
    return written + {"克": "g", "千克": "kg", "千米每小时": "km/h"}.get(unit, unit)


def _single(numerals: str) -> str | None:
    value = _value(numerals)
    return None if value is None else str(value)


def _money(match: re.Match[str]) -> str | None:
    value = _written(match["value"])
    return (
        None if value is None else f"{value}{match['unit']}{_DIGITS[match['part']]}{match['end']}"
    )


def _digit_row(match: re.Match[str]) -> str | None:
    numerals = match[0]
    digits = _digits(numerals)
    if digits is None or numerals == "一二三":
        return None
    return (
        digits if len(digits) > 2 or (len(digits) == 2 and set(numerals) & set("零〇幺")) else None
    )


def _plain_value(match: re.Match[str]) -> str | None:
    return _written(match[0])


Write = Callable[[re.Match[str]], str | None]

_FORMS: Final[tuple[tuple[re.Pattern[str], Write], ...]] = tuple(
    (re.compile(pattern), write)
    for pattern, write in (
        (
            f"(?:(?P<year>{_ROW})年)?(?P<month>十?{_D}|十)月(?P<day>{_D}?十{_D}?|{_D})(?P<sun>[日号])",
            _date,
        ),
        (f"(?P<year>{_ROW})年(?P<month>十?{_D}|十)月(?!{_NUMERAL})(?P<day>)(?P<sun>)", _date),
        (f"(?P<month>十?{_D}|十)月(?P<day>{_D}?十{_D}|{_D}十)(?P<sun>)(?P<year>){_NO_MORE}", _date),
        ("(?P<year>[零〇一二三四五六七八九]{4}|[零〇一二三四五六七八九]{2})年", _year),
        (
            f"(?P<hour>{_TENS}|两)点(?P<minute>{_D}?十{_D}?|[零〇]{_D})分(?![钟鐘之])"
            f"(?:(?P<second>{_TENS})秒)?",
            _clock,
        ),
        (
            f"{_DAY_TIME}(?P<hour>{_TENS}|两)点(?P<minute>{_D}?十{_D}?|[零〇]{_D})(?P<second>)"
            f"{_NO_MORE}(?![个個分人])",
            _clock,
        ),
        (f"(?P<of>[百千])分之(?P<whole>{_ROW})(?:{_DECIMALS})?{_NO_MORE}", _percent),
        (f"(?P<below>{_ROW})分之(?P<above>{_ROW}){_NO_MORE}", _fraction),
        (f"(?P<left>{_ROW})比(?P<right>{_ROW}){_NO_MORE}{_NO_RATIO}", _ratio),
        (f"(?P<whole>{_ROW}){_DECIMALS}(?![分刻半]){_NO_MORE}", _decimal),
        (
            f"(?P<head>)(?P<from>[一二两三四五六七八])(?P<to>[两三四五六七八九])"
            f"(?P<tail>[十百千]?)(?P<name>[万亿]?){_NO_MORE}",
            _range,
        ),
        (
            f"(?P<head>{_D}?十|[一二两三四五六七八九百千零〇]{{2,8}}十)(?P<from>[一二三四五六七八])"
            f"(?P<to>[二三四五六七八九])(?P<tail>)(?P<name>[万亿]?){_NO_MORE}",
            _range,
        ),
        (f"(?P<value>{_ROW}?)(?P<unit>千克|千米每小时|克(?![拉隆兰服制己勤里罗什]))", _with_unit),
        (
            f"(?P<value>{_ROW})(?P<unit>块|度)(?P<part>{_D})(?P<end>毛|角|){_NO_MORE}(?![个十])",
            _money,
        ),
        (f"{_ROW}{_NO_MORE}", _digit_row),
        (f"{_ROW}?(?=千[米瓦卡]){_NO_MORE}|{_ROW}{_NO_MORE}", _plain_value),
        (f"{_ROW}?(?=千[米瓦卡])", _plain_value),
    )
)
"""Pattern of each form with the function that writes it; the first match is used."""
