"""Fails when a JUnit report holds a skipped test: in CI nothing is left out. Usage: no_skips.py REPORT.xml…"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree


def main(*reports: str) -> int:
    cases = [case for report in reports for case in ElementTree.parse(report).getroot().iter("testcase")]
    skipped = [(case, skip) for case in cases for skip in case.iter("skipped")]
    for case, skip in skipped:
        print(f"skipped: {case.get('classname')}.{case.get('name')}: {skip.get('message')}", file=sys.stderr)
    return 1 if skipped else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
