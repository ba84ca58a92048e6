"""Drives a broker with aiokafka: aio.py ADDRESS; aio.py member ADDRESS GROUP TOPIC is the member that is killed.

Produces with idempotence, reads as a group that loses a member, moves records in transactions with their offsets.
"""
import asyncio
import signal
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic


def reader(address, group, topic, **more):
    return AIOKafkaConsumer(topic, bootstrap_servers=address, group_id=group, auto_offset_reset="earliest",
                            enable_auto_commit=False, session_timeout_ms=3000, heartbeat_interval_ms=500,
                            fetch_max_wait_ms=50, **more)


async def member(address, group, topic):
    consumer = reader(address, group, topic)
    await consumer.start()
    print(len(consumer.assignment()), flush=True)
    while True:
        await consumer.getmany(timeout_ms=100)


async def until(what, seconds, step):
    for _ in range(seconds * 10):
        if await step():
            return
    raise SystemExit(f"not within {seconds} s: {what}")


async def read_as_group(address):
    async with AIOKafkaProducer(bootstrap_servers=address, enable_idempotence=True, compression_type="gzip") as producer:
        sent = [await producer.send("aio", b"%d" % number, partition=number % 4) for number in range(2000)]
        await asyncio.gather(*sent)
    consumer = reader(address, "aiog", "aio")
    await consumer.start()
    seen = []

    async def poll():
        for records in (await consumer.getmany(timeout_ms=100)).values():
            seen.extend(int(record.value) for record in records)
        return len(seen) == 2000

    await until("everything is read", 30, poll)
    assert sorted(seen) == list(range(2000))
    await consumer.commit()
    other = await asyncio.create_subprocess_exec(sys.executable, __file__, "member", address, "aiog", "aio",
                                                 stdout=asyncio.subprocess.PIPE)
    assert (await other.stdout.readline()).strip() == b"2"

    async def owns(count):
        await poll()
        return len(consumer.assignment()) == count

    await until("the two share", 30, lambda: owns(2))
    other.send_signal(signal.SIGKILL)
    await other.wait()
    await until("the survivor has it all", 30, lambda: owns(4))
    committed = [await consumer.committed(TopicPartition("aio", index)) for index in range(4)]
    assert sum(committed) == 2000 and len(seen) == 2000, (committed, len(seen))
    await consumer.stop()


async def copy_in_transactions(address):
    source = reader(address, "aiocopy", "aio")
    producer = AIOKafkaProducer(bootstrap_servers=address, transactional_id="aio-copier")
    await source.start()
    await producer.start()
    moved, turn = 0, 0
    while moved < 2000:
        batches = await source.getmany(timeout_ms=200, max_records=150)
        if not batches:
            continue
        turn += 1
        await producer.begin_transaction()
        for records in batches.values():
            for record in records:
                await producer.send("aiocopied", record.value)
        offsets = {at: records[-1].offset + 1 for at, records in batches.items()}
        if turn % 3 == 0:
            await producer.abort_transaction()
            for at, records in batches.items():
                source.seek(at, records[0].offset)
            continue
        await producer.send_offsets_to_transaction(offsets, "aiocopy")
        await producer.commit_transaction()
        moved += sum(len(records) for records in batches.values())
    assert turn >= 3, turn
    await producer.stop()
    await source.stop()
    target = reader(address, "aiocheck", "aiocopied", isolation_level="read_committed")
    await target.start()
    found = []

    async def poll():
        for records in (await target.getmany(timeout_ms=100)).values():
            found.extend(int(record.value) for record in records)
        return len(found) >= 2000

    await until("the copy is read", 30, poll)
    await poll()
    assert sorted(found) == list(range(2000)), len(found)
    await target.stop()


async def main(address):
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    await admin.create_topics([NewTopic("aio", 4, 1), NewTopic("aiocopied", 1, 1)])
    await read_as_group(address)
    await copy_in_transactions(address)
    await admin.delete_topics(["aio", "aiocopied"])
    await admin.close()
    print("all good")


asyncio.run(member(*sys.argv[2:]) if sys.argv[1] == "member" else main(sys.argv[1]))
