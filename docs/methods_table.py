"""Means (and SDs) of records of one spec side by side, as Markdown: python docs/methods_table.py RECORD RECORD..."""

import sys

from thymodel.results.record import FitRecord, load_record


def main(folders: list[str]) -> None:
    records = [load_record(folder) for folder in folders]
    if len({record.content["spec"]["sha256"] for record in records}) > 1:
        sys.exit("these records are of different specs")
    print("| | " + " | ".join(record.method for record in records) + " |\n" + "|---|" + "---:|" * len(records))
    for name in records[0].content["parameters"]:
        print(f"| `{name}` | " + " | ".join(_estimate(record, name) for record in records) + " |")
    print("| Pareto k | " + " | ".join(_told(record, "pareto_k", "{:.2f}") for record in records) + " |")
    print("| log evidence | " + " | ".join(_told(record, "log_evidence", "{:.1f}") for record in records) + " |")


def _estimate(record: FitRecord, name: str) -> str:
    row = record.table.loc[name]
    return f"{row['mean']:.3g}" + ("" if record.method == "map" else f" ({row['sd']:.2g})")


def _told(record: FitRecord, key: str, form: str) -> str:
    value = record.content["sampler"].get("approximation", {}).get(key)
    return "" if value is None else form.format(value)


main(sys.argv[1:])
