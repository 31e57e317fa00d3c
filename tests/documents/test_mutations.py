"""Damaged files: whatever happens to a text, the reader answers with a value or with faults, never otherwise."""

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from thymodel.documents.data import DataColumns, load_data
from thymodel.documents.model import load_model, parse_model
from thymodel.documents.spec import load_fit_spec
from thymodel.errors import InputError

pytestmark = pytest.mark.requirement("REQ-SEC-02")

BAD = Path(__file__).resolve().parents[1] / "bad"
MODEL = (BAD / "decay.toml").read_text(encoding="utf-8")
SPEC = """
title = "Decay"
purpose = "test"
model = "decay.toml"
estimate = ["x0", "k"]
[data]
file = "study.csv"
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
units = { TIME = "day", count = "cell/uL" }
[between_subject]
x0 = { sd = "halfnormal(sd=1)", source = "test" }
[likelihood.count]
error = "lognormal"
parameters = { log_sd = { prior = "lognormal(median=0.3, sd=1)", source = "test" } }
[endpoints.low]
marker = "count"
threshold = 0.05
unit = "kcell/uL"
horizon = 30
by = [10]
[sampler]
seed = 1
"""
DATA = """ID,TIME,EVID,CMT,AMT,RATE,ADDL,II,DVID,DV,CENS,LIMIT,MDV,ARM,age
1,0,2,.,.,.,.,.,.,.,.,.,.,low,30
1,7,1,cells,4,2,1,3,.,.,.,.,.,low,.
1,30,0,.,.,.,.,.,count,12,0,.,0,low,.
2,30,0,.,.,.,.,.,count,1,1,0.1,0,high,50
"""
COLUMNS = DataColumns(units={"TIME": "day", "count": "cell/uL", "cells": "cell/uL", "age": "year"})
_PIECES = ["", *"\x00\"'={}[](),.\n#-+*^/0xte\t;\\é", "[[", "\r\n", "**", "1e999", "-1", "nan", "inf", "true", "\ufeff",
           "µ", "cell", "1/0", "k*", "1979-05-27", "999999999999999999999999", "0x1F", "\\u0000", "NA", "9**9**9**9",
           "lambda: 0", "\u202e"]
_WORDS = ["-1", "0", "1.5", "1e300", "-1e300", "1e-320", "3000000", "[]", "{}", "true", "[1, 2]", "1979-05-27", "nan"]
_WORDS += [f'"{text}"' for text in (
    "", "x", "x/0", "(-1)**0.5", "t", "9**9**9**9", "piecewise(x, t < 1, x*exp(t))", "hill(x, x0, 1e9)", "cell**99",
    "1/cell", "uniform(lower=0, upper=1)", "lkj(shape=1)", "max(x, 0)*min(k, k)", "x**k", "x**n", "D1", "sqrt(x)",
    "../../etc/passwd", "/dev/null", "~", ".", "log(x/x0)", "abs(-x)", "2**1023*2")]


def mutated(text: str, seed: int) -> str:
    """One to three wounds: a piece deleted, inserted, repeated, two lines exchanged, or (most) a word made another."""
    chance = random.Random(seed)
    for _ in range(chance.randint(1, 3)):
        at, length = chance.randrange(len(text)), chance.randint(1, 8)
        kind = chance.choice(("delete", "insert", "replace", "repeat", "lines", *["word"] * 10))
        if kind == "word":
            words = list(re.finditer(r"[\w.*/-]+|\"[^\"]*\"", text))
            chosen, other = chance.choice(words), chance.choice([*(word.group() for word in words), *_WORDS])
            text = text[:chosen.start()] + other + text[chosen.end():]
            continue
        if kind == "lines":
            lines = text.split("\n")
            i, j = chance.randrange(len(lines)), chance.randrange(len(lines))
            lines[i], lines[j] = lines[j], lines[i]
            text = "\n".join(lines)
            continue
        middle = {"delete": "", "insert": chance.choice(_PIECES) + text[at:at + length],
                  "replace": chance.choice(_PIECES), "repeat": text[at:at + length] * 3}[kind]
        text = text[:at] + middle + text[at + length:] or "\n"
    return text


def answers(read: Callable[[str], object], text: str, seeds: range) -> int:
    """How many wounded texts were still good; anything but InputError passes through."""
    good = 0
    for seed in seeds:
        try:
            read(mutated(text, seed))
            good += 1
        except InputError as error:
            assert error.faults and all(fault.where and fault.what for fault in error.faults), seed
    return good


def test_a_wounded_model_is_read_or_refused():
    assert answers(lambda text: parse_model(text, "model.toml"), MODEL, range(300)) < 300


def test_a_wounded_spec_is_read_or_refused(tmp_path):
    (tmp_path / "decay.toml").write_text(MODEL, encoding="utf-8")

    def read(text: str):
        (tmp_path / "spec.toml").write_text(text, encoding="utf-8", newline="")
        return load_fit_spec(tmp_path)

    assert answers(read, SPEC, range(300)) < 300


def test_wounded_data_are_read_or_refused(tmp_path):
    model = load_model(BAD / "decay.toml")

    def read(text: str):
        (tmp_path / "study.csv").write_text(text, encoding="utf-8", newline="")
        return load_data(tmp_path / "study.csv", model, COLUMNS)

    assert 0 < answers(read, DATA, range(300)) < 300


def test_every_prefix_of_a_file_is_read_or_refused():
    for end in range(0, len(MODEL), 7):
        try:
            parse_model(MODEL[:end], "model.toml")
        except InputError:
            pass
