"""programs.py BINARIES KEPT: of what cargo-nextest has built (its list BINARIES), writes the list of the kernel tests to KEPT, and
prints the programs that they need."""

import json
import pathlib
import sys

TESTS = {"picoseg", "picoseg::kernel_commit", "picoseg::kernel_edge", "picoseg::e2e"}

listing = json.loads(pathlib.Path(sys.argv[1]).read_text())
listing["rust-binaries"] = {name: test for name, test in listing["rust-binaries"].items() if name in TESTS}
pathlib.Path(sys.argv[2]).write_text(json.dumps(listing))

target = pathlib.Path(listing["rust-build-meta"]["target-directory"])
for programs in listing["rust-build-meta"]["non-test-binaries"].values():
    for program in programs:
        print(target / program["path"])
for test in listing["rust-binaries"].values():
    print(test["binary-path"])
# What tests have built themselves.
for program in sorted((target / "tmp").glob("knock-*")):
    print(program)
