#!/usr/bin/env python3
"""The traffic of scripts/demo: a provider that serves, processes that connect, knocking and pushing.

Connections write what became of them into NAME.json below the directory that DEMO_DIR names. Records carry their
send time, so that the receiver proves when the last one that passed was sent.
"""

import json
import os
import select
import socket
import struct
import sys
import threading
import time

RECORD = struct.Struct("!d504x")
PAUSE = 0.005
DIR = os.environ["DEMO_DIR"]


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def connect(address, port, timeout, source=None):
    sock = socket.socket(family(address), socket.SOCK_STREAM)
    sock.settimeout(timeout)
    if source:
        sock.bind((source, 0))
    sock.connect((address, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def report(name, **facts):
    path = os.path.join(DIR, name + ".json")
    with open(path + ".new", "w", encoding="ascii") as file:
        json.dump(facts, file)
    os.rename(path + ".new", path)


def hold(sock, name, busy):
    """Keeps a connection until it ends: busy ones send records all the time, idle ones when the file `speak` appears."""
    sock.setblocking(False)
    pending, received, latest, spoken, due = b"", 0, 0.0, False, time.monotonic()
    report(name, open=True, received=0)
    while True:
        try:
            if select.select([sock], [], [], PAUSE)[0]:
                data = sock.recv(65536)
                if not data:
                    end = "closed"
                    break
                pending += data
                while len(pending) >= RECORD.size:
                    latest = max(latest, RECORD.unpack(pending[: RECORD.size])[0])
                    pending = pending[RECORD.size:]
                    received += 1
            if not busy and not spoken and os.path.exists(os.path.join(DIR, "speak")):
                sock.send(b"?")
                spoken = True
            if busy and time.monotonic() >= due:
                due = time.monotonic() + PAUSE
                sock.send(RECORD.pack(time.time()))
        except BlockingIOError:
            pass
        except OSError as error:
            end = error.strerror
            break
    report(name, open=False, end=end, at=time.time(), received=received, latest=latest)


def serve(address, port, name):
    listener = socket.socket(family(address), socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen(64)
    report(name, listening=True)
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=answer, args=(sock,), daemon=True).start()


def answer(sock):
    try:
        word = sock.recv(5)
        if word == b"busy\n":
            hold(sock, "provider-busy", True)
        elif word == b"idle\n":
            hold(sock, "provider-idle", False)
        else:
            sock.sendall(word)
    except OSError:
        pass


def ask(address, port):
    try:
        sock = connect(address, port, 2)
        sock.sendall(b"hello")
        answered = sock.recv(5) == b"hello"
        print("connected, and the provider answered" if answered else "connected, but no answer")
        return 0 if answered else 1
    except OSError as error:
        print(error.strerror or error)
        return 1


def keep(address, port, name, busy):
    sock = connect(address, port, 2)
    sock.sendall(b"busy\n" if busy else b"idle\n")
    hold(sock, name, busy)


def knock(source, address, port, count):
    """One SYN each: the time limit is shorter than the first retransmission."""

    def attempt():
        try:
            connect(address, port, 0.6, source).close()
            reached.append(1)
        except OSError:
            pass

    reached = []
    threads = [threading.Thread(target=attempt) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(len(reached))


def push(source, address, port, count):
    sock = socket.socket(family(address), socket.SOCK_DGRAM)
    sock.bind((source, 0))
    for _ in range(count):
        sock.sendto(b"unasked", (address, port))


def main(command, *rest):
    if command == "serve":
        serve(rest[0], int(rest[1]), rest[2])
    elif command == "ask":
        sys.exit(ask(rest[0], int(rest[1])))
    elif command in ("busy", "idle"):
        keep(rest[0], int(rest[1]), rest[2], command == "busy")
    elif command == "knock":
        knock(rest[0], rest[1], int(rest[2]), int(rest[3]))
    elif command == "push":
        push(rest[0], rest[1], int(rest[2]), int(rest[3]))
    else:
        sys.exit(f"unknown command {command}")


main(*sys.argv[1:])
