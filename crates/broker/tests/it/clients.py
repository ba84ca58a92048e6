"""Drives a broker with unmodified Python clients: clients.py confluent|kafka_python ADDRESS.

Also the member of a group that is killed: clients.py member|kp_member ADDRESS GROUP TOPIC.
"""
import signal
import subprocess
import sys
import time


def until(what, seconds, step):
    """Repeats `step` until it says yes."""
    end = time.time() + seconds
    while time.time() < end:
        if step():
            return
    raise SystemExit(f"not within {seconds} s: {what}")


def spawn(kind, address, group, topic):
    child = subprocess.Popen([sys.executable, __file__, kind, address, group, topic], stdout=subprocess.PIPE, text=True)
    return child


def confluent(address):
    from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
    from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic, OffsetSpec

    admin = AdminClient({"bootstrap.servers": address})
    admin.create_topics([NewTopic("finds", 4, 1, config={"retention.ms": "-1"})])["finds"].result()
    for topic, wanted in ((NewTopic("finds", 4, 1), "exists already"),
                          (NewTopic("odd", 1, 1, config={"retention.mss": "1"}), "did you mean retention.ms?"),
                          (NewTopic("many", 1, 3), "this cluster has 1 broker")):
        try:
            admin.create_topics([topic])[topic.topic].result()
            raise SystemExit(f"accepted {topic}")
        except KafkaException as error:
            assert wanted in error.args[0].str(), error
    configs = admin.describe_configs([ConfigResource("topic", "finds")])
    assert [f.result()["retention.ms"].value for f in configs.values()] == ["-1"]

    sent = 0
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        errors = []
        producer = Producer({"bootstrap.servers": address, "compression.type": codec, "enable.idempotence": True})
        for number in range(2000):
            producer.produce("finds", key=str(number), value=f"{codec}-{number}", headers={"event-id": f"{codec}{number}"},
                             on_delivery=lambda error, _: errors.append(error) if error else None)
        assert producer.flush(30) == 0 and not errors, errors
        sent += 2000
    refused = []
    big = Producer({"bootstrap.servers": address, "message.max.bytes": 4000000})
    big.produce("finds", value=b"x" * 3000000, on_delivery=lambda error, _: refused.append(error.name()))
    big.flush(30)
    assert refused == ["MSG_SIZE_TOO_LARGE"], refused

    # a group of two; the other member is killed without a word
    settings = {"bootstrap.servers": address, "group.id": "g", "auto.offset.reset": "earliest",
                "session.timeout.ms": 3000, "heartbeat.interval.ms": 500, "enable.auto.commit": False}
    consumer = Consumer(settings)
    seen, owned = set(), []
    consumer.subscribe(["finds"], on_assign=lambda _, parts: owned.append(len(parts)))

    def poll():
        message = consumer.poll(0.1)
        if message is not None:
            assert not message.error(), message.error()
            seen.add(message.value())
        return False

    until("everything is read", 30, lambda: poll() or len(seen) == sent)
    consumer.commit(asynchronous=False)
    assert owned[-1] == 4, owned
    other = spawn("member", address, "g", "finds")
    until("the two share", 30, lambda: poll() or (len(owned) > 1 and owned[-1] == 2))
    assert other.stdout.readline().strip() == "2"
    described = admin.describe_consumer_groups(["g"])["g"].result()
    assert len(described.members) == 2, described.members
    other.send_signal(signal.SIGKILL)
    other.wait()
    until("the survivor has it all", 30, lambda: poll() or owned[-1] == 4)
    producer = Producer({"bootstrap.servers": address})
    for number in range(400):
        producer.produce("finds", key=str(number), value=f"late-{number}")
    producer.flush(30)
    until("late records arrive", 30, lambda: poll() or len(seen) == sent + 400)
    consumer.commit(asynchronous=False)
    committed = sum(part.offset for part in consumer.committed(consumer.assignment()))
    assert committed == sent + 400, committed
    consumer.close()

    # what the admin sees and changes
    assert "g" in [group.group_id for group in admin.list_consumer_groups().result().valid]
    part = TopicPartition("finds", 0)
    end = admin.list_offsets({part: OffsetSpec.latest()})[part].result().offset
    assert admin.list_offsets({part: OffsetSpec.earliest()})[part].result().offset == 0
    assert 0 <= admin.list_offsets({part: OffsetSpec.max_timestamp()})[part].result().offset < end
    assert admin.list_offsets({part: OffsetSpec.for_timestamp(1)})[part].result().offset == 0
    assert admin.delete_records([TopicPartition("finds", 0, 10)])[TopicPartition("finds", 0, 10)].result().low_watermark == 10
    admin.create_partitions([NewPartitions("finds", 6)])["finds"].result()
    assert len(admin.list_topics("finds", timeout=10).topics["finds"].partitions) == 6
    admin.delete_consumer_groups(["g"])["g"].result()
    admin.delete_topics(["finds"])["finds"].result()
    assert "finds" not in admin.list_topics(timeout=10).topics


def member(address, group, topic):
    from confluent_kafka import Consumer

    consumer = Consumer({"bootstrap.servers": address, "group.id": group, "session.timeout.ms": 3000,
                         "heartbeat.interval.ms": 500, "enable.auto.commit": False})
    consumer.subscribe([topic], on_assign=lambda _, parts: print(len(parts), flush=True))
    while True:
        consumer.poll(0.1)


def kafka_python(address):
    from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
    from kafka.admin import NewTopic

    admin = KafkaAdminClient(bootstrap_servers=address)
    admin.create_topics([NewTopic("kp", 2, 1)])
    for codec in (None, "gzip", "snappy", "lz4", "zstd"):
        producer = KafkaProducer(bootstrap_servers=address, compression_type=codec, acks="all")
        futures = [producer.send("kp", b"%d" % number, key=b"%d" % number) for number in range(500)]
        producer.flush()
        assert all(future.succeeded() for future in futures)
        producer.close()
    settings = dict(bootstrap_servers=address, group_id="kpg", auto_offset_reset="earliest", enable_auto_commit=False,
                    session_timeout_ms=3000, heartbeat_interval_ms=500, max_poll_interval_ms=10000)
    consumer = KafkaConsumer("kp", **settings)
    count = 0

    def poll():
        nonlocal count
        count += sum(len(records) for records in consumer.poll(timeout_ms=100).values())
        return False

    until("everything is read", 30, lambda: poll() or count == 2500)
    consumer.commit()
    other = spawn("kp_member", address, "kpg", "kp")
    until("the two share", 30, lambda: poll() or len(consumer.assignment()) == 1)
    other.send_signal(signal.SIGKILL)
    other.wait()
    until("the survivor has it all", 30, lambda: poll() or len(consumer.assignment()) == 2)
    assert sum(consumer.committed(TopicPartition("kp", index)) for index in (0, 1)) == 2500
    assert count == 2500, count
    consumer.close()
    admin.delete_topics(["kp"])
    admin.close()


def kp_member(address, group, topic):
    from kafka import KafkaConsumer

    consumer = KafkaConsumer(topic, bootstrap_servers=address, group_id=group, session_timeout_ms=3000,
                             heartbeat_interval_ms=500, enable_auto_commit=False)
    while True:
        consumer.poll(timeout_ms=100)


globals()[sys.argv[1]](*sys.argv[2:])
print("all good")
