"""docs/performance.md: what scripts/bench measured goes between the markers, the rest of the page is written by hand.

bench-page.py before: prints what the machine does before a part, for `write`.
bench-page.py write PAGE PART QUICK BEFORE: replaces the part by what was said (standard input), the description of the
machine, and the table of targets by what all parts on the page tell.
"""

import datetime
import glob
import os
import re
import subprocess
import sys


def said(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def first(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


# The machine.

def processor():
    fields = dict(re.findall(r"^([^:]+):\s+(.*)$", said("lscpu"), re.M))
    kind = fields.get("Hypervisor vendor")
    virtual = f", virtual ({kind})" if kind else ", no hypervisor"
    caches = f"L2 {fields.get('L2 cache', '?')}, L3 {fields.get('L3 cache', '?')}"
    numbers = f"family {fields.get('CPU family', '?')}, model {fields.get('Model', '?')}"
    return f"{fields.get('Model name', '?')} ({numbers}), {os.cpu_count()} processors{virtual}; {caches}"


def mitigations():
    found = []
    for path in sorted(glob.glob("/sys/devices/system/cpu/vulnerabilities/*")):
        state = first(path)
        if state and state != "Not affected":
            found.append(f"{os.path.basename(path)}: {state}")
    return "; ".join(found) or "none needed"


def machine():
    rows = [
        ("processor", processor()),
        ("memory", next(iter(re.findall(r"MemTotal:\s+(.*)", first("/proc/meminfo"))), "?")),
        ("kernel", f"{os.uname().release}, {frequency()}"),
        ("mitigations", mitigations()),
        ("clock source", first("/sys/devices/system/clocksource/clocksource0/current_clocksource")),
        ("cgroup2", said("findmnt", "-n", "-o", "TARGET", "-t", "cgroup2")),
        ("programs", programs()),
    ]
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows)


def frequency():
    config = said("zgrep", "^CONFIG_HZ=", "/proc/config.gz") or said(
        "grep", "^CONFIG_HZ=", f"/boot/config-{os.uname().release}")
    return config.replace("CONFIG_HZ=", "HZ ") or "HZ unknown"


def programs():
    names = [said("nft", "--version"), said("iptables", "--version")]
    for package in ["firewalld", "ufw", "opensnitch", "ulogd2"]:
        version = said("dpkg-query", "-W", "-f", "${db:Status-Abbrev}${Version}", package)
        if version.startswith("ii"):
            names.append(f"{package} {version[2:].strip()}")
    names.append(said("rustc", "--version") or f"Rust of {os.environ.get('SUDO_USER', 'the builder')}")
    return "; ".join(name for name in names if name)


# The page.

def marked(text, name, body):
    """Puts `body` between the markers of `name`."""
    begin, end = f"<!-- {name}: written by scripts/bench -->", f"<!-- {name} ends -->"
    if begin not in text or end not in text:
        sys.exit(f"the page has no markers for {name}: {begin} and {end}")
    head, rest = text.split(begin, 1)
    tail = rest.split(end, 1)[1]
    return f"{head}{begin}\n{body.strip()}\n{end}{tail}"


def part_of(text, name):
    found = re.search(rf"<!-- {name}: written by scripts/bench -->(.*?)<!-- {name} ends -->", text, re.S)
    return found.group(1) if found else ""


def section(part, output, quick, before):
    today = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    how = ", **quick: worth less**" if quick == "yes" else ""
    load = f"load {before} before, {first('/proc/loadavg').split()[0]} after"
    stamp = f"*{today}, Linux {os.uname().release}, {load}{how}.*\n"
    output = "\n".join(line.rstrip() for line in output.strip().splitlines())
    return f"{stamp}\n{output}\n" if "|---|" in output else f"{stamp}\n```text\n{output}\n```\n"


# What the tables on the page tell.

def tables(text):
    """Of the packet path: mode -> variant -> (us, added us, low, high, percent of no firewall)."""
    found, mode = {}, None
    for line in text.splitlines():
        heading = re.search(r"\(`([a-z0-9-]+)`\)$", line)
        if heading:
            mode = found.setdefault(heading.group(1), {})
        row = re.match(r"\| ([a-z-]+(?::\d+)?) \| ([\d.]+) \| ([-+][\d.]+) \[([-+][\d.]+)\.\.([-+][\d.]+)\] \| ([\d.]+) %", line)
        if row and mode is not None:
            mode[row.group(1)] = tuple(float(number) for number in row.groups()[1:])
    return found


def added(path, mode, variant):
    """All sizes of a variant in a mode: size -> added us."""
    rows = path.get(mode, {})
    found = {name.split(":")[1]: row[1] for name, row in rows.items() if name.split(":")[0] == variant and ":" in name}
    return {int(size): value for size, value in found.items()}


def worst(path, mode, variant, unit="us"):
    found = added(path, mode, variant)
    if not found:
        return None
    return max(found.values()), f"+{max(found.values()):.2f} {unit}" + sizes(found)


def sizes(found):
    return f" ({', '.join(f'{size:,}: {value:+.2f}' for size, value in sorted(found.items()))})"


def beside(path, mode, variant, peer):
    """The measured share of an early shape of our own, as far as both were measured at 1,000."""
    own, theirs = added(path, mode, variant).get(1000), added(path, mode, peer).get(1000)
    if own is None or not theirs:
        return ""
    return f"; {own / theirs:.2f} of `{peer}` here"


def path_targets(path):
    rows = []
    for what, mode, variant, peer, reach, before in [
        ("connection, governed, exact, IPv4", "crr4", "picoseg", "reference", 5.0, 7.2),
        ("connection, governed, exact, IPv6", "crr6", "picoseg", "reference", 6.5, 9.1),
        ("connection, governed, prefix, IPv4", "crr4", "prefix", "reference-prefix", 8.0, 12.5),
        ("connection, ungoverned, IPv4", "crr4-free", "picoseg", "reference", 2.0, 2.7),
        ("connection, ungoverned, IPv6", "crr6-free", "picoseg", "reference", 2.6, 3.6),
        ("UDP packet, governed, IPv4", "udp4", "picoseg", None, 0.7, 1.08),
    ]:
        found = worst(path, mode, variant)
        if found:
            value, text = found
            text += beside(path, mode, variant, peer) if peer else ""
            share = f" ({before}, i.e. {reach / before:.2f} of it)"
            rows.append((what, f"at most +{reach} us{share}", text, value <= reach))
    for what, mode in [("IPv4", "crr4"), ("IPv6", "crr6")]:
        found = added(path, mode, "picoseg")
        if len(found) > 1:
            mean = sum(found.values()) / len(found)
            off = max(abs(value - mean) for value in found.values()) / mean * 100
            label = f"connection, governed, exact, {what}, {min(found):,} to {max(found):,} services"
            rows.append((label, "within 5 % of flat", f"within {off:.1f} %", off <= 5))
    bulk = {name: row[4] for name, row in path.get("bulk4", {}).items() if name.startswith("picoseg:")}
    if bulk:
        lost = 100 - min(bulk.values())
        rows.append(("bulk TCP, governed, CPU of both ends", "within 4 % of no firewall", f"{lost:.1f} % less", lost <= 4))
    return rows


def peer_targets(peers):
    rows = []
    own = added(peers, "crr4", "picoseg").get(1000)
    for peer, name, reach in [("linear", "linear nft", 60), ("iptables-legacy", "iptables-legacy", 3), ("iptables-nft", "iptables-nft", 20)]:
        theirs = added(peers, "crr4", peer).get(1000)
        if own and theirs:
            share = theirs / own
            text = f"1/{share:.0f} (+{own:.2f} us beside +{theirs:.1f} us)"
            rows.append((f"connection, governed, 1,000 services, beside {name}", f"at most 1/{reach} of it", text, share >= reach))
    return rows


# What the other benches print, a line of numbers for each case. A line that is no more what it was tells nothing here: the target
# is then without a figure.

def rows_of(text, *head):
    """The cells of each line that begins with these words."""
    found = []
    for line in text.splitlines():
        cells = line.replace("|", " ").split()
        if cells[: len(head)] == list(head) and len(cells) > len(head):
            found.append(cells[len(head):])
    return found


def numbers(text, unit):
    """Every time in a line, in `unit`."""
    scale = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
    return [float(number) * scale[name] / scale[unit] for number, name in re.findall(r"([\d.]+) (us|ms|s)\b", text)]


def lines(text, pattern):
    return [line for line in text.splitlines() if re.match(pattern, line)]


def load_targets(text):
    rows, totals = [], {}
    plain = text.split("distinct")[0]
    for line in lines(plain, r"\s*\d+ \| +[\d.]+ m?s"):
        size, times = int(line.split()[0]), numbers(line, "ms")
        memory = re.search(r"([\d.]+) +(\d+) +(\d+) \|", line)
        totals.setdefault(size, times[4])
        if size == 10_000 and len(times) > 6 and not rows:
            share = times[4] / times[6]
            text = f"{share:.2f} ({times[4]:.0f} ms beside {times[6]:.0f} ms)"
            rows.append(("compile and commit from nothing, 10,000 services", "at most 1/4 of `nft -f`", text, share <= 0.25))
            if memory:
                peak = int(memory.group(2))
                rows.append(("the same, peak memory", "at most 150 MB", f"{peak} MB", peak <= 150))
    if 10_000 in totals and 100_000 in totals:
        growth = totals[100_000] / totals[10_000]
        rows.append(("the same, 100,000 services", "at most 12-fold", f"{growth:.1f}-fold ({totals[100_000] / 1e3:.2f} s)", growth <= 12))
    for size, reach in [(10_000, 1), (100_000, 3)]:
        kinds = {line.split()[1]: numbers(line, "ms")[1] for line in lines(plain, rf"\s*{size} +[a-z]+ \|")}
        if kinds:
            worst_kind = max(kinds, key=kinds.get)
            text = f"{kinds[worst_kind]:.2f} ms (" + ", ".join(f"{kind} {p99:.2f}" for kind, p99 in kinds.items()) + ")"
            rows.append((f"one change at {size:,} services, event to kernel, p99", f"at most {reach} ms", text, kinds[worst_kind] <= reach))
    return rows


def close_targets(text):
    rows = []
    restarts = re.search(r"from mkdir.*\n((?: +\d+ +\w+ +\|.*\n)+)", text)
    for line in restarts.group(1).splitlines() if restarts else []:
        cells = line.replace("|", " ").split()
        rows.append((f"a unit restarted, to governed over {cells[1].upper()}, {int(cells[0]):,} services, p99", "at most 2 ms", f"{cells[4]} ms", float(cells[4]) <= 2))
    payload = re.search(r"(\d+) closes at (\d+) records a second.*\n.*passed.*\n((?:.*\|.*\n)+)", text)
    if payload:
        passed = sum(int(line.split("|")[2].split()[0]) for line in payload.group(3).splitlines())
        what = f"payload sent after a close, no daemon, {int(payload.group(2)):,} records a second"
        rows.append((what, "none over 200 closes", f"{passed} of {payload.group(1)} closes", passed == 0 and int(payload.group(1)) >= 200))
    for found in re.finditer(r"(\d+) TCP connections.*?, (\d+) services.*\n.*\n((?:.*\|.*\n?){1,3})", text):
        highest = 0.0
        for line in found.group(3).splitlines():
            ends = [float(number) for number in re.findall(r"\d+\.\d", line)]
            highest = max([highest, *ends[1:4:2]])
        what = f"{int(found.group(1)):,} connections closed, daemon alive, {int(found.group(2)):,} services, to no socket"
        rows.append((what, "at most 250 ms", f"{highest:.0f} ms at most", highest <= 250))
    return rows


def flood_targets(text):
    rows = []
    for what, name in [("picoseg", ["picoseg"]), ("picoseg, all details", ["picoseg,", "all", "details"])]:
        for cells in rows_of(text, *name):
            if not re.fullmatch(r"\d+", cells[0]):
                continue
            sent, rate, counted, recorded = int(cells[0]), int(cells[1]), cells[2], int(cells[3])
            rows.append((f"refused packets counted, {what}", "every one", f"{counted} at {rate:,} a second", counted == "100.0000%"))
            if len(name) > 1:
                text = f"{rate:,} a second, {sent - recorded:,} of {sent:,} lost" + beside_ulogd(part_text=text)
                rows.append(("details when the limit is lifted", "at least 100,000 a second without loss", text, rate >= 1e5 and sent == recorded))
    return rows


def beside_ulogd(part_text):
    found = []
    for kind in ["JSON", "SQLite"]:
        for cells in rows_of(part_text, "ulogd2", kind):
            found.append(f"ulogd2 {kind} {(int(cells[0]) - int(cells[3])) / int(cells[0]) * 100:.0f} % lost at {int(cells[1]):,}")
    return "; " + ", ".join(found) if found else ""


def idle_targets(text):
    woken = re.search(r"^ +all +([\d.]+) \(", text, re.M)
    resident = re.search(r"resident ([\d.]+) MB", text)
    rows = []
    if woken:
        rows.append(("daemon idle with 10,000 services, wake-ups a minute", "under 5", woken.group(1), float(woken.group(1)) < 5))
    if resident:
        rows.append(("the same, resident", "under 48 MB", f"{resident.group(1)} MB", float(resident.group(1)) < 48))
    return rows


def targets(text):
    parts = [
        path_targets(tables(part_of(text, "path"))),
        peer_targets(tables(part_of(text, "peers"))),
        load_targets(part_of(text, "load")),
        close_targets(part_of(text, "closes")),
        flood_targets(part_of(text, "flood")),
        idle_targets(part_of(text, "idle")),
    ]
    head = "| what | reach | measured | reached |\n|---|---|---|---|\n"
    told = [row for rows in parts for row in rows]
    return head + "".join(f"| {what} | {reach} | {measured} | {'yes' if met else '**no**'} |\n" for what, reach, measured, met in told)


def write(page, part, quick, before):
    text = first(page) + "\n"
    text = marked(text, part, section(part, sys.stdin.read(), quick, first(before)))
    text = marked(text, "machine", machine())
    text = marked(text, "targets", targets(text))
    # In place: the file stays its owner's.
    with open(page, "r+", encoding="utf-8") as file:
        file.write(text)
        file.truncate()


if __name__ == "__main__":
    if sys.argv[1:] == ["before"]:
        print(first("/proc/loadavg").split()[0])
    elif len(sys.argv) == 6 and sys.argv[1] == "write":
        write(*sys.argv[2:])
    else:
        sys.exit(__doc__)
