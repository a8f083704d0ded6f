"""Mutation score: the fraction of small realistic mistakes that the tests detect.

``python tests/mutation/score.py [ROOM ...] [--jobs 2] [--list]`` applies every mistake of
``tests/mutation/ROOM.yaml``, one at a time, to a copy of the repository, runs the tests named with
it, and prints which mistakes survive. A mistake is an entry

    - name: loss with the wrong sign
      file: lightning_reg/training/module.py
      old: return value.total
      new: return -value.total
      tests: [tests/training/test_learning.py]

``old`` must occur exactly once in the file, where spaces, line breaks and the comma before a
closing bracket count for nothing. The tests of a mistake are first run without it,
because a failing test cannot detect anything. The exit status is 0 if at least 95 % are detected.
"""

from __future__ import annotations

import argparse
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 900  # seconds; a mistake that makes the tests hang is noticed


def mistakes(rooms: list[str]) -> list[dict[str, Any]]:
    """Entries of the rooms' tables (all rooms where none is named), checked against the files they
    change.
    """
    found = []
    for table in sorted(Path(__file__).parent.glob("*.yaml")):
        if rooms and table.stem not in rooms:
            continue
        for entry in yaml.safe_load(table.read_text()):
            text = (ROOT / entry["file"]).read_text()
            count = len(pattern(entry, text).findall(text))
            if count != 1:
                raise SystemExit(
                    f"{table.name}, {entry['name']!r}: its text stands {count} times in"
                    f" {entry['file']}; expected once"
                )
            found.append(entry | {"room": table.stem})
    return found


def pattern(mistake: dict[str, Any], text: str) -> re.Pattern[str]:
    """The text of a mistake's place; however its lines are broken, where it is not there as it is."""
    if text.count(mistake["old"]) == 1:
        return re.compile(re.escape(mistake["old"]))
    words = re.findall(r"\w+|[^\w\s]", mistake["old"])
    return re.compile(
        r"\s*".join(rf",?\s*{re.escape(w)}" if w in ")]}" else re.escape(w) for w in words)
    )


def copy_repository(folder: Path) -> Path:
    """Copy of the files that git tracks or would track."""
    names = subprocess.check_output(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, text=True
    ).split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def passes(folder: Path, tests: list[str]) -> bool:
    """Whether the tests pass in a copy; a run that takes too long does not."""
    environment = os.environ | {
        "PYTHONPATH": str(folder),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "slow or not slow",
        *tests,
    ]
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        code = process.wait(TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    # 2: the mistake breaks an import; anything else is the table's own mistake
    if code not in (
        0,
        1,
        2,
    ):
        raise SystemExit(f"pytest ended with status {code} for {' '.join(tests)}")
    return code == 0


def noticed(folder: Path, mistake: dict[str, Any]) -> bool:
    """Whether the tests of a mistake fail with it."""
    file = folder / mistake["file"]
    text = file.read_text()
    file.write_text(pattern(mistake, text).sub(lambda _: mistake["new"], text))
    try:
        return not passes(folder, mistake["tests"])
    finally:
        file.write_text(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("rooms", nargs="*", help="names of the tables; all by default")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="mistakes whose name contains this text")
    parser.add_argument("--list", action="store_true", help="names of the mistakes; nothing is run")
    arguments = parser.parse_args()
    made = [m for m in mistakes(arguments.rooms) if arguments.only in m["name"]]
    if arguments.list:
        print("\n".join(f"{m['room']}: {m['name']}" for m in made))
        return 0
    with tempfile.TemporaryDirectory() as work:
        copies: queue.Queue[Path] = queue.Queue()
        for job in range(arguments.jobs):
            copies.put(copy_repository(Path(work) / str(job)))

        def run(task: Any, *values: Any) -> bool:
            folder = copies.get()
            try:
                return task(folder, *values)
            finally:
                copies.put(folder)

        with ThreadPoolExecutor(arguments.jobs) as pool:
            sets = sorted({tuple(m["tests"]) for m in made})
            broken = [
                s
                for s, good in zip(
                    sets, pool.map(lambda s: run(passes, list(s)), sets), strict=True
                )
                if not good
            ]
            if broken:
                raise SystemExit(
                    "these tests fail without any mistake: "
                    + "; ".join(" ".join(s) for s in broken)
                )
            results = []
            for mistake, killed in zip(
                made, pool.map(lambda m: run(noticed, m), made), strict=True
            ):
                results.append(killed)
                print(
                    f"{'noticed ' if killed else 'SURVIVES'}  {mistake['room']}: {mistake['name']}",
                    flush=True,
                )
    for room in sorted({m["room"] for m in made}):
        of_room = [killed for m, killed in zip(made, results, strict=True) if m["room"] == room]
        print(f"{room}: {sum(of_room)} of {len(of_room)}")
    print(
        f"all: {sum(results)} of {len(results)}, {100 * sum(results) / max(len(results), 1):.0f} %"
    )
    return 0 if sum(results) >= 0.95 * len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
