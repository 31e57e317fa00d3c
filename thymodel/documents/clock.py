"""Dates and times of day as hours, in the forms that data sets of pharmacometrics have them."""

import re
from datetime import date, datetime

# NONMEM: the order of day, month and year follows from the name of the column
_ORDERS = {"DATE": "mdy", "DAT1": "dmy", "DAT2": "ymd", "DAT3": "ydm"}
_PIVOT = 50  # a year 51 is 1951, 50 is 2050: as LAST20 of NONMEM; only differences of dates are used
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}(?:\.\d+)?))?(?:\s*([AaPp])\.?[Mm]\.?)?")
_PARTS = re.compile(r"(\d{1,4})[-/.](\d{1,2})[-/.](\d{1,4})")
_NAMED = re.compile(r"(\d{1,2})[- ]?([A-Za-z]{3})[- ]?(\d{2,4})")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_HOURS = re.compile(r"\d{1,2}(\.\d*)?|\.\d+")
_SAS_MOMENT = re.compile(r"(\d{1,2}[A-Za-z]{3}\d{2,4}):(\d.*)")
_MOST_DAYS = 100_000  # a count of days; more is a date without marks, and no difference of such is a number of days


def is_clock(text: str) -> bool:
    """Whether it is a time of day, hh:mm or hh:mm:ss, perhaps with am or pm."""
    return bool(_CLOCK.fullmatch(text.strip()))


def is_moment(text: str) -> bool:
    """Whether it is a date with a time of day in one cell: ISO 8601 (2024-03-01T08:30) or of SAS (01MAR2024:08:30)."""
    text = text.strip()
    return bool(re.match(r"\d{4}-\d{2}-\d{2}([T ]\d|$)", text) or _SAS_MOMENT.fullmatch(text))


def kind_of_moment(text: str) -> str:
    """What a moment says beside its day, in words: moments of different kinds cannot be compared without a doubt."""
    clock = text.strip().replace(" ", "T").partition("T" if text.strip()[4:5] == "-" else ":")[2]
    return "no time of day" if not clock else "a time of day in UTC" if clock.endswith("Z") else "a time of day"


def hours_of_clock(text: str) -> float:
    """Hours since midnight, from hh:mm, hh:mm:ss (both perhaps with am or pm) or decimal hours.

    Raises:
        ValueError: none of these.
    """
    found = _CLOCK.fullmatch(text.strip())
    if found is None:
        if _HOURS.fullmatch(text.strip()) and float(text) <= 24:  # 0015 may be a quarter past midnight
            return float(text)
        raise ValueError(f"'{text[:40]}' is not a time of day such as 13:45, or hours up to 24")
    hours, minutes, seconds = int(found[1]), int(found[2]), float(found[3] or 0)
    if found[4] and not 1 <= hours <= 12 or hours > 24 or minutes > 59 or seconds >= 60:
        raise ValueError(f"'{text[:40]}' is not a time of day")
    if found[4]:
        hours = hours % 12 + (12 if found[4] in "Pp" else 0)  # 12:30 am is half past midnight
    return hours + minutes / 60 + seconds / 3600


def hours_of_moment(text: str) -> float:
    """Hours of a date with a time of day in ISO 8601 or as SAS prints it, from a fixed day on.

    Raises:
        ValueError: not such a text, or not a day of the calendar.
    """
    if sas := _SAS_MOMENT.fullmatch(text.strip()):
        return 24.0 * days_of_date(sas[1], "") + hours_of_clock(sas[2])
    day, _, clock = text.strip().replace(" ", "T").partition("T")
    if clock.endswith("Z"):
        clock = clock[:-1]
    try:
        days = datetime.fromisoformat(day).toordinal()
    except ValueError:
        raise ValueError(f"'{text[:40]}' is not a date such as 2024-03-01T08:30") from None
    return 24.0 * days + (hours_of_clock(clock) if clock else 0.0)


def days_of_date(text: str, heading: str, order: str = "") -> int:
    """Number of a day; only differences mean something.

    Args:
        heading: the column: DATE is month, day, year; DAT1 day, month, year; DAT2 year, month, day; DAT3 year, day,
            month. A year of four digits in front is year, month, day in all other columns; 01MAR2024, 20240301 (ISO
            8601 without marks) and plain numbers of days are read too.
        order: such as "dmy", where the heading does not say it, or something else.

    Raises:
        ValueError: none of these, or not a day of the calendar.
    """
    text = text.strip()
    if whole := re.fullmatch(r"(\d+)(\.0*)?", text):
        if re.fullmatch(r"(19|20)\d{6}", whole[1]):
            return _ordinal(text, int(whole[1][6:]), int(whole[1][4:6]), int(whole[1][:4]))
        if len(whole[1]) > 9 or int(whole[1]) >= _MOST_DAYS:
            raise ValueError(f"'{text[:40]}' is neither a count of days nor a date such as 2024-03-01 or 20240301")
        return int(whole[1])
    if named := _NAMED.fullmatch(text):
        if named[2].lower() not in _MONTHS:
            raise ValueError(f"'{text}' has no month")
        return _ordinal(text, int(named[1]), _MONTHS.index(named[2].lower()) + 1, _year(named[3]))
    found = _PARTS.fullmatch(text)
    if found is None:
        raise ValueError(f"'{text[:40]}' is not a date")
    order = order or _ORDERS.get(heading.upper(), "")
    if len(found[1]) == 4 and order != "ydm":
        order = "ymd"
    if not order:
        raise ValueError(f"'{text}' in a column {heading}: the order of day and month is not known")
    part = {letter: found[place + 1] for place, letter in enumerate(order)}
    if max(len(part["d"]), len(part["m"])) > 2:
        raise ValueError(f"'{text}' is not a date in the order {'/'.join(order)}")
    return _ordinal(text, int(part["d"]), int(part["m"]), _year(part["y"]))


def _year(text: str) -> int:
    value = int(text)
    return value if len(text) > 2 else value + (1900 if value > _PIVOT else 2000)


def _ordinal(text: str, day: int, month: int, year: int) -> int:
    try:
        return date(year, month, day).toordinal()
    except ValueError:
        raise ValueError(f"'{text}' is not a day of the calendar (day {day}, month {month}, year {year})") from None
