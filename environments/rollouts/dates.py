"""Moments as people write them, read into the one form in which facts state them: "14 march 1874 09:32:17"."""

import re
from datetime import date

MONTHS = (
    "january february march april may june july august september october november december".split()
)  # fmt: skip
_MONTH = r"(?P<m>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?" \
         r"|nov(?:ember)?|dec(?:ember)?)\.?"  # fmt: skip
_DAY = r"(?P<d>\d{1,2})(?:st|nd|rd|th|\.)?"
_YEAR = r"(?P<y>\d{4})"
_WEEKDAY = r"(?:(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?\.?,? )?"
_TIME = (
    r"(?P<hour>[01]?\d|2[0-3]):(?P<minute>[0-5]\d):(?P<second>[0-5]\d)(?:\.0{1,6}(?!\d))?"
    r"(?: ?(?P<half>[ap])\.?m\b\.?)?(?: ?(?:z|utc|gmt)\b)?"
)
_DATES = (
    rf"{_WEEKDAY}(?:the )?{_DAY}[ -]{{1,2}}(?:day )?(?:of )?{_MONTH}(?:, ?|[ -]){_YEAR}",  # 14 March 1874
    rf"{_WEEKDAY}{_MONTH} (?:the )?{_DAY},? {_YEAR}",  # March 14, 1874
    rf"{_YEAR},?[ -]{_MONTH}[ -]{_DAY}",  # 1874 March 14
    rf"{_YEAR}[-/.](?P<month>\d{{1,2}})[-/.](?P<d>\d{{1,2}})",  # 1874-03-14
    rf"(?P<one>\d{{1,2}})[-/.](?P<two>\d{{1,2}})[-/.]{_YEAR}",  # 14/03/1874 or 03/14/1874
)
_FORMS = [
    form
    for day in _DATES
    for form in (rf"{day}(?:[ ,(]{{1,3}}(?:at |- )?|t){_TIME}", rf"{_TIME}(?:,? on |[ ,(]{{1,3}}){day}")
]
_READERS = [re.compile(form, re.IGNORECASE) for form in _FORMS]
_ANY = "|".join(re.sub(r"\?P<\w+>", "?:", form) for form in _FORMS)
# Never a part of a longer number.
MOMENT = re.compile(rf"(?<!\w)(?<!\d[-/.:,])(?:{_ANY})(?!\w)(?![-/.:]\d)", re.IGNORECASE)


def canonical_moment(text: str) -> str | None:
    """Return a folded text that is a moment and nothing else as facts word it, in lower case.

    Returns None if it is none, or may be two: "03/04/1874 …" is the third of April or the fourth of March.
    """
    if not text[-1:].strip() or len(text) > 60:
        return None
    for reader in _READERS:
        if match := reader.fullmatch(text):
            return _moment({name: value for name, value in match.groupdict().items() if value is not None})
    return None


def _moment(part: dict[str, str]) -> str | None:
    hour = int(part["hour"])
    if "half" in part:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + 12 * (part["half"].lower() == "p")
    if "one" in part:
        one, two = int(part["one"]), int(part["two"])
        if one <= 12 and two <= 12 and one != two:
            return None
        month, day = min(one, two), max(one, two)
    else:
        day = int(part["d"])
        month = int(part["month"]) if "month" in part else _number_of(part["m"])
    try:
        date(int(part["y"]), month, day)
    except ValueError:
        return None
    return f"{day} {MONTHS[month - 1]} {int(part['y'])} {hour:02}:{part['minute']}:{part['second']}"


def _number_of(month: str) -> int:
    return next(n for n, name in enumerate(MONTHS, 1) if name.startswith(month.lower()[:3]))
