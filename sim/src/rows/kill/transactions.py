"""Transactions under kills of the broker: writes a history, then checks it.

usage: transactions.py ADDRESS SEED HTTP     until "stop" on stdin, then prints what it found and, last, "all good"

Three writers begin transactions of numbered records over two topics and end them either way; a copier moves `input` to
`output`, offsets inside its transactions. Readers of committed records look on all the while. The checker then holds
the history against these rules:
  1. a transaction whose commit was acknowledged is there whole; one whose abort was acknowledged is not there at all;
     of one in doubt there is all or nothing
  2. no record is there twice, and the records of a writer keep their order in each partition
  3. `output` is `input`, each record once, in order
  4. a reader that looked on saw what a reader at the end sees
  5. two persistent queries over `input` hold what the same SQL gives over the whole input at once
"""
import json
import random
import sys
import threading
import time
import urllib.request

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

address, seed, http = sys.argv[1], int(sys.argv[2]), sys.argv[3]
QUICK = {"bootstrap.servers": address, "reconnect.backoff.ms": 10, "reconnect.backoff.max.ms": 50, "log_level": 0,
         "retry.backoff.ms": 10,
         # librdkafka from 2.11 on forgets its brokers when all are down and begins anew (KIP-899). Its TxnOffsetCommit may then wait
         # for the connection of a broker it has forgotten, for ever, while every other request is answered
         "metadata.recovery.strategy": "none"}
TOPICS = {"left": 2, "right": 1}
WRITERS = 3
stop = threading.Event()
trouble = []


def producer(name):
    return Producer({**QUICK, "transactional.id": name, "linger.ms": 2, "transaction.timeout.ms": 20000})


def insist(call, *arguments):
    """Calls until it succeeds or fails for good; the exception of the latter is returned. Each call has thirty seconds: one took nine on a loaded machine."""
    deadline = time.monotonic() + 30
    while True:
        try:
            call(*arguments, 30)
            return None
        except KafkaException as raised:
            error = raised.args[0]
            if not error.retriable() or time.monotonic() > deadline:
                return error


class Writer(threading.Thread):
    """Transactions of 1 to 20 records; history: transaction number -> (records, outcome)."""

    def __init__(self, number):
        super().__init__()
        self.number, self.history, self.random = number, {}, random.Random(seed * 10 + number)
        self.restarts = 0

    def run(self):
        try:
            self.work()
        except Exception as error:  # a thread's exception would go unseen
            trouble.append(f"writer {self.number}: {error!r}")

    def work(self):
        client, turn = self.open(), 0
        while not stop.is_set():
            turn += 1
            client.begin_transaction()
            records = []
            for index in range(self.random.randint(1, 20)):
                topic = self.random.choice(sorted(TOPICS))
                partition = self.random.randrange(TOPICS[topic])
                records.append((topic, partition, index))
                client.produce(topic, f"{self.number} {turn} {index}", partition=partition)
                client.poll(0)
            commits = self.random.random() < 0.7
            error = insist(client.commit_transaction if commits else client.abort_transaction)
            if error and error.txn_requires_abort():
                self.history[turn] = (records, "aborted" if insist(client.abort_transaction) is None else "in doubt")
            elif error:
                self.history[turn] = (records, "in doubt")
                client = self.open()
            else:
                self.history[turn] = (records, "committed" if commits else "aborted")
            if self.random.random() < 0.02:
                client = self.open()  # a new instance takes over, perhaps in the middle of nothing
            time.sleep(0.002)

    def open(self):
        self.restarts += 1
        client = producer(f"writer-{self.number}")
        error = insist(client.init_transactions)
        assert error is None, error
        return client


def consumer(group, **settings):
    return Consumer({**QUICK, "group.id": group, "enable.auto.commit": False, "auto.offset.reset": "earliest",
                     "isolation.level": "read_committed", "fetch.wait.max.ms": 50, **settings})


def copy():
    try:
        source = consumer("copier", **{"session.timeout.ms": 6000, "heartbeat.interval.ms": 500})
        source.subscribe(["input"])
        client = producer("copier")
        error = insist(client.init_transactions)
        assert error is None, error
        quiet = reached = 0
        while not (fed and reached == fed[0]) and quiet < 300:  # to the end, or a minute without a record after the stop
            messages = [message for message in source.consume(50, 0.2) if not message.error()]
            quiet = quiet + 1 if stop.is_set() and not messages else 0
            if not messages:
                continue
            client.begin_transaction()
            for message in messages:
                client.produce("output", message.value())
            offsets = [TopicPartition("input", 0, messages[-1].offset() + 1)]
            error = insist(client.send_offsets_to_transaction, offsets, source.consumer_group_metadata())
            error = error or insist(client.commit_transaction)
            if error:
                if not error.txn_requires_abort() or insist(client.abort_transaction) is not None:
                    client = producer("copier")
                    assert insist(client.init_transactions) is None
                source.close()
                source = consumer("copier", **{"session.timeout.ms": 6000, "heartbeat.interval.ms": 500})
                source.subscribe(["input"])
            else:
                reached = int(messages[-1].value()) + 1
        source.close()
    except Exception as error:
        trouble.append(f"copier: {error!r}")


def feed():
    client, number = Producer({**QUICK, "enable.idempotence": True, "linger.ms": 2}), 0
    while not stop.is_set():
        client.produce("input", str(number))
        number += 1
        client.poll(0)
        time.sleep(0.001)
    assert client.flush(60) == 0
    fed.append(number)


def partitions():
    return [(topic, index) for topic, count in TOPICS.items() for index in range(count)]


def look_on():
    """Reads committed records as they come, until the writers have stopped and nothing new comes."""
    reader = consumer("look on")
    reader.assign([TopicPartition(topic, index, 0) for topic, index in partitions()])
    while not stop.is_set():
        for message in reader.consume(500, 0.1):
            if not message.error():
                seen[(message.topic(), message.partition())].append((message.offset(), message.value().decode()))
    reader.close()


def read_all(topic, index, level="read_committed", take=lambda message: message.value().decode()):
    reader = consumer("check", **{"enable.partition.eof": True, "isolation.level": level})
    reader.assign([TopicPartition(topic, index, 0)])
    found, deadline = [], time.monotonic() + 60
    while time.monotonic() < deadline:
        message = reader.poll(1)
        if message is None:
            continue
        if message.error():
            if message.error().code() == KafkaError._PARTITION_EOF:
                reader.close()
                return found
            continue
        found.append((message.offset(), take(message)))
    raise AssertionError(f"{topic}-{index} does not end")


def sql(statement):
    body = json.dumps({"ksql": statement}).encode()
    request = urllib.request.Request(f"http://{http}/ksql", body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=30).read()


def check_queries(numbers):
    """What rule 5 finds; the queries have a minute to arrive at the end."""
    wanted = [f"{number},{2 * number}" for number in numbers]
    deadline, found = time.monotonic() + 60, []
    while len(found) < len(wanted) and time.monotonic() < deadline:
        found = [value for _, value in read_all("doubled", 0)]
    if found != wanted:
        at = next((at for at, pair in enumerate(zip(found, wanted)) if pair[0] != pair[1]), min(len(found), len(wanted)))
        yield f"doubled: {len(found)} rows of {len(wanted)}, the first that differs is {at}"
    counts = dict(row for _, row in read_all("counted", 0, take=lambda message: (message.key(), message.value())))
    should = {key: str(len(numbers[key::10])).encode() for key in range(10) if numbers[key::10]}
    counts = {int.from_bytes(key, "big"): value for key, value in counts.items()}
    if counts != should:
        yield f"counted: {counts}, not {should}"


def check(writers):
    wrong = list(trouble)
    there = {}
    for topic, index in partitions():
        last = {}
        found = read_all(topic, index)
        for offset, value in found:
            number, turn, at = map(int, value.split())
            if (number, turn, at) in there:
                wrong.append(f"{topic}-{index}@{offset}: {value} is there twice")
            there[(number, turn, at)] = (topic, index, at)
            if last.get(number, (0, 0)) >= (turn, at):
                wrong.append(f"{topic}-{index}@{offset}: {value} after {last[number]}")
            last[number] = (turn, at)
        looked = seen[(topic, index)]
        if looked != found[:len(looked)]:
            wrong.append(f"{topic}-{index}: who looked on saw {len(looked)} records that are not the first of {len(found)}")
    counts = {"committed": 0, "aborted": 0, "in doubt": 0}
    for writer in writers:
        for turn, (records, outcome) in writer.history.items():
            counts[outcome] += 1
            found = [at for _, _, at in records if (writer.number, turn, at) in there]
            expected = {"committed": (len(records),), "aborted": (0,), "in doubt": (0, len(records))}[outcome]
            if len(found) not in expected:
                wrong.append(f"writer {writer.number} transaction {turn} {outcome}: {len(found)} of {len(records)} records")
    source = [value for _, value in read_all("input", 0)]
    copied = [value for _, value in read_all("output", 0)]
    if source != [str(number) for number in range(fed[0])]:
        wrong.append(f"input: {len(source)} records, {fed[0]} were acknowledged")
    if copied != source:
        wrong.append("output is not input, each once and in order")
    wrong += check_queries(list(range(fed[0])))
    restarts = sum(writer.restarts for writer in writers)
    print(f"transactions {counts}, {restarts} producers, {len(there)} records, "
          f"{len(copied)} of {len(source)} copied, {sum(map(len, seen.values()))} seen while looking on")
    print(f"COUNT transactions {sum(counts.values())}\nCOUNT copied {len(copied)}\nCOUNT queried {len(source)}")
    for line in wrong[:20]:
        print(line)
    if not wrong and counts["committed"] > 20 and counts["aborted"] > 5 and source:
        print("all good")


fed, seen = [], {at: [] for at in partitions()}
new = [NewTopic(topic, count, 1) for topic, count in {**TOPICS, "input": 1, "output": 1}.items()]
admin = AdminClient({"bootstrap.servers": address})
for future in admin.create_topics(new).values():
    future.result()
sql("CREATE STREAM numbers (n INT) WITH (KAFKA_TOPIC='input', VALUE_FORMAT='DELIMITED');")
sql("CREATE STREAM doubled WITH (KAFKA_TOPIC='doubled') AS SELECT n, n * 2 AS d FROM numbers EMIT CHANGES;")
sql("CREATE TABLE counted WITH (KAFKA_TOPIC='counted', PARTITIONS=1) AS SELECT n % 10 AS k, COUNT(*) AS c FROM numbers "
    "GROUP BY n % 10 EMIT CHANGES;")
writers = [Writer(number) for number in range(WRITERS)]
threads = writers + [threading.Thread(target=work) for work in (copy, feed, look_on)]
for thread in threads:
    thread.start()
print("writing", flush=True)
sys.stdin.readline()
stop.set()
for thread in threads:
    thread.join()
check(writers)
