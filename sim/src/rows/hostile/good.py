"""A good client of every listener; says what it was served.

usage: good.py PLAIN TLS SASL HTTP RESP CA      addresses, and the authority's certificate

It makes the topics, says "begun", and calls each listener again and again. A line "phase NAME" begins a phase, "end" ends all; then a line
`LISTENER PHASE CALLS P99_US ERRORS` for each, and the first errors.
"""
import json
import socket
import sys
import threading
import time
import urllib.request

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

plain, tls, sasl, http, resp, ca = sys.argv[1:]
phase, stop, spent, errors, first = ["control"], threading.Event(), {}, {}, []
topics = [NewTopic("good", 1, 1), NewTopic("wide", 1, 1),
          NewTopic("bomb", 1, 1, config={"herdsman.dedupe.window.ms": "60000"})]
admin = AdminClient({"bootstrap.servers": plain})
for future in admin.create_topics(topics).values():
    future.result()


def kafka(address, **settings):
    producer = Producer({"bootstrap.servers": address, "acks": "all", "linger.ms": 0, "message.timeout.ms": 10000, "log_level": 0,
                         **settings})

    def call():
        answers = []
        producer.produce("good", b"x" * 100, on_delivery=lambda error, _: answers.append(error))
        while not answers:
            producer.poll(1)
        assert answers[0] is None, answers[0]
    return call


def rest():
    body = json.dumps({"ksql": "SHOW STREAMS;"}).encode()
    request = urllib.request.Request(f"http://{http}/ksql", body, {"Content-Type": "application/json"})
    assert urllib.request.urlopen(request, timeout=10).status == 200


def cache():
    host, port = resp.rsplit(":", 1)
    connection = socket.create_connection((host, int(port)), timeout=10)
    assert connection.makefile  # one connection for all calls

    def call():
        connection.sendall(b"*2\r\n$3\r\nGET\r\n$4\r\nwide\r\n")
        assert connection.recv(65536).startswith(b"$"), "no bulk string"
        time.sleep(0)
    connection.sendall(b"*3\r\n$3\r\nSET\r\n$4\r\nwide\r\n$5\r\nhello\r\n")
    assert connection.recv(100) == b"+OK\r\n"
    return call


def work(name, call):
    while not stop.is_set():
        at, began = phase[0], time.monotonic()
        try:
            call()
            spent.setdefault((name, at), []).append(time.monotonic() - began)
        except Exception as error:
            errors[(name, at)] = errors.get((name, at), 0) + 1
            first.append(f"{name} {at}: {error!r}")
            time.sleep(0.1)
        time.sleep(0.005)


calls = {
    "plain": kafka(plain),
    "tls": kafka(tls, **{"security.protocol": "SSL", "ssl.ca.location": ca}),
    "sasl": kafka(sasl, **{"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": "ana", "sasl.password": "oak"}),
    "http": rest,
    "resp": cache(),
}
wide = Producer({"bootstrap.servers": plain})
for _ in range(40):
    wide.produce("wide", b"w" * 100_000)
assert wide.flush(20) == 0
threads = [threading.Thread(target=work, args=item) for item in calls.items()]
for thread in threads:
    thread.start()
print("begun", flush=True)
for line in sys.stdin:
    if line.strip() == "end":
        break
    phase[0] = line.split()[1]
stop.set()
for thread in threads:
    thread.join()
for key in sorted(spent.keys() | errors.keys()):
    times = sorted(spent.get(key, []))
    p99 = int(times[len(times) * 99 // 100] * 1e6) if times else 0
    print(*key, len(times), p99, errors.get(key, 0))
for line in first[:5]:
    print("error:", line)
