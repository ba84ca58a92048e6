"""Produces numbered records with a plain and an idempotent producer until told to stop on stdin, then checks what is there.

The plain producer never resends (a resend would be a second record), the idempotent one resends until it is answered.
"""
import sys
import threading

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

address = sys.argv[1]
common = {"bootstrap.servers": address, "acks": "all", "linger.ms": 2, "reconnect.backoff.ms": 10,
          "reconnect.backoff.max.ms": 50, "retry.backoff.ms": 10, "log_level": 0}
admin = AdminClient({"bootstrap.servers": address})
for future in admin.create_topics([NewTopic("plain", 1, 1), NewTopic("idempotent", 1, 1)]).values():
    future.result()
producers = {
    "plain": Producer({**common, "retries": 0, "max.in.flight.requests.per.connection": 1, "message.timeout.ms": 3000}),
    "idempotent": Producer({**common, "enable.idempotence": True, "message.timeout.ms": 60000}),
}
acked = {"plain": [], "idempotent": []}
failed = {"plain": 0, "idempotent": 0}
stop = threading.Event()


def work(topic):
    producer, number = producers[topic], 0

    def delivered(error, message):
        if error:
            failed[topic] += 1
        else:
            acked[topic].append((int(message.value()), message.offset()))

    while not stop.is_set():
        try:
            producer.produce(topic, value=str(number), on_delivery=delivered)
            number += 1
        except BufferError:
            producer.poll(0.01)
        producer.poll(0)
        if number % 50 == 0:
            stop.wait(0.005)
    assert producer.flush(60) == 0


threads = [threading.Thread(target=work, args=(topic,)) for topic in producers]
for thread in threads:
    thread.start()
print("producing", flush=True)
sys.stdin.readline()
stop.set()
for thread in threads:
    thread.join()

good = True
for topic in producers:
    consumer = Consumer({"bootstrap.servers": address, "group.id": "check", "enable.auto.commit": False})
    _, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)
    consumer.assign([TopicPartition(topic, 0, 0)])
    found = {}
    while len(found) < end:
        for message in consumer.consume(10000, 1.0):
            assert not message.error(), message.error()
            found[message.offset()] = int(message.value())
    consumer.close()
    values = [found[offset] for offset in sorted(found)]
    lost = [pair for pair in acked[topic] if found.get(pair[1]) != pair[0]]
    print(f"{topic}: {len(acked[topic])} acknowledged, {failed[topic]} failed, {len(values)} found, {len(lost)} lost")
    good &= not lost and len(acked[topic]) > 1000
    good &= len(set(values)) == len(values) and values == sorted(values)
    if topic == "idempotent":
        good &= failed[topic] == 0 and values == list(range(len(acked[topic])))
print(f"COUNT acknowledged {sum(map(len, acked.values()))}")
print("all good" if good else "NOT good", flush=True)
