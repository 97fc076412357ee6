"""The report of a run: one HTML page, and its pictures."""

from prebake.train.report.write import write_report

__all__ = ["write_report"]
