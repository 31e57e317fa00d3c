"""Dates and times of day as hours, in the forms that data sets of pharmacometrics have them."""

import re
from datetime import date, datetime

# NONMEM: the order of day, month and year follows from the name of the column
_ORDERS = {"DATE": "mdy", "DAT1": "dmy", "DAT2": "ymd", "DAT3": "ydm"}
_PIVOT = 50  # a year 51 is 1951, 50 is 2050: as LAST20 of NONMEM; only differences of dates are used
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}(?:\.\d+)?))?")
_PARTS = re.compile(r"(\d{1,4})[-/.](\d{1,2})[-/.](\d{1,4})")
_NAMED = re.compile(r"(\d{1,2})[- ]?([A-Za-z]{3})[- ]?(\d{2,4})")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_HOURS = re.compile(r"\d{1,2}(\.\d*)?|\.\d+")
_MOST_DAYS = 99_999  # of a count of days; SAS, R and spreadsheets are near 50,000, and 20240301 is no count


def is_clock(text: str) -> bool:
    """Whether it is a time of day, hh:mm or hh:mm:ss."""
    return bool(_CLOCK.fullmatch(text.strip()))


def is_moment(text: str) -> bool:
    """Whether it is a date with a time of day in one cell, as in ISO 8601 (2024-03-01T08:30)."""
    return bool(re.match(r"\d{4}-\d{2}-\d{2}([T ]\d|$)", text.strip()))


def hours_of_clock(text: str) -> float:
    """Hours since midnight, from hh:mm, hh:mm:ss or decimal hours.

    Raises:
        ValueError: none of these.
    """
    found = _CLOCK.fullmatch(text.strip())
    if found is None:
        if _HOURS.fullmatch(text.strip()) and float(text) <= 24:  # 0015 may be a quarter past midnight
            return float(text)
        raise ValueError(f"'{text[:40]}' is not a time of day such as 13:45, or hours up to 24")
    hours, minutes, seconds = int(found[1]), int(found[2]), float(found[3] or 0)
    if hours > 24 or minutes > 59 or seconds >= 60:
        raise ValueError(f"'{text[:40]}' is not a time of day")
    return hours + minutes / 60 + seconds / 3600


def hours_of_moment(text: str) -> float:
    """Hours of a date with a time of day in ISO 8601, from a fixed day on.

    Raises:
        ValueError: not such a text, or not a day of the calendar.
    """
    day, _, clock = text.strip().replace(" ", "T").partition("T")
    if clock.endswith("Z"):
        clock = clock[:-1]
    try:
        days = datetime.fromisoformat(day).toordinal()
    except ValueError:
        raise ValueError(f"'{text[:40]}' is not a date such as 2024-03-01T08:30") from None
    return 24.0 * days + (hours_of_clock(clock) if clock else 0.0)


def days_of_date(text: str, heading: str) -> int:
    """Number of a day; only differences mean something.

    Args:
        heading: the column: DATE is month, day, year; DAT1 day, month, year; DAT2 year, month, day; DAT3 year, day,
            month. A year of four digits in front is always year, month, day; 01MAR2024 and counts of days are read too.

    Raises:
        ValueError: none of these, or not a day of the calendar.
    """
    text = text.strip()
    if re.fullmatch(r"\d+(\.0*)?", text):
        if float(text) > _MOST_DAYS:
            raise ValueError(f"the date '{text[:40]}' counts more days than {_MOST_DAYS}: write it as 2024-03-01")
        return int(float(text))
    if named := _NAMED.fullmatch(text):
        if named[2].lower() not in _MONTHS:
            raise ValueError(f"'{text}' has no month")
        return _ordinal(text, int(named[1]), _MONTHS.index(named[2].lower()) + 1, _year(named[3]))
    found = _PARTS.fullmatch(text)
    if found is None:
        raise ValueError(f"'{text[:40]}' is not a date")
    order = "ymd" if len(found[1]) == 4 else _ORDERS.get(heading.upper(), "")
    if not order:
        raise ValueError(f"'{text}' in a column {heading}: the order of day and month is not known")
    part = {letter: found[place + 1] for place, letter in enumerate(order)}
    return _ordinal(text, int(part["d"]), int(part["m"]), _year(part["y"]))


def _year(text: str) -> int:
    value = int(text)
    return value if len(text) > 2 else value + (1900 if value > _PIVOT else 2000)


def _ordinal(text: str, day: int, month: int, year: int) -> int:
    try:
        return date(year, month, day).toordinal()
    except ValueError:
        raise ValueError(f"'{text}' is not a day of the calendar (day {day}, month {month}, year {year})") from None
